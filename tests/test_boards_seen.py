"""What a server sees of the chain that boards send by themselves: real TLS, and real firmware where we have it.

The server trusts the root above the issuing CA, as a stranger would, or the issuing CA itself, as AWS IoT does once it
is registered.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from test_boards_troubles import made_for, plugged
from test_ca import make_key
from test_line_tls import server_certificate

from station.ca import CertificateAuthority, issuing_certificate, self_signed_root
from station.ca.authorities import authority_name
from station.credentials import Credentials, Enrollment
from station.model import Call, ChainForm, Ending, KeyOrigin, KeyType, Product

PATIENCE_S = 20.0
CONNACK, PUBACK = b"\x20\x02\x00\x00", b"\x40\x02\x00\x01"


class Server:
    """Takes one connection to its end. ``sent`` is how many certificates came, None where the handshake failed."""

    def __init__(self, folder: Path, trusted: Path, *, partial: bool) -> None:
        self.sent: int | None = None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        context.load_verify_locations(trusted)
        context.verify_mode = ssl.CERT_REQUIRED
        if partial:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE_S)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(context,))
        self._thread.start()

    def end(self) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self, context: ssl.SSLContext) -> None:
        raw, _ = self._listener.accept()
        raw.settimeout(PATIENCE_S)
        try:
            with context.wrap_socket(raw, server_side=True) as link:
                link.read()
                self.sent = len(link._sslobj.get_unverified_chain())  # type: ignore[attr-defined] # public in 3.13
                link.write(CONNACK)
                link.write(PUBACK)
                while link.read():
                    pass
        except (ssl.SSLError, OSError):
            raw.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    servers: list[Server] = []

    def make(enrollment: Enrollment, product: Product, *, partial: bool) -> tuple[Credentials, Server]:
        root_key, key, since = make_key(KeyType.P256), make_key(KeyType.P256), datetime.now(UTC) - timedelta(days=1)
        names = {"common_name": "Root", "organization": "Example", "country": None}
        numbers = {"number": secrets.randbits(120), "not_before": since}
        root = self_signed_root(root_key, **names, days=500, path_length=1, **numbers)  # type: ignore[arg-type]
        subject = authority_name("Issuing", "Example", None)
        below = {"days": 480, "path_length": 0, **numbers}
        issuing = issuing_certificate(key.public_key(), subject, root, root_key, **below)  # type: ignore[arg-type]
        chain = CertificateAuthority(issuing, key).issue(enrollment.csr, "SN-1", product, secrets.randbits(120))
        server_certificate(tmp_path / "server", "localhost")
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes((issuing if partial else root).public_bytes(Encoding.PEM))
        servers.append(Server(tmp_path / "server", trusted, partial=partial))
        roots = (tmp_path / "server" / "roots.pem").read_bytes()
        return Credentials(chain, roots, enrollment.private_key, product.chain_form), servers[-1]

    yield make
    for server in servers:
        server.end()


@dataclass(frozen=True)
class Case:
    name: str
    ending: Ending
    sent: int | None
    partial: bool = False
    form: ChainForm = ChainForm.LEAF_CA
    dialler: str = ""


CASES = [
    Case("console", Ending.ACKNOWLEDGED, 2),
    Case("linux", Ending.ACKNOWLEDGED, 2, dialler="openssl"),
    Case("linux", Ending.ACKNOWLEDGED, 2, dialler="openssl", form=ChainForm.TWO_SLOTS),
    Case("linux", Ending.ACKNOWLEDGED, 2, dialler="mosquitto"),
    # MicroPython's TLS sends the leaf alone: nothing but a connection finds out.
    Case("micropython", Ending.ACKNOWLEDGED, 1, partial=True, form=ChainForm.LEAF),
    Case("micropython", Ending.DROPPED, None, form=ChainForm.LEAF),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.form}{case.dialler}-{case.ending}")
def test_a_server_sees_as_much_of_the_chain_as_the_family_says(made: Any, tmp_path: Path, case: Case) -> None:
    if case.name == "linux" and os.geteuid() != 0:
        pytest.skip("a chroot with a login in it needs root")
    product = replace(made_for(case.name, tmp_path), chain_form=case.form, key_origin=KeyOrigin.BOARD)
    if case.dialler:
        product = replace(product, options=product.options.model_copy(update={"dialler": case.dialler}))
    with plugged(case.name, tmp_path) as slot:
        board = slot.open(product, place="slot")
        board.identify()
        credentials, server = made(board.enroll("SN-1"), product, partial=case.partial)
        board.install(credentials)
        assert board.dial(Call("localhost", server.port, "SN-1", "a/b", b"x", timeout_s=10)) is case.ending
        server.end()
        assert server.sent == case.sent
