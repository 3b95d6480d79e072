"""The family `command`: the contract on a flasher of another hand, and programs that nobody wants beside his line."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from board_contract import BoardContract, Stop
from pydantic import ValidationError
from test_ca import product

from station.boards.command import FAMILY, CommandBoard, Options
from station.credentials import Credentials
from station.faults import Fault, FaultError
from station.model import Call, ChainForm, Ending, Image, KeyOrigin, KeyProof, KeyType, Product
from station.sim import flasher
from station.transcript import Transcript

STEPS = ("identify", "flash", "enroll", "install", "reset", "inspect", "dial")


def options(store: Path, trouble: str = "", *, at: str = "identify", timeout_s: float = 30.0, **more: Any) -> Options:
    """The simulated flasher at each step, with a trouble at one of them."""

    def command(step: str) -> dict[str, Any]:
        more = [trouble] if trouble and step == at else []
        # Without site packages it starts in a tenth of the time: it needs none of them.
        run = [sys.executable, "-I", "-S", flasher.__file__, step, str(store), *more]
        return {"run": run, "timeout_s": timeout_s if step == at else 30.0}

    return Options.model_validate_json(json.dumps({**{step: command(step) for step in STEPS}, **more}))


class TestContract(BoardContract):
    """Where the station makes the key, the flasher shows it by its SHA-256."""

    driver = CommandBoard
    keys: ClassVar = [(KeyOrigin.STATION, kind) for kind in (KeyType.P256, KeyType.P384, KeyType.RSA2048)]
    proofs = dict.fromkeys(KeyOrigin, KeyProof.DIGEST)

    @pytest.fixture
    def port(self, tmp_path: Path) -> str:
        store = tmp_path / self.chip
        store.mkdir()
        (store / "serial").write_text(self.serial)
        (tmp_path / "port").touch()
        self.options = options(store)
        return str(tmp_path / "port")


class TestContractBoardKey(TestContract):
    """Where the board makes it, by a signature."""

    keys: ClassVar = [(KeyOrigin.BOARD, KeyType.P256), (KeyOrigin.BOARD, KeyType.P384)]
    proofs = dict.fromkeys(KeyOrigin, KeyProof.SIGNED)


Start = Callable[..., CommandBoard]


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def transcript() -> Transcript:
    return Transcript()


@pytest.fixture
def start(tmp_path: Path, stop: Stop, transcript: Transcript) -> Iterator[Start]:
    """A board behind a flasher with a trouble."""
    started: list[CommandBoard] = []
    (tmp_path / "SN-1").mkdir()
    (tmp_path / "port").touch()

    def make(trouble: str = "", made: Product | None = None, **more: Any) -> CommandBoard:
        chosen = options(tmp_path / "SN-1", trouble, **more)
        started.append(
            CommandBoard(str(tmp_path / "port"), replace(made or station_key(), options=chosen), stop, transcript)
        )
        return started[-1]

    yield make
    for board in started:
        board.close()


def station_key() -> Product:
    return replace(product(KeyType.P256), key_origin=KeyOrigin.STATION)


def certified(board: CommandBoard) -> Credentials:
    return BoardContract().certified(board.enroll("SN-1"), station_key())


def refusal(call: Callable[[], object], fault: Fault) -> str:
    with pytest.raises(FaultError) as error:
        call()
    assert error.value.fault is fault, error.value
    return error.value.detail


def said(transcript: Transcript) -> str:
    return b"".join(entry.data for entry in transcript.entries()).decode("latin-1")


def lives(pid: int) -> bool:
    """Whether a process is there, and no zombie that waits for its new parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def soon(there: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not there() and time.monotonic() < end:
        time.sleep(0.01)
    return there()


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (10, Fault.UNIT_SILENT),
        (11, Fault.UNIT_GARBLED),
        (12, Fault.UNIT_REFUSED),
        (13, Fault.UNIT_RESET),
        (14, Fault.INSTALL_REFUSED),
        (15, Fault.UNIT_CANNOT_DIAL),
        (20, Fault.LIFTED),
        (21, Fault.PORT_DENIED),
        (1, Fault.FLASHER_FAILED),
        (127, Fault.FLASHER_FAILED),
    ],
)
def test_the_exit_code_says_whose_move_it_is_and_the_log_s_last_line_why(start: Start, code: int, fault: Fault) -> None:
    assert refusal(start(f"exit={code}").identify, fault) == f"identify: exit code {code}: probe: no board found"


def test_a_program_that_crashes_is_its_own_fault(start: Start) -> None:
    assert "ended by signal 11" in refusal(start("signal=11").identify, Fault.FLASHER_FAILED)


def test_a_program_that_is_not_there_or_no_program_is_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for path, why in (("none", "No such file"), ("text", "Permission denied")):
        board = start(identify={"run": [str(tmp_path / path)]})
        assert why in refusal(board.identify, Fault.FLASHER_FAILED)
        board.close()


def test_what_hangs_deaf_to_sigterm_is_killed_at_its_deadline(start: Start) -> None:
    assert "did not end within 0.5 s" in refusal(start("hang", timeout_s=0.5).identify, Fault.FLASHER_LATE)


def test_a_grandchild_that_holds_the_pipes_delays_nothing_and_does_not_survive(start: Start, tmp_path: Path) -> None:
    board = start(f"grandchild={tmp_path / 'pid'}")
    assert board.identify().chip_id == "SN-1"
    assert soon(lambda: not lives(int((tmp_path / "pid").read_text())))


def test_the_run_s_stop_ends_a_program_at_once(start: Start, stop: Stop, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    board = start(f"hang-with-grandchild={pid}")
    pulled: list[float] = []

    def pull() -> None:
        assert soon(lambda: pid.exists() and bool(pid.read_text()))
        pulled.append(time.monotonic())
        stop.reason = Fault.STOPPED

    thread = threading.Thread(target=pull)
    thread.start()
    refusal(board.identify, Fault.STOPPED)
    assert time.monotonic() - pulled[0] < 3
    thread.join()
    assert soon(lambda: not lives(int(pid.read_text())))


def test_an_endless_answer_is_cut_off_and_takes_no_memory(start: Start) -> None:
    board = start("endless")
    tracemalloc.start()
    refusal(board.identify, Fault.FLASHER_FAILED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_ten_megabytes_of_log_harm_nobody_and_are_kept_in_part(start: Start, transcript: Transcript) -> None:
    board = start("long-log")
    tracemalloc.start()
    assert board.identify().chip_id == "SN-1"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000
    assert len(said(transcript)) < 200_000


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no JSON",
        "[]",
        "{}{}",
        '{"serial": "SN-1", "chip": "C", "model": "m"}',
        '{"serial": 1, "chip": "C", "model": "m", "firmware": "1"}',
        '{"serial": "SN-1", "chip": "C", "model": "m", "firmware": "1", "more": 1}',
        '{"serial": "' + "S" * 300 + '", "chip": "C", "model": "m", "firmware": "1"}',
        "[" * 900,
    ],
)
def test_an_answer_of_another_form_is_refused(start: Start, answer: str) -> None:
    detail = refusal(start(f"say={answer}").identify, Fault.FLASHER_FAILED)
    assert "docs/boards/command.md" in detail


def test_a_hostile_serial_is_the_unit_s_fault(start: Start) -> None:
    answer = '{"serial": "../../etc", "chip": "C", "model": "m", "firmware": "1"}'
    refusal(start(f"say={answer}").identify, Fault.UNIT_IDENTITY)


@pytest.mark.parametrize(
    "answer",
    [
        '{"chain": [{}]}',
        '{"chain": [{"data": "AA=="}, {"data": "AA=="}, {"data": "AA=="}]}',
        '{"chain": [{"data": "A"}]}',
        '{"chain": [{"data": 7}]}',
        '{"chain": [{"sha256": "00"}]}',
        '{"chain": [], "key": {}}',
        '{"chain": [], "key": {"signature": "AA==", "sha256": "' + "0" * 64 + '"}}',
        '{"chain": [{"data": "AA==", "sha256": "' + "0" * 64 + '"}]}',
    ],
)
def test_a_read_back_of_another_form_is_refused(start: Start, answer: str) -> None:
    board = start(f"say={answer}", at="inspect")
    refusal(lambda: board.inspect(bytes(32)), Fault.FLASHER_FAILED)


def test_an_ending_that_is_none_is_refused_and_each_other_is_understood(start: Start) -> None:
    call = Call("localhost", 8883, "SN-1", "t", b"x", 1)
    for ending in (Ending.ACKNOWLEDGED, Ending.DROPPED):
        board = start(f'say={{"ending": "{ending}"}}', at="dial")
        assert board.dial(call) is ending
        board.close()
    refusal(lambda: start('say={"ending": "fine"}', at="dial").dial(call), Fault.FLASHER_FAILED)


@pytest.mark.parametrize("code", [0, 12])
def test_a_program_that_tells_the_key_to_everybody_tells_it_to_nobody(
    start: Start, transcript: Transcript, code: int
) -> None:
    board = start(f"leak={code}", at="install")
    credentials = certified(board)
    detail = refusal(lambda: board.install(credentials), Fault.UNIT_REFUSED if code else Fault.FLASHER_FAILED)
    assert "{" not in detail
    BoardContract().nothing_of_the_key_is_in(transcript, credentials)
    assert base64.b64encode(credentials.key_text()).decode()[40:80] not in said(transcript) + detail
    assert "not kept: the unit's private key" in said(transcript)


def test_a_program_finds_no_secret_in_its_arguments_and_nothing_of_the_station_s_environment(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    board = start(f"environment={tmp_path / 'seen'}", at="install", environment={"JLINK_SERIAL": "7"})
    credentials = certified(board)
    board.install(credentials)
    seen = json.loads((tmp_path / "seen").read_text())
    assert set(seen["env"]) - {"LC_CTYPE"} == {"PATH", "LANG", "JLINK_SERIAL"}
    assert "PRIVATE" not in json.dumps(seen)
    assert seen["cwd"] == "/"


def test_a_program_that_reads_nothing_is_not_waited_for(start: Start) -> None:
    board = start(identify={"run": ["/bin/true"]})
    refusal(board.identify, Fault.FLASHER_FAILED)


def test_the_log_and_both_objects_are_kept(start: Start, transcript: Transcript, tmp_path: Path) -> None:
    start().identify()
    kept = said(transcript)
    assert f"flasher: identify at {tmp_path / 'port'}" in kept
    assert '"step": "identify"' in kept
    assert '"chip": "SN-1"' in kept


def test_the_port_stands_where_an_argument_says_so_and_no_shell_reads_it(start: Start, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"import sys; open({str(seen)!r}, 'w').write(repr(sys.argv[1:]))"
    board = start(reset={"run": [sys.executable, "-c", script, "--port={port}", "; touch /tmp/x", "$HOME"]})
    board.reset()
    assert seen.read_text() == repr([f"--port={tmp_path / 'port'}", "; touch /tmp/x", "$HOME"])


def test_images_go_to_the_flasher_only_as_they_were_reviewed(start: Start, tmp_path: Path) -> None:
    image = tmp_path / "app.bin"
    image.write_bytes(b"firmware 1")
    right = hashlib.sha256(b"firmware 1").hexdigest()
    made = replace(station_key(), images=(Image(image, 0x10000, right),))
    board = start("", made)
    board.flash()
    assert (tmp_path / "SN-1" / "firmware").read_bytes() == b"firmware 1"
    image.write_bytes(b"firmware 2")
    assert right in refusal(board.flash, Fault.IMAGE_WRONG)
    image.write_bytes(b"")
    refusal(board.flash, Fault.IMAGE_WRONG)
    image.unlink()
    assert "No such file" in refusal(board.flash, Fault.IMAGE_WRONG)


def test_what_is_no_port_is_a_lift(stop: Stop, tmp_path: Path) -> None:
    made = replace(station_key(), options=options(tmp_path))
    refusal(lambda: CommandBoard(str(tmp_path / "none"), made, stop, Transcript()), Fault.LIFTED)
    (tmp_path / "file").touch()
    refusal(lambda: CommandBoard(str(tmp_path / "file" / "x"), made, stop, Transcript()), Fault.PORT_DENIED)


def test_a_step_without_a_command_says_so(start: Start) -> None:
    board = start(dial=None)
    assert "no command for dial" in refusal(lambda: board.dial(Call("h", 1, "c", "t", b"x", 1)), Fault.CONFIG)


def test_a_product_without_a_command_that_each_run_needs_is_refused() -> None:
    with pytest.raises(ValidationError, match="no command is given for install, reset, inspect"):
        Options.model_validate_json('{"identify": {"run": ["/bin/true"]}}')


@pytest.mark.parametrize(
    "run", ["[]", '["flash.sh"]', '"rm -rf /"', '["/bin/sh\\u0000"]', json.dumps(["/a"] * 65)], ids=range(5)
)
def test_a_command_is_a_list_that_begins_with_an_absolute_path(run: str) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate_json(f'{{"identify": {{"run": {run}}}}}')


def test_the_limits_are_those_that_the_product_says(tmp_path: Path) -> None:
    whole = FAMILY.limits(options(tmp_path))
    assert whole.dials
    assert whole.flashes
    assert whole.board_keys == whole.station_keys == frozenset(KeyType)
    less = FAMILY.limits(
        options(tmp_path, enroll=None, dial=None, flash=None, holds={"der": True, "keys": ["p256"], "place_bytes": 600})
    )
    assert (less.dials, less.flashes, less.board_keys) == (False, False, frozenset())
    assert less.station_keys == {KeyType.P256}
    assert less.forms == {ChainForm.LEAF, ChainForm.TWO_SLOTS}
    assert less.place_bytes == 600


def test_no_descriptor_stays_open(start: Start) -> None:
    board = start()
    board.identify()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        board.identify()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
