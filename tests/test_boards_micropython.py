"""The family `micropython`, against the real MicroPython behind a relay that garbles, cuts and slows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from board_contract import BoardContract, Open, Stop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

from station.boards.micropython import FAMILY, MicroPythonBoard, Options
from station.credentials import Credentials, examine
from station.faults import Fault, FaultError
from station.fit import misfits
from station.model import Call, ChainForm, Ending, KeyOrigin, KeyProof, KeyType, Product
from station.sim.jig import PluggedBoard, SimJig
from station.transcript import Transcript

Plug = Callable[..., PluggedBoard]


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[Plug]:
    with SimJig(tmp_path) as jig:

        def plugged(*faults: str, baud_bytes: int = 0) -> PluggedBoard:
            named = {"serial": "SN-1", "chip": "CHIP-1", "model": "demo-board", "family": "micropython"}
            return jig.plug(tmp_path / "port", faults=faults, baud_bytes=baud_bytes, **named)  # type: ignore[arg-type]

        yield plugged


class TestContract(BoardContract):
    driver = MicroPythonBoard
    form = ChainForm.LEAF
    # The real board's file system begins at its root; here it is the process's own folder.
    options = Options(identity="module", folder=".")
    proofs: ClassVar = {KeyOrigin.BOARD: KeyProof.SIGNED, KeyOrigin.STATION: KeyProof.DIGEST}
    keys: ClassVar = [
        (KeyOrigin.BOARD, KeyType.P256),
        (KeyOrigin.STATION, KeyType.P256),
        (KeyOrigin.STATION, KeyType.RSA2048),
    ]

    @pytest.fixture
    def port(self, tmp_path: Path, plug: Plug) -> str:
        plug()
        return str(tmp_path / "port")

    def installed(self, open_board: Open, made: Product) -> tuple[MicroPythonBoard, Credentials]:
        board = open_board(made)
        board.identify()
        credentials = self.certified(board.enroll("SN-1"), made)
        board.install(credentials)
        assert isinstance(board, MicroPythonBoard)
        return board, credentials

    def test_the_files_are_der_and_belong_together(self, open_board: Open, tmp_path: Path) -> None:
        _, credentials = self.installed(open_board, self.product())
        flash = tmp_path / "CHIP-1"
        leaf = x509.load_der_x509_certificate((flash / "cert.der").read_bytes())
        assert leaf == credentials.leaf
        key = load_der_private_key((flash / "key.der").read_bytes(), None)
        assert key.public_key() == leaf.public_key()
        assert (flash / "root0.der").read_bytes() == credentials.chain[1].public_bytes(Encoding.DER)
        assert not list(flash.glob("*.new"))


def opened(tmp_path: Path, transcript: Transcript | None = None) -> tuple[MicroPythonBoard, TestContract]:
    of = TestContract()
    return MicroPythonBoard(str(tmp_path / "port"), of.product(), Stop(), transcript or Transcript()), of


def test_a_firmware_without_raw_paste_is_given_its_code_in_pieces(plug: Plug, tmp_path: Path) -> None:
    plug("no-paste")
    board, of = opened(tmp_path)
    credentials = of.certified(board.enroll("SN-1"))
    board.install(credentials)
    assert examine(board.inspect(bytes(32)), credentials, bytes(32)) is KeyProof.SIGNED
    board.close()


def test_a_certificate_that_was_written_otherwise_is_not_kept(plug: Plug, tmp_path: Path) -> None:
    plug("flip")
    board, of = opened(tmp_path)
    with pytest.raises(FaultError) as error:
        board.install(of.certified(board.enroll("SN-1")))
    assert error.value.fault is Fault.INSTALL_REFUSED
    assert not (tmp_path / "CHIP-1" / "cert.der").exists()
    board.close()


def test_the_roots_are_read_back_and_none_of_a_former_installation_is_trusted(plug: Plug, tmp_path: Path) -> None:
    plug()
    board, of = opened(tmp_path)
    credentials = of.certified(board.enroll("SN-1"))
    board.install(replace(credentials, server_roots=credentials.server_roots * 3))
    board.install(credentials)
    flash = tmp_path / "CHIP-1"
    assert sorted(path.name for path in flash.glob("root*")) == ["root0.der"]
    assert examine(board.inspect(bytes(32)), credentials, bytes(32)) is KeyProof.SIGNED
    (flash / "root1.der").write_bytes((flash / "root0.der").read_bytes())
    with pytest.raises(FaultError) as error:
        examine(board.inspect(bytes(32)), credentials, bytes(32))
    assert error.value.fault is Fault.READBACK_DIFFERS
    (flash / "root1.der").unlink()
    (flash / "root0.der").write_bytes(b"another")
    with pytest.raises(FaultError) as error:
        examine(board.inspect(bytes(32)), credentials, bytes(32))
    assert error.value.fault is Fault.READBACK_DIFFERS
    board.close()


def test_a_board_that_loses_its_files_at_reset_holds_nothing(plug: Plug, tmp_path: Path) -> None:
    plug("forget")
    board, of = opened(tmp_path)
    credentials = of.certified(board.enroll("SN-1"))
    board.install(credentials)
    board.reset()
    with pytest.raises(FaultError) as error:
        examine(board.inspect(bytes(32)), credentials, bytes(32))
    assert error.value.fault is Fault.NOT_PERSISTENT
    board.close()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("silent", Fault.UNIT_SILENT), ("no-restart", Fault.UNIT_RESET)],
)
def test_boards_that_do_not_do_what_a_prompt_does(plug: Plug, tmp_path: Path, fault: str, expected: Fault) -> None:
    plug(fault)
    board, _ = opened(tmp_path)
    with pytest.raises(FaultError) as error:
        board.reset()
    assert error.value.fault is expected
    board.close()


def test_a_board_that_is_unplugged_in_the_middle_was_lifted(plug: Plug, tmp_path: Path) -> None:
    plugged = plug()
    board, _ = opened(tmp_path)
    board.identify()
    plugged.lift()
    with pytest.raises(FaultError) as error:
        board.enroll("SN-1")
    assert error.value.fault is Fault.LIFTED
    board.close()


def test_a_chain_of_two_does_not_fit_and_it_is_said_why() -> None:
    of = TestContract()
    of.form = ChainForm.LEAF_CA
    (sentence,) = misfits(of.product(), FAMILY.limits(None), ())
    assert "holds no chain of the form leaf+ca (it holds: leaf)" in sentence


def test_a_dial_without_credentials_cannot_be_made(plug: Plug, tmp_path: Path) -> None:
    plug()
    board, _ = opened(tmp_path)
    with pytest.raises(FaultError) as error:
        board.dial(Call("localhost", 1, "SN-1", "a/b", b"x", timeout_s=1))
    assert error.value.fault is Fault.UNIT_CANNOT_DIAL
    assert Ending.UNREACHABLE not in str(error.value)
    board.close()
