"""The simulated board dials a small TLS server of this file, which ends the connection in each way there is."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from board_host import PATIENCE_S, Answer, Bench, Host, b64
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

HOST = "iot.test"
NOT_BEFORE = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
CONNACK, REFUSAL, PUBACK = b"\x20\x02\x00\x00", b"\x20\x02\x00\x05", b"\x40\x02\x00\x01"


@dataclass(frozen=True)
class Holder:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certify(name: str, by: Holder | None = None, *, ca: bool = True) -> Holder:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_BEFORE.replace(year=2120))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return Holder(builder.sign(by.key if by else key, SHA256()), key)


ROOT = certify("Root of the devices")
CA = certify("Device CA", ROOT)
DEVICE = certify("SN-1", CA, ca=False)
CLOUD_ROOT = certify("Root of the cloud")
STRANGER = certify("Root of a stranger")


@dataclass
class Server:
    """Takes one connection, notes what came, answers each packet by the next of ``replies``, and ends it by ``end``."""

    folder: Path
    replies: tuple[bytes, ...] = (CONNACK, PUBACK)
    end: str = "close"
    name: str = HOST
    trusted: Holder = ROOT
    tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    seen: dict[str, Any] = field(default_factory=dict)
    packets: list[bytes] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE_S)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._listener.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = self.tls
        own = certify(self.name, CLOUD_ROOT, ca=False)
        file = self.folder / "server.pem"
        file.write_bytes(own.pem + own.key_pem)
        context.load_cert_chain(file)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.trusted.pem.decode())
        context.set_alpn_protocols(["x-amzn-mqtt-ca"])
        context.sni_callback = lambda _, name, __: self.seen.update(sni=name)
        return context

    def _serve(self) -> None:
        context = self._context()
        plain, _ = self._listener.accept()
        plain.settimeout(PATIENCE_S)
        with plain:
            if self.end == "mute":
                self._over.wait(PATIENCE_S)
                return
            try:
                with context.wrap_socket(plain, server_side=True) as secure:
                    self._talk(secure)
            except OSError as error:
                self.seen["error"] = error

    def _talk(self, secure: ssl.SSLSocket) -> None:
        self.seen["alpn"] = secure.selected_alpn_protocol()
        for reply in self.replies:
            self.packets.append(packet(secure))
            secure.sendall(reply)
        if self.end == "silence":
            self._over.wait(PATIENCE_S)
        elif self.end == "reset":
            self.packets.append(packet(secure))
            secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif self.end == "close-after-next":
            self.packets.append(packet(secure))
        elif self.end == "stay":
            self.packets.append(packet(secure))
            self.seen["after"] = secure.recv(16)


def packet(secure: ssl.SSLSocket) -> bytes:
    """One MQTT packet; ours are all shorter than 128 bytes."""
    head = secure.recv(2)
    return head + (secure.recv(head[1]) if len(head) == 2 and head[1] else b"")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


def provision(host: Host, roots: bytes = CLOUD_ROOT.pem) -> Host:
    host.install("key", DEVICE.key_pem)
    host.install("chain", DEVICE.pem + CA.pem)
    host.install("roots", STRANGER.pem + roots)
    return host


def dial(board: Host, **other: str | int) -> Answer:
    values: dict[str, str | int] = {
        "host": HOST,
        "port": 8883,
        "client": "SN-1",
        "topic": "foo/bar",
        "payload": b64(b"Hello"),
        "timeout": 5_000,
        "hold": 0,
    }
    return board.ask("dial", **values | other)


def ending(board: Host, **other: str | int) -> str:
    return dial(board, **other).fields["ending"]


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_publish_is_acknowledged_with_the_whole_chain_and_the_name_sent(
    bench: Bench, tmp_path: Path, tls: ssl.TLSVersion
) -> None:
    # The server trusts the root alone, so it finds the leaf good only if the CA between came with it.
    with Server(tmp_path, tls=tls, end="stay", name="eu.iot.test") as server:
        host = provision(bench.plug(server_address=server.address))
        answer = dial(host, host="eu.iot.test")
    assert (answer.fields["ending"], server.seen) == (
        "acknowledged",
        {"sni": "eu.iot.test", "alpn": None, "after": b""},
    )
    assert answer.waits >= 1
    connect, publish, disconnect = server.packets
    assert (connect[:10], connect[12:]) == (b"\x10\x10\x00\x04MQTT\x04\x02", b"\x00\x04SN-1")
    assert publish == b"\x32\x10\x00\x07foo/bar\x00\x01Hello"
    assert disconnect == b"\xe0\x00"


@pytest.mark.parametrize(("port", "more"), [(443, {}), (8443, {"alpn_port": 8443})])
def test_the_alpn_of_aws_is_sent_on_its_port_only(
    bench: Bench, tmp_path: Path, port: int, more: dict[str, int]
) -> None:
    with Server(tmp_path) as server:
        host = provision(bench.plug(server_address=server.address, **more))
        assert ending(host, port=port) == "acknowledged"
    assert server.seen["alpn"] == "x-amzn-mqtt-ca"


@pytest.mark.parametrize(
    ("replies", "end", "expected"),
    [
        ((), "close", "dropped"),
        ((), "close-after-next", "dropped"),
        ((), "reset", "dropped"),
        ((b"\xd0\x00",), "close", "dropped"),
        ((b"\x20\xff\xff\xff\x7f",), "silence", "dropped"),
        ((REFUSAL,), "close", "refused"),
        ((CONNACK,), "close", "unacknowledged"),
        ((CONNACK,), "close-after-next", "unacknowledged"),
        ((CONNACK,), "reset", "unacknowledged"),
        ((CONNACK, b"\x40\x02\x00\x02"), "close", "unacknowledged"),
    ],
)
def test_how_the_server_ends_it_is_how_the_board_reports_it(
    bench: Bench, tmp_path: Path, replies: tuple[bytes, ...], end: str, expected: str
) -> None:
    with Server(tmp_path, replies, end) as server:
        host = provision(bench.plug(server_address=server.address))
        assert ending(host) == expected


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_tls_alert_over_the_boards_certificate_is_a_drop(bench: Bench, tmp_path: Path, tls: ssl.TLSVersion) -> None:
    with Server(tmp_path, tls=tls, trusted=STRANGER) as server:
        host = provision(bench.plug(server_address=server.address))
        answer = dial(host)
    assert answer.fields["ending"] == "dropped"
    if tls is ssl.TLSVersion.TLSv1_2:
        # In TLS 1.3 the board's CONNECT is on its way already, and the reset that it meets may overtake the alert.
        assert b"alert" in answer.blob("text").lower()


@pytest.mark.parametrize(
    ("replies", "end", "expected"),
    [((), "mute", "silent"), ((), "silence", "silent"), ((CONNACK,), "silence", "unacknowledged")],
)
def test_a_silent_server_ends_the_dial_at_its_timeout(
    bench: Bench, tmp_path: Path, replies: tuple[bytes, ...], end: str, expected: str
) -> None:
    with Server(tmp_path, replies, end) as server:
        host = provision(bench.plug(server_address=server.address))
        answer = dial(host, timeout=700)
    assert answer.fields["ending"] == expected
    assert answer.waits >= 2


def test_a_port_where_nobody_listens_is_unreachable(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    assert ending(provision(bench.plug(server_address=address))) == "unreachable"


@pytest.mark.parametrize(("name", "roots"), [(HOST, ROOT.pem), ("other.test", CLOUD_ROOT.pem)])
def test_a_server_of_another_root_or_name_is_untrusted(bench: Bench, tmp_path: Path, name: str, roots: bytes) -> None:
    with Server(tmp_path, name=name) as server:
        host = provision(bench.plug(server_address=server.address), roots)
        assert ending(host) == "untrusted"


@pytest.mark.parametrize(
    ("replies", "end", "expected"),
    [((CONNACK,), "stay", "acknowledged"), ((CONNACK,), "close", "unacknowledged")],
)
def test_a_hold_publishes_nothing_and_tells_whether_it_was_left_alone(
    bench: Bench, tmp_path: Path, replies: tuple[bytes, ...], end: str, expected: str
) -> None:
    with Server(tmp_path, replies, end) as server:
        host = provision(bench.plug(server_address=server.address))
        assert ending(host, hold=300) == expected
    assert [one[:1] for one in server.packets] == ([b"\x10", b"\xe0"] if end == "stay" else [b"\x10"])


def test_nothing_is_dialled_before_all_is_stored(bench: Bench) -> None:
    host = bench.plug()
    for item, data in (("key", DEVICE.key_pem), ("chain", DEVICE.pem), ("roots", CLOUD_ROOT.pem)):
        assert dial(host).code == "none"
        host.install(item, data)


@pytest.mark.parametrize(
    ("item", "data"), [("key", ROOT.key_pem), ("chain", b"no chain"), ("roots", b"no roots"), ("roots", b"\xff")]
)
def test_what_does_not_fit_together_is_failed(bench: Bench, item: str, data: bytes) -> None:
    host = provision(bench.plug())
    host.install(item, data)
    assert dial(host).code == "failed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "a..b"},
        {"host": "x" * 64},
        {"host": "a/b"},
        {"port": 0},
        {"port": 65_536},
        {"client": "x" * 129},
        {"payload": "="},
        {"timeout": 0},
        {"timeout": 600_001},
        {"hold": "1s"},
    ],
)
def test_a_dial_out_of_its_form_is_refused(bench: Bench, wrong: dict[str, str | int]) -> None:
    assert dial(bench.plug("dial-ending=acknowledged"), **wrong).code == "args"
