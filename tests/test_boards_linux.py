"""The family `linux`, against a real login, shell and openssl in a chroot behind a pty."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from board_contract import BoardContract, Open, Stop

from station.boards.linux import LinuxBoard, Options, Password
from station.boards.linux_dial import ending
from station.credentials import examine
from station.faults import Fault, FaultError
from station.model import Call, Ending, KeyOrigin, KeyProof, KeyType, Product
from station.sim.jig import PluggedBoard, SimJig
from station.sim.linux import PASSWORD
from station.transcript import Transcript

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a chroot with a login in it needs root")

Plug = Callable[..., PluggedBoard]


@pytest.fixture(scope="module")
def password(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "password"
    file.touch(mode=0o600)
    file.write_text(PASSWORD + "\n")
    return file


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[Plug]:
    with SimJig(tmp_path) as jig:

        def plugged(*faults: str, baud_bytes: int = 0) -> PluggedBoard:
            return jig.plug(
                tmp_path / "port",
                serial="SN-1",
                chip="CHIP-1",
                model="demo-board",
                family="linux",
                faults=faults,
                baud_bytes=baud_bytes,
            )

        yield plugged


class TestContract(BoardContract):
    driver = LinuxBoard
    keys: ClassVar = [
        (KeyOrigin.BOARD, KeyType.P256),
        (KeyOrigin.BOARD, KeyType.P384),
        (KeyOrigin.STATION, KeyType.RSA2048),
    ]

    @pytest.fixture(autouse=True)
    def _log_in_as_root(self, password: Path) -> None:
        type(self).options = Options(password=Password(file=password))

    @pytest.fixture
    def port(self, tmp_path: Path, plug: Plug) -> str:
        plug()
        return str(tmp_path / "port")

    def test_the_key_is_for_its_owner_alone_and_nothing_is_left_beside_it(
        self, open_board: Open, tmp_path: Path
    ) -> None:
        made = self.product(KeyType.P256, KeyOrigin.STATION)
        board = open_board(made)
        board.install(self.certified(board.enroll("SN-1"), made))
        folder = tmp_path / "CHIP-1" / "root" / "etc" / "aws-iot"
        assert {file.name for file in folder.iterdir()} == {"cert.pem", "key.pem", "roots.pem"}
        assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
        assert not list((tmp_path / "CHIP-1" / "root" / "tmp").iterdir())

    def test_the_password_is_in_no_transcript(self, open_board: Open, transcript: Transcript) -> None:
        open_board(self.product()).identify()
        said = b"".join(entry.data for entry in transcript.entries())
        assert PASSWORD.encode() not in said
        assert b"not kept: the console's password" in said


@pytest.fixture
def opened(plug: Plug, password: Path, tmp_path: Path) -> Callable[..., LinuxBoard]:
    def open_it(*faults: str, secret: Path | None = password, baud_bytes: int = 0) -> LinuxBoard:
        plug(*faults, baud_bytes=baud_bytes)
        options = Options(password=Password(file=secret) if secret else None)
        made = replace(TestContract().product(), options=options)
        return LinuxBoard(str(tmp_path / "port"), made, Stop(), Transcript())

    return open_it


def refused(board: LinuxBoard, call: Callable[[], object]) -> FaultError:
    with pytest.raises(FaultError) as error:
        call()
    board.close()
    return error.value


def made(board: LinuxBoard) -> Product:
    return board._product


def test_a_wrong_password_is_named_and_not_shown(opened: Callable[..., LinuxBoard], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("hunter2\n")
    board = opened(secret=wrong)
    error = refused(board, board.identify)
    assert error.fault is Fault.UNIT_REFUSED
    assert "wrong password" in error.detail
    assert "hunter2" not in str(error)


def test_a_console_that_asks_for_a_password_needs_one_in_the_product(opened: Callable[..., LinuxBoard]) -> None:
    board = opened(secret=None)
    assert refused(board, board.identify).fault is Fault.CONFIG


def test_a_folder_that_cannot_be_written_is_a_refusal(opened: Callable[..., LinuxBoard]) -> None:
    board = opened("read-only")
    assert refused(board, lambda: board.enroll("SN-1")).fault is Fault.UNIT_REFUSED


@pytest.mark.parametrize(("fault", "expected"), [("forget", Fault.NOT_PERSISTENT), ("flip", Fault.READBACK_DIFFERS)])
def test_what_the_gateway_does_not_keep_is_found_out(
    opened: Callable[..., LinuxBoard], fault: str, expected: Fault
) -> None:
    board = opened(fault)
    credentials = TestContract().certified(board.enroll("SN-1"), made(board))
    board.install(credentials)
    board.reset()
    assert refused(board, lambda: examine(board.inspect(bytes(32)), credentials, bytes(32))).fault is expected


def test_a_silent_console_is_the_units_fault(
    opened: Callable[..., LinuxBoard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("station.boards.linux._LOGIN_S", 2.0)
    board = opened("silent")
    assert refused(board, board.identify).fault is Fault.UNIT_SILENT


def test_the_console_is_logged_out_at_the_end_of_a_run(opened: Callable[..., LinuxBoard], tmp_path: Path) -> None:
    board = opened()
    board.identify()
    board.close()
    stranger = LinuxBoard(str(tmp_path / "port"), replace(made(board), options=Options()), Stop(), Transcript())
    assert refused(stranger, stranger.identify).fault is Fault.CONFIG


def test_a_shell_whose_line_editor_cuts_long_lines_is_given_none(opened: Callable[..., LinuxBoard]) -> None:
    board = opened("line-editor")
    credentials = TestContract().certified(board.enroll("SN-1"), made(board))
    board.install(credentials)
    assert examine(board.inspect(bytes(32)), credentials, bytes(32)) is KeyProof.SIGNED
    board.close()


def test_a_command_that_no_console_line_holds_is_not_sent(opened: Callable[..., LinuxBoard]) -> None:
    board = opened()
    board.identify()
    error = refused(board, lambda: board.dial(replace(CALL, topic="t" * 900)))
    assert error.fault is Fault.PRODUCT_UNFIT
    assert "does not fit the 4095" in error.detail


def test_a_gateway_that_does_not_reboot_is_found_out(
    opened: Callable[..., LinuxBoard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("station.boards.linux._RESTART_S", 1.0)
    board = opened("no-restart")
    assert refused(board, board.reset).fault is Fault.UNIT_RESET


CALL = Call("localhost", 1, "SN-1", "a/b", b"x", timeout_s=2)
HELD = replace(CALL, hold_s=1.0)


@pytest.mark.parametrize(
    ("call", "output", "expected"),
    [
        (CALL, b"=exit=0\n\x20\x02\x00\x00\x40\x02\x00\x01\n=stderr=\n", Ending.ACKNOWLEDGED),
        (CALL, b"=exit=0\n\x20\x02\x00\x00\n=stderr=\n", Ending.UNACKNOWLEDGED),
        (CALL, b"=exit=0\n\x20\x02\x00\x05\n=stderr=\n", Ending.REFUSED),
        (CALL, b"=exit=1\n\n=stderr=\nread:errno=104", Ending.DROPPED),
        (CALL, b"=exit=124\n\n=stderr=\n", Ending.SILENT),
        (CALL, b"=exit=1\n\n=stderr=\nverify error:num=20:unable to get", Ending.UNTRUSTED),
        (CALL, b"=exit=1\n\n=stderr=\nconnect:errno=111", Ending.UNREACHABLE),
        (HELD, b"=exit=0\n\x20\x02\x00\x00\xd0\x00\n=stderr=\n", Ending.ACKNOWLEDGED),
        (HELD, b"=exit=0\n\x20\x02\x00\x00\n=stderr=\n", Ending.UNACKNOWLEDGED),
    ],
)
def test_each_output_of_openssl_is_an_ending(call: Call, output: bytes, expected: Ending) -> None:
    assert ending("openssl", output, call) is expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"=exit=0\n", Ending.ACKNOWLEDGED),
        (b"Connection error: Connection Refused: not authorised.\n=exit=5\n", Ending.REFUSED),
        (b"Error: The connection was lost.\n=exit=7\n", Ending.DROPPED),
        (b"Error: Connection refused\n=exit=1\n", Ending.UNREACHABLE),
        (b"=exit=124\n", Ending.SILENT),
    ],
)
def test_each_output_of_mosquitto_is_an_ending(output: bytes, expected: Ending) -> None:
    assert ending("mosquitto", output, CALL) is expected


def test_a_gateway_without_its_tool_cannot_dial() -> None:
    missing = {"openssl": b"=exit=127\n\n=stderr=\nsh: openssl: not found", "mosquitto": b"=exit=127\n"}
    for dialler, output in missing.items():
        with pytest.raises(FaultError) as error:
            ending(dialler, output, CALL)  # type: ignore[arg-type]
        assert error.value.fault is Fault.UNIT_CANNOT_DIAL
