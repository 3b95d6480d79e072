"""What every board family must do: subclass `BoardContract` in the family's test and say how a board is plugged in.

The sequence relies on nothing else. See ``docs/new-board.md`` and ``interfaces.Board``.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from test_ca import NUMBER, make_key, make_root, product

from station.ca import CertificateAuthority
from station.credentials import Credentials, Enrollment, examine
from station.faults import Fault, FaultError
from station.interfaces import Board, BoardDriver
from station.model import Call, ChainForm, Ending, FirstContact, KeyOrigin, KeyProof, KeyType, Product
from station.transcript import Transcript


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


def _pieces(text: bytes, size: int) -> list[bytes]:
    return [text[at : at + size] for at in range(0, len(text) - size, size // 2)]


class BoardContract:
    """Subclass it, and give `driver` and `port`; and the others where your family is otherwise."""

    driver: ClassVar[BoardDriver]
    model = "demo-board"
    serial, chip = "SN-1", "CHIP-1"
    keys: ClassVar = [(origin, kind) for origin in KeyOrigin for kind in (KeyType.P256, KeyType.P384, KeyType.RSA2048)]
    form = ChainForm.LEAF_CA
    options: Any = None
    dials = True
    roots = True  # whether the family shows after a reset which server roots it holds
    proofs: ClassVar = dict.fromkeys(KeyOrigin, KeyProof.SIGNED)  # how the family shows its key

    @pytest.fixture
    def port(self) -> str:
        """The port of a good board of `model`, `serial` and `chip`, plugged in for this test."""
        raise AssertionError("a family says how its boards are plugged in")

    @pytest.fixture
    def stop(self) -> Stop:
        return Stop()

    @pytest.fixture
    def transcript(self) -> Transcript:
        return Transcript()

    @pytest.fixture
    def open_board(self, port: str, stop: Stop, transcript: Transcript) -> Iterator[Open]:
        opened: list[Board] = []

        def open_it(made: Product) -> Board:
            opened.append(type(self).driver(port, made, stop, transcript))
            return opened[-1]

        yield open_it
        for board in opened:
            board.close()

    def product(self, key_type: KeyType | None = None, origin: KeyOrigin | None = None) -> Product:
        first_origin, first_type = self.keys[0]
        by_board = (origin or first_origin) is KeyOrigin.BOARD
        return replace(
            product(key_type or first_type),
            key_origin=origin or first_origin,
            model=self.model,
            chain_form=self.form,
            options=self.options,
            first_contact=FirstContact.BOARD if by_board and self.dials else FirstContact.STATION,
        )

    def certified(self, enrollment: Enrollment, made: Product | None = None) -> Credentials:
        """Credentials as the line makes them, from a CA of the test's own."""
        key = make_key(KeyType.P256)
        root = make_root(key, since=datetime.now(UTC) - timedelta(days=1))
        chain = CertificateAuthority(root, key).issue(enrollment.csr, "SN-1", made or self.product(), NUMBER)
        return Credentials(chain, root.public_bytes(Encoding.PEM), enrollment.private_key, self.form)

    def test_a_board_says_who_it_is_as_often_as_it_is_asked(self, open_board: Open) -> None:
        board = open_board(self.product())
        first = board.identify()
        assert (first.serial, first.chip_id, first.model) == (self.serial, self.chip, self.model)
        assert board.identify() == first

    def test_what_was_installed_is_there_after_a_reset_and_its_key_is_shown(
        self, open_board: Open, origin: KeyOrigin, key_type: KeyType, transcript: Transcript
    ) -> None:
        made = self.product(key_type, origin)
        board = open_board(made)
        board.identify()
        enrollment = board.enroll("SN-1")
        assert (enrollment.private_key is None) is (origin is KeyOrigin.BOARD)
        credentials = self.certified(enrollment, made)
        board.install(credentials)
        board.reset()
        assert board.identify().serial == self.serial
        nonce = secrets.token_bytes(32)
        evidence = board.inspect(nonce)
        assert examine(evidence, credentials, nonce) is self.proofs[origin]
        # A dial of the board's own shows its roots too: it connects with none that it does not trust.
        assert evidence.roots is not None or not self.roots or made.first_contact is FirstContact.BOARD
        other = replace(credentials, chain=(credentials.chain[1], credentials.chain[1]))
        with pytest.raises(FaultError):
            examine(evidence, other, nonce)
        if enrollment.private_key is not None:
            self.nothing_of_the_key_is_in(transcript, credentials)

    def nothing_of_the_key_is_in(self, transcript: Transcript, credentials: Credentials) -> None:
        """Neither as it is, nor in hex, nor in base64, wherever a line of it may be cut; nor in base64 of that."""
        said = b"".join(entry.data for entry in transcript.entries())
        numbers = credentials.private_key.private_numbers() if credentials.private_key else None
        secret = numbers.private_value if isinstance(numbers, ec.EllipticCurvePrivateNumbers) else numbers.p  # type: ignore[union-attr]
        raw = secret.to_bytes((secret.bit_length() + 7) // 8, "big")
        assert not any(piece in said for piece in _pieces(raw, 8))
        assert not any(piece in said.lower() for piece in _pieces(raw.hex().encode(), 16))
        for text in (base64.b64encode(raw[at:]) for at in range(3)):
            for piece in _pieces(text, 12):
                assert piece not in said
                # The ends of what was encoded in another place of its text are other characters.
                assert all(base64.b64encode(piece[at:])[4:12] not in said for at in range(3))

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """The key types and origins that the family names."""
        if "key_type" in metafunc.fixturenames:
            metafunc.parametrize(("origin", "key_type"), self.keys)

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
        assert not any(held.value for held in board.inspect(secrets.token_bytes(32)).chain)

    def test_a_dial_that_reaches_nobody_is_reported_not_raised(self, open_board: Open) -> None:
        if not self.dials:
            pytest.skip("boards of this family cannot dial")
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
