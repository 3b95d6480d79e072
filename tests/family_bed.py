"""What the tests of a board family do again and again: one whole provisioning without a line, and a refusal."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from board_contract import BoardContract, Stop
from cryptography.hazmat.primitives.serialization import Encoding
from test_ca import NUMBER, make_key, make_root, product

from station.boards import family
from station.boards.command_line import CommandLine
from station.ca import CertificateAuthority
from station.credentials import Credentials, Enrollment, examine
from station.faults import Fault, FaultError
from station.interfaces import Board
from station.model import ChainForm, FirstContact, KeyOrigin, KeyProof, KeyType, Product
from station.sim.jig import SimJig
from station.transcript import Transcript


def product_of(name: str, options: dict[str, Any], **changes: Any) -> Product:
    """A product of the family, its options read as a product file's are."""
    made = replace(product(KeyType.P256), driver=name, options=family(name).options.model_validate(options))
    return replace(made, **{"key_origin": KeyOrigin.BOARD, "first_contact": FirstContact.NONE, **changes})


def certified(enrollment: Enrollment, made: Product, subject: str) -> Credentials:
    """Credentials as the line makes them, from a CA of the test's own."""
    key = make_key(KeyType.P256)
    root = make_root(key, since=datetime.now(UTC) - timedelta(days=1))
    chain = CertificateAuthority(root, key).issue(enrollment.csr, subject, made, NUMBER)
    return Credentials(chain, root.public_bytes(Encoding.PEM), enrollment.private_key, made.chain_form)


def provisioned(board: Board, made: Product, transcript: Transcript | None = None) -> KeyProof:
    """All that a run does with a board, but for the dial; whatever comes of it, no key is in transcript or fault."""
    unit = board.identify()
    enrollment = board.enroll(unit.serial)
    credentials = certified(enrollment, made, unit.serial)
    try:
        board.install(credentials)
        board.reset()
        assert board.identify() == unit
        nonce = secrets.token_bytes(32)
        return examine(board.inspect(nonce), credentials, nonce)
    except FaultError as error:
        if transcript is not None:
            transcript.note(f"ended: {error.detail}")
        raise
    finally:
        if transcript is not None and credentials.private_key is not None:
            BoardContract().nothing_of_the_key_is_in(transcript, credentials)


def refusal(call: Callable[[], object], *faults: Fault) -> str:
    """The detail of the fault that the call ends in, which must be one of these."""
    with pytest.raises(FaultError) as error:
        call()
    assert error.value.fault in faults, error.value
    return error.value.detail


def less_patience(monkeypatch: pytest.MonkeyPatch, name: str, expected: Fault) -> None:
    """Wait less for a board that is expected to be silent: nothing else can come of it."""
    if expected is Fault.UNIT_SILENT:
        less = {"SYNC": 0.5, "SHORT": 0.8, "STORE": 0.8, "KEYGEN": 0.8, "RESTART": 1.0}
        # And as micropython and linux call it.
        less |= {"PROMPT": 0.5, "LONG": 0.8, "LOGIN": 2.0, "KEY": 0.8}
        for what, seconds in less.items():
            monkeypatch.setattr(f"station.boards.{name}._{what}_S", seconds, raising=False)
            monkeypatch.setattr(CommandLine, f"{what}_S", seconds, raising=False)


class Bed:
    """Plugs simulated boards of one family in and opens them."""

    def __init__(self, folder: Path, jig: SimJig, name: str, identity: dict[str, Any]) -> None:
        self.folder, self.stop, self.transcript = folder, Stop(), Transcript()
        self._jig, self._name, self._identity = jig, name, identity
        self.driver = name
        self._opened: list[Board] = []

    def open(self, made: Product, *faults: str, place: str = "", **more: Any) -> Board:
        """Plug a board with these faults in and open it, at a new port where no ``place`` is named."""
        port = self.folder / (place or f"port{len(self._opened)}")
        self.plugged = self._jig.plug(port, **self._identity, family=self._name, faults=faults, **more)
        self._opened.append(family(self.driver).driver(str(port), made, self.stop, self.transcript))
        return self._opened[-1]

    def lift(self) -> None:
        """Take out the board that was plugged in last."""
        self.plugged.lift()

    def close(self) -> None:
        for board in self._opened:
            board.close()


@contextmanager
def bed(folder: Path, name: str, **identity: str) -> Iterator[Bed]:
    """A jig for one test."""
    with SimJig(folder) as jig:
        made = Bed(folder, jig, name, identity)
        try:
            yield made
        finally:
            made.close()


LEAF = {"chain_form": ChainForm.LEAF}
