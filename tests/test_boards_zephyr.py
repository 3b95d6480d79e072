"""The family `zephyr`: the contract on a simulated shell, old and new, its traps, and boards noisy or broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from board_contract import BoardContract
from family_bed import Bed, bed, certified, less_patience, product_of, provisioned, refusal

from station.boards.zephyr import FAMILY, Options, ZephyrBoard
from station.faults import Fault
from station.fit import misfits
from station.model import Call, ChainForm, KeyOrigin, KeyProof, KeyType
from station.sim.jig import SimJig

CHIP = "3336343110473837"
ROOMY: dict[str, Any] = {"buffer_bytes": 4_096}
STATION = {"key_origin": KeyOrigin.STATION}


class TestContract(BoardContract):
    """A new shell; the key is made on the station and read back by its digest."""

    driver = ZephyrBoard
    serial = chip = CHIP
    keys: ClassVar = [(KeyOrigin.STATION, KeyType.P256), (KeyOrigin.STATION, KeyType.P384)]
    proofs: ClassVar = {KeyOrigin.STATION: KeyProof.DIGEST}
    dials = False
    mode, baud_bytes = "new", 0
    options = Options(buffer_bytes=4_096)

    @pytest.fixture
    def port(self, tmp_path: Path) -> Iterator[str]:
        with SimJig(tmp_path) as jig:
            identity: dict[str, Any] = {"serial": "none", "chip": CHIP, "model": "none", "fw": "3.7.0"}
            plug: dict[str, Any] = {
                "family": "zephyr",
                "mode": self.mode,
                "baud_bytes": self.baud_bytes,
                "faults": ["buffer=4096"],
            }
            jig.plug(tmp_path / "port", **identity, **plug)
            yield str(tmp_path / "port")


class TestContractOfAnOldShell(TestContract):
    """Pieces alone, at the speed of 921,600 baud; the key is made on the board."""

    keys: ClassVar = [(KeyOrigin.BOARD, KeyType.P256)]
    proofs: ClassVar = {KeyOrigin.BOARD: KeyProof.UNPROVEN}
    mode, baud_bytes = "old", 92_160
    options = Options(buffer_bytes=4_096, chunk=192)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Bed]:
    with bed(tmp_path, "zephyr", serial="none", chip=CHIP, model="none", fw="3.7.0") as made:
        yield made


@pytest.mark.parametrize("faults", [["noise"], ["no-echo", "garbage", "renumber"]])
def test_an_old_shell_is_provisioned_whatever_its_console_prints(shell: Bed, faults: list[str]) -> None:
    made = product_of("zephyr", {**ROOMY, "chunk": 192})
    assert provisioned(shell.open(made, "buffer=4096", *faults, mode="old"), made) is KeyProof.UNPROVEN


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("silent", Fault.UNIT_SILENT),
        ("vanish-at=9", Fault.LIFTED),
        ("never-back", Fault.UNIT_SILENT),
        ("no-restart", Fault.UNIT_RESET),
        ("forget", Fault.NOT_PERSISTENT),
        ("volatile", Fault.NOT_PERSISTENT),
        ("flip", Fault.READBACK_DIFFERS),
        ("add-fails", Fault.INSTALL_REFUSED),
        ("key-exists", Fault.UNIT_REFUSED),
        ("no-keygen", Fault.UNIT_REFUSED),
        ("no-devid", Fault.UNIT_REFUSED),
        ("bad-csr-signature", Fault.CSR_INVALID),
    ],
)
def test_each_trouble_has_its_fault(shell: Bed, fault: str, expected: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    less_patience(monkeypatch, "zephyr", expected)
    made = product_of("zephyr", ROOMY)
    board = shell.open(made, "buffer=4096", fault)
    refusal(lambda: provisioned(board, made), expected)


def test_a_volatile_store_is_refused_before_it_sees_the_key(shell: Bed, tmp_path: Path) -> None:
    made = product_of("zephyr", ROOMY, **STATION)
    board = shell.open(made, "buffer=4096", "volatile")
    assert "CONFIG_TLS_CREDENTIALS_BACKEND_VOLATILE" in refusal(lambda: provisioned(board, made), Fault.NOT_PERSISTENT)
    assert not list(tmp_path.rglob("*-PK.cred"))


def test_the_buffer_of_1024_bytes_is_too_small_and_the_product_says_so_before_anything_is_sent(shell: Bed) -> None:
    made = product_of("zephyr", {}, **STATION)
    board = shell.open(made)
    credentials = certified(board.enroll(CHIP), made, CHIP)
    before = len(shell.transcript.entries())
    text = "CONFIG_TLS_CREDENTIALS_SHELL_CRED_BUF_SIZE"
    assert text in refusal(lambda: board.install(credentials), Fault.PRODUCT_UNFIT)
    assert len(shell.transcript.entries()) == before
    (sentence,) = misfits(made, FAMILY.limits(made.options), credentials.chain)
    assert text in sentence
    assert "765" in sentence


@pytest.mark.parametrize(("size", "mode"), [(1_024, "new"), (1_024, "old"), (1_025, "new"), (2_047, "old")])
def test_the_room_is_what_the_firmware_takes_to_the_byte(shell: Bed, size: int, mode: str) -> None:
    made = product_of("zephyr", {"buffer_bytes": size, "chunk": 192})
    board = shell.open(made, f"buffer={size}", mode=mode)
    assert isinstance(board, ZephyrBoard)
    room = made.options.room
    board._store("CA", b"x" * room)
    refusal(lambda: board._store("CA", b"x" * (room + 3)), Fault.INSTALL_REFUSED)


@pytest.mark.parametrize("mode", ["new", "old"])
def test_a_shell_that_loses_bytes_gets_smaller_pieces(shell: Bed, mode: str) -> None:
    made = product_of("zephyr", {**ROOMY, "chunk": 192}, **STATION)
    board = shell.open(made, "buffer=4096", "rx-ring=120", mode=mode)
    assert provisioned(board, made) is KeyProof.DIGEST
    said = b"".join(entry.data for entry in shell.transcript.entries())
    assert b"pieces of 96 characters from now on" in said


def test_a_shell_that_loses_every_piece_is_named(shell: Bed) -> None:
    made = product_of("zephyr", ROOMY, **STATION)
    board = shell.open(made, "buffer=4096", "rx-ring=20", mode="old")
    assert "RX ring buffer full" in refusal(lambda: provisioned(board, made), Fault.INSTALL_REFUSED, Fault.UNIT_SILENT)


def test_without_digests_the_certificates_are_read_and_the_key_is_not(shell: Bed) -> None:
    made = product_of("zephyr", ROOMY, **STATION)
    board = shell.open(made, "buffer=4096", "no-digest", "noise")
    assert provisioned(board, made) is KeyProof.UNPROVEN
    said = b"".join(entry.data for entry in shell.transcript.entries() if entry.way == ">")
    assert b"cred get 42 SERV bint" in said
    assert b"cred get 42 PK" not in said


def test_a_shell_cannot_dial_and_takes_no_images(shell: Bed) -> None:
    board = shell.open(product_of("zephyr", ROOMY))
    refusal(lambda: board.dial(Call("localhost", 8883, CHIP, "t", b"x", 1)), Fault.UNIT_CANNOT_DIAL)
    refusal(board.flash, Fault.CONFIG)
    assert FAMILY.limits(Options()).forms == {ChainForm.LEAF, ChainForm.LEAF_CA}


def test_a_slot_finds_out_whether_a_shell_is_in_it(tmp_path: Path) -> None:
    made = product_of("zephyr", ROOMY)
    assert not ZephyrBoard.probe(str(tmp_path / "none"), made)
    with SimJig(tmp_path) as jig:
        for place, faults in (("aa", ()), ("bb", ("silent",))):
            jig.plug(tmp_path / place, serial="none", chip=f"{place}00", model="none", family="zephyr", faults=faults)
        assert ZephyrBoard.probe(str(tmp_path / "aa"), made)
        assert not ZephyrBoard.probe(str(tmp_path / "bb"), made)
