"""What every board family must do: subclass `BoardContract` in the family's test and say how a board is plugged in.

The sequence relies on nothing else. See ``docs/new-board.md`` and ``interfaces.Board``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from test_ca import NUMBER, make_key, make_root, product

from station.ca import CertificateAuthority
from station.faults import Fault, FaultError
from station.interfaces import Board, BoardDriver
from station.model import (
    Call,
    Credentials,
    Ending,
    Enrollment,
    KeyOrigin,
    KeyType,
    Product,
    possession_message,
)


class Stop:
    """A run's stop that a test pulls."""

    def __init__(self) -> None:
        self.reason: Fault | None = None

    def check(self) -> None:
        if self.reason is not None:
            raise FaultError(self.reason, "pulled by the test")

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check()
            time.sleep(min(0.01, seconds))


Open = Callable[[Product], Board]


class BoardContract:
    """Subclass it, and give the two below."""

    driver: BoardDriver
    model = "demo-board"

    @pytest.fixture
    def port(self) -> str:
        """The port of a good board of `model` with serial SN-1 and chip id CHIP-1, plugged in for this test."""
        raise AssertionError("a family says how its boards are plugged in")

    @pytest.fixture
    def stop(self) -> Stop:
        return Stop()

    @pytest.fixture
    def open_board(self, port: str, stop: Stop) -> Iterator[Open]:
        opened: list[Board] = []

        def open_it(made: Product) -> Board:
            opened.append(type(self).driver(port, made, stop))
            return opened[-1]

        yield open_it
        for board in opened:
            board.close()

    def product(self, key_type: KeyType = KeyType.P256, origin: KeyOrigin = KeyOrigin.BOARD) -> Product:
        return replace(product(key_type), key_origin=origin, model=self.model)

    def certified(self, enrollment: Enrollment, key_type: KeyType = KeyType.P256) -> Credentials:
        """Credentials as the line makes them, from a CA of the test's own."""
        key = make_key(KeyType.P256)
        root = make_root(key, since=datetime.now(UTC) - timedelta(days=1))
        chain = CertificateAuthority(root, key).issue(enrollment.csr, "SN-1", self.product(key_type), NUMBER)
        return Credentials(chain, root.public_bytes(Encoding.PEM), enrollment.private_key)

    def test_a_board_says_who_it_is_as_often_as_it_is_asked(self, open_board: Open) -> None:
        board = open_board(self.product())
        first = board.identify()
        assert (first.serial, first.chip_id, first.model) == ("SN-1", "CHIP-1", self.model)
        assert board.identify() == first

    @pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.P384, KeyType.RSA2048])
    @pytest.mark.parametrize("origin", KeyOrigin)
    def test_what_was_installed_is_there_after_a_reset_and_its_key_signs(
        self, open_board: Open, key_type: KeyType, origin: KeyOrigin
    ) -> None:
        board = open_board(self.product(key_type, origin))
        board.identify()
        enrollment = board.enroll("SN-1")
        assert (enrollment.private_key is None) is (origin is KeyOrigin.BOARD)
        credentials = self.certified(enrollment, key_type)
        board.install(credentials)
        board.reset()
        assert board.identify().serial == "SN-1"
        nonce = secrets.token_bytes(32)
        evidence = board.inspect(nonce)
        assert evidence.chain_pem == credentials.chain_pem
        key, message = credentials.leaf.public_key(), possession_message(nonce)
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(evidence.proof, message, ec.ECDSA(hashes.SHA256()))
        else:
            assert isinstance(key, rsa.RSAPublicKey)
            key.verify(evidence.proof, message, padding.PKCS1v15(), hashes.SHA256())

    def test_a_csr_is_for_the_subject_that_was_asked(self, open_board: Open) -> None:
        board = open_board(self.product())
        board.identify()
        request = x509.load_der_x509_csr(board.enroll("SN-77").csr)
        assert request.is_signature_valid
        assert request.subject.rfc4514_string() == "CN=SN-77"

    def test_each_enrollment_makes_a_new_key(self, open_board: Open) -> None:
        board = open_board(self.product())
        board.identify()
        first, second = (x509.load_der_x509_csr(board.enroll("SN-1").csr).public_key() for _ in range(2))
        assert first != second

    def test_a_board_that_holds_nothing_says_so(self, open_board: Open) -> None:
        board = open_board(self.product())
        board.identify()
        assert board.inspect(secrets.token_bytes(32)).chain_pem == b""

    def test_a_dial_that_reaches_nobody_is_reported_not_raised(self, open_board: Open) -> None:
        board = open_board(self.product())
        board.identify()
        board.install(self.certified(board.enroll("SN-1")))
        call = Call("localhost", 1, "SN-1", "a/b", b"x", timeout_s=2)
        assert board.dial(call) is Ending.UNREACHABLE

    @pytest.mark.parametrize("method", ["identify", "enroll", "reset", "inspect"])
    def test_a_stop_is_heard_in_every_method(self, open_board: Open, stop: Stop, method: str) -> None:
        board = open_board(self.product())
        board.identify()
        board.enroll("SN-1")
        stop.reason = Fault.LIFTED
        arguments: dict[str, Any] = {"enroll": ["SN-1"], "inspect": [bytes(32)]}
        with pytest.raises(FaultError) as error:
            getattr(board, method)(*arguments.get(method, []))
        assert error.value.fault is Fault.LIFTED

    def test_a_port_is_held_by_one_run_alone(self, open_board: Open) -> None:
        open_board(self.product())
        with pytest.raises(FaultError) as error:
            open_board(self.product())
        assert error.value.fault is Fault.PORT_DENIED

    def test_closing_twice_harms_nobody(self, open_board: Open) -> None:
        board = open_board(self.product())
        board.close()
        board.close()
        open_board(self.product()).identify()
