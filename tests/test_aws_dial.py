"""One connection to AWS IoT ends in exactly one word, in time, and leaves nothing behind."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aws_units import Contact, contact, raises
from cloud import OPEN_POLICY, ProviderCA, SimCloud, activate, make_ca, provider_ca
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from station.faults import Fault
from station.model import CertificateStatus, Ending


@pytest.fixture(scope="module")
def ca(shared_cloud: SimCloud) -> ProviderCA:
    return provider_ca(shared_cloud)


@pytest.fixture
def unit(cloud: SimCloud, ca: ProviderCA, tmp_path: Path) -> Contact:
    return contact(cloud, ca, tmp_path, None)


@pytest.fixture(scope="module")
def activated(shared_cloud: SimCloud, ca: ProviderCA, tmp_path_factory: pytest.TempPathFactory) -> Contact:
    unit = contact(shared_cloud, ca, tmp_path_factory.mktemp("activated"), None)
    assert unit.dial(unit.call) is Ending.DROPPED
    with closing(shared_cloud.boto()) as api:
        activate(api, unit.device, OPEN_POLICY)
    return unit


@pytest.fixture
def active(cloud: SimCloud, activated: Contact) -> Contact:
    return activated


@contextmanager
def listener() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server, server.getsockname()[1]


def test_a_leaf_alone_is_not_dialled_with(unit: Contact) -> None:
    alone = replace(unit.credentials, chain=(unit.device.leaf,))
    with raises(Fault.CHAIN_INCOMPLETE, "leaf and CA are to be sent"):
        unit.cloud.dial(alone, unit.call)


@pytest.mark.parametrize("wrong", ["order", "another CA"])
def test_a_chain_that_does_not_fit_together_is_named_before_any_network(unit: Contact, wrong: str) -> None:
    leaf, ca = unit.credentials.chain
    chain = (ca, leaf) if wrong == "order" else (leaf, make_ca().certificate)
    with raises(Fault.CHAIN_INCOMPLETE, "did not issue"):
        unit.cloud.dial(replace(unit.credentials, chain=chain), replace(unit.call, endpoint="no-such-host.invalid"))


@pytest.mark.parametrize("key", ["another's", "none"])
def test_a_key_that_is_not_the_leafs_is_named_before_any_network(
    unit: Contact, cloud: SimCloud, ca: ProviderCA, tmp_path: Path, key: str
) -> None:
    other = contact(cloud, ca, tmp_path, None).credentials.private_key if key == "another's" else None
    with raises(Fault.CHAIN_INCOMPLETE, "not the leaf's"):
        unit.cloud.dial(replace(unit.credentials, private_key=other), unit.call)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_as_endpoint_is_named_since_it_cannot_be_told_by_sni(unit: Contact, address: str) -> None:
    with raises(Fault.CHAIN_INCOMPLETE, "SNI"):
        unit.dial(replace(unit.call, endpoint=address))


@pytest.mark.parametrize("roots", [b"", b"no PEM", b"\xff\xfe"])
def test_server_roots_that_are_none_are_named(unit: Contact, roots: bytes) -> None:
    with raises(Fault.CLOUD_UNTRUSTED, "not readable"):
        unit.cloud.dial(replace(unit.credentials, server_roots=roots), unit.call)


@pytest.mark.parametrize("tls_1_2", [False, True], ids=["TLS 1.3", "TLS 1.2"])
def test_the_first_connection_is_dropped_and_registers_the_second_is_acknowledged(
    cloud: SimCloud, unit: Contact, api: Any, tls_1_2: bool
) -> None:
    cloud.troubles(tls_1_2=tls_1_2)
    assert unit.status() is None
    assert unit.dial(unit.call) is Ending.DROPPED
    assert unit.status() is CertificateStatus.PENDING_ACTIVATION
    assert unit.dial(unit.call) is Ending.DROPPED
    activate(api, unit.device, OPEN_POLICY)
    assert unit.dial(unit.call) is Ending.ACKNOWLEDGED


def test_port_443_is_spoken_to_with_alpn(cloud: SimCloud, active: Contact) -> None:
    call = replace(active.call, port=cloud.alpn_port)
    assert replace(active.cloud, alpn=True).dial(active.credentials, call) is Ending.ACKNOWLEDGED
    assert active.dial(call) is Ending.DROPPED


@pytest.mark.parametrize("tls_1_2", [False, True], ids=["TLS 1.3", "TLS 1.2"])
@pytest.mark.parametrize(
    ("trouble", "ending"),
    [
        ("close", Ending.DROPPED),
        ("reset", Ending.DROPPED),
        ("alert-in-handshake", Ending.DROPPED),
        ("alert-after-handshake", Ending.DROPPED),
        ("close-after-handshake", Ending.DROPPED),
        ("registered-reset", Ending.DROPPED),
        ("connack-5", Ending.REFUSED),
        ("connack-then-close", Ending.UNACKNOWLEDGED),
        ("connack-no-puback", Ending.UNACKNOWLEDGED),
        ("silent", Ending.SILENT),
        ("silent-after-handshake", Ending.SILENT),
        ("registered-silent", Ending.SILENT),
        ("other-root", Ending.UNTRUSTED),
        ("pass", Ending.ACKNOWLEDGED),
    ],
)
def test_each_ending_has_its_word_comes_in_time_and_leaves_nothing_behind(
    cloud: SimCloud, active: Contact, trouble: str, ending: Ending, tls_1_2: bool
) -> None:
    cloud.troubles(endings=[trouble], tls_1_2=tls_1_2)
    before, began = (open_files(), threading.active_count()), time.monotonic()
    assert active.dial(active.call) is ending
    assert time.monotonic() - began < active.call.timeout_s + 0.3
    assert (open_files(), threading.active_count()) == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_server_of_another_name_is_not_trusted(unit: Contact, tmp_path: Path) -> None:
    roots, server_pem = server_of("other.example", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_pem)
    with listener() as (server, port):

        def serve() -> None:
            peer, _ = server.accept()
            with suppress(OSError), peer, context.wrap_socket(peer, server_side=True) as tls:
                tls.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        ending = unit.cloud.dial(replace(unit.credentials, server_roots=roots), replace(unit.call, port=port))
        assert ending is Ending.UNTRUSTED
        thread.join()


def server_of(name: str, folder: Path) -> tuple[bytes, Path]:
    """A root, and a file with a server's certificate under it and its key."""
    root, key, now = make_ca(), ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(root.certificate.subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(root.key, SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "server.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    return root.pem.encode(), file


def test_a_connection_that_is_held_stays_without_a_publish(cloud: SimCloud, active: Contact) -> None:
    cloud.troubles(endings=["connack-no-puback"])
    began = time.monotonic()
    assert active.dial(replace(active.call, hold_s=0.3)) is Ending.ACKNOWLEDGED
    assert time.monotonic() - began >= 0.3


def test_a_second_client_of_the_same_id_ends_the_first(active: Contact) -> None:
    endings: list[Ending] = []
    first = threading.Thread(target=lambda: endings.append(active.dial(replace(active.call, hold_s=5.0))))
    first.start()
    deadline = time.monotonic() + 5
    while first.is_alive() and time.monotonic() < deadline:
        active.dial(active.call)
        first.join(0.05)
    first.join()
    assert endings == [Ending.UNACKNOWLEDGED]


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64])
def test_a_name_that_nobody_has_is_unreachable(unit: Contact, host: str) -> None:
    assert unit.dial(replace(unit.call, endpoint=host)) is Ending.UNREACHABLE


def test_a_port_where_nobody_listens_is_unreachable(unit: Contact) -> None:
    with listener() as (_, port):
        pass
    assert unit.dial(replace(unit.call, port=port)) is Ending.UNREACHABLE


def test_a_listener_that_takes_no_connection_is_unreachable_in_time(unit: Contact) -> None:
    with socket.socket() as full, socket.socket() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # its queue takes one, and nobody accepts
        waiting.connect(full.getsockname())
        began = time.monotonic()
        assert unit.dial(replace(unit.call, port=full.getsockname()[1])) is Ending.UNREACHABLE
        assert time.monotonic() - began < unit.call.timeout_s + 0.3


def test_a_server_that_trickles_its_handshake_cannot_stretch_the_dial(unit: Contact) -> None:
    with listener() as (server, port):

        def trickle() -> None:
            peer, _ = server.accept()
            with peer:
                try:
                    for byte in b"\x16\x03\x03\x40\x00" + bytes(2000):  # one long handshake record
                        peer.sendall(bytes([byte]))
                        time.sleep(0.02)
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        assert unit.dial(replace(unit.call, port=port)) is Ending.SILENT
        assert time.monotonic() - began < unit.call.timeout_s + 0.3
        thread.join()


def test_a_server_that_does_not_speak_tls_is_a_drop(unit: Contact) -> None:
    with listener() as (server, port):

        def speak() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                peer.recv(4096)

        thread = threading.Thread(target=speak)
        thread.start()
        assert unit.dial(replace(unit.call, port=port)) is Ending.DROPPED
        thread.join()
