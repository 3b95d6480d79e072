"""The family `console`: the contract on the simulated board, and boards that are noisy, broken or hostile."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from board_contract import BoardContract, Stop
from hypothesis import given
from hypothesis import strategies as st
from replay import replayed
from scripted_board import HELLO, Answer, ScriptedBoard, frame
from test_ca import product

from station.boards.console import ConsoleBoard
from station.boards.frames import LINE_MAX, Splitter, encode, replies
from station.faults import Fault, FaultError
from station.model import Call, Ending, Unit
from station.sim.jig import SimJig
from station.transcript import Transcript


class TestContract(BoardContract):
    """On the simulated board, written from the page alone."""

    driver = ConsoleBoard

    @pytest.fixture
    def port(self, tmp_path: Path) -> Iterator[str]:
        with SimJig(tmp_path) as jig:
            jig.plug(tmp_path / "port", serial="SN-1", chip="CHIP-1", model="demo-board")
            yield str(tmp_path / "port")


class TestContractAtSerialSpeed(TestContract):
    """The same at the speed of 921,600 baud, with everything echoed."""

    @pytest.fixture
    def port(self, tmp_path: Path) -> Iterator[str]:
        with SimJig(tmp_path) as jig:
            troubles = ("echo",)
            jig.plug(
                tmp_path / "port", serial="SN-1", chip="CHIP-1", model="demo-board", faults=troubles, baud_bytes=92_160
            )
            yield str(tmp_path / "port")


Play = Callable[[Answer], tuple[ConsoleBoard, ScriptedBoard]]


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def play(stop: Stop) -> Iterator[Play]:
    """Plug a scripted board in and open it."""
    played: list[tuple[ConsoleBoard, ScriptedBoard]] = []

    def start(answer: Answer) -> tuple[ConsoleBoard, ScriptedBoard]:
        board = ScriptedBoard(answer)
        played.append((ConsoleBoard(board.port, product(), stop, Transcript()), board))
        return played[-1]

    yield start
    for driver, board in played:
        driver.close()
        board.end()


def hello(values: str = HELLO) -> Answer:
    return lambda board, seq, _command, _values: board.ok(seq, values)


def refusal(call: Callable[[], object], *faults: Fault) -> str:
    with pytest.raises(FaultError) as error:
        call()
    assert error.value.fault in faults, error.value
    return error.value.detail


GOOD = Unit("SN-1", "CHIP-1", "demo-board", "1.0.0")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"\x1b[0;32mI (3012) wifi: connected\x1b[0m ", b""),
        (b"half a log line", b" and its rest\r\n"),
        (b"\r\n\r\n\0\xff\xfe\x80", b"\0"),
        (b"<S1 77 ok a=b #00000000\r\n", b""),
        (b"<S1 ", b""),
        (b"x" * 5000, b"x" * 5000),
        (b"x" * 20_000 + b"\n", b""),
    ],
)
def test_a_frame_is_found_in_whatever_the_firmware_prints_around_it(play: Play, before: bytes, after: bytes) -> None:
    driver, _ = play(lambda board, seq, _c, _v: board.say(before + frame(seq, "ok", HELLO) + after))
    assert driver.identify() == GOOD


def test_an_echo_of_the_request_is_not_an_answer(play: Play) -> None:
    def answer(board: ScriptedBoard, seq: int, command: str, _values: dict[str, str]) -> None:
        board.say(f">S1 {seq} {command} #00000000\r\n".encode())
        board.ok(seq, HELLO)

    assert play(answer)[0].identify() == GOOD


def test_a_damaged_answer_is_asked_for_again(play: Play) -> None:
    def answer(board: ScriptedBoard, seq: int, _command: str, _values: dict[str, str]) -> None:
        good = frame(seq, "ok", HELLO)
        board.say(good if len(board.asked) > 2 else good.replace(b"SN-1", b"SN-2"))

    driver, board = play(answer)
    began = time.monotonic()
    assert driver.identify() == GOOD
    assert len(board.asked) == 3
    assert time.monotonic() - began < 1  # the whole patience with one reply that does not come


def test_the_late_answer_to_a_former_request_is_not_taken_for_this_one(play: Play) -> None:
    def answer(board: ScriptedBoard, seq: int, _command: str, _values: dict[str, str]) -> None:
        if len(board.asked) > 1:
            former = board.asked[0][0]
            board.ok(former, HELLO.replace("SN-1", "SN-OLD"))
            board.ok(seq, HELLO)

    assert play(answer)[0].identify() == GOOD


def test_a_silent_board_is_named_in_bounded_time(play: Play) -> None:
    driver, board = play(lambda *_: None)
    began = time.monotonic()
    refusal(driver.identify, Fault.UNIT_SILENT)
    assert time.monotonic() - began < 6
    assert len(board.asked) >= 2


def test_answers_that_are_always_damaged_are_named(play: Play) -> None:
    driver, _ = play(lambda board, seq, _c, _v: board.say(frame(seq, "ok", HELLO).replace(b"SN-1", b"SN-2")))
    refusal(driver.identify, Fault.UNIT_GARBLED)


def test_ten_megabytes_without_a_line_end_take_neither_memory_nor_time(play: Play) -> None:
    driver, _ = play(lambda board, *_: board.say(b"A" * 10_000_000))
    tracemalloc.start()
    began = time.monotonic()
    refusal(driver.identify, Fault.UNIT_GARBLED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - began < 6
    assert peak < 11_000_000  # the ten that the test itself holds, and less than one for the driver


def test_a_board_that_says_wait_for_ever_is_given_up(play: Play) -> None:
    def answer(board: ScriptedBoard, seq: int, _command: str, _values: dict[str, str]) -> None:
        end = time.monotonic() + 8
        while time.monotonic() < end and not board._over.is_set():
            board.say(frame(seq, "wait", "ms=500"))
            time.sleep(0.1)

    driver, _ = play(answer)
    began = time.monotonic()
    refusal(driver.identify, Fault.UNIT_SILENT)
    assert time.monotonic() - began < 7


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (HELLO.replace("SN-1", "../../etc"), Fault.UNIT_GARBLED),
        (HELLO.replace("SN-1", "a/b"), Fault.UNIT_IDENTITY),
        (HELLO.replace("SN-1", "<script>"), Fault.UNIT_GARBLED),
        (HELLO.replace("SN-1", "A\nB"), Fault.UNIT_GARBLED),
        (HELLO.replace("SN-1", "x" * 65), Fault.UNIT_IDENTITY),
        (HELLO.replace("serial=SN-1 ", ""), Fault.UNIT_GARBLED),
        (HELLO + " serial=SN-2", Fault.UNIT_GARBLED),
        (HELLO.replace("proto=1", "proto=2"), Fault.UNIT_FIRMWARE),
        (HELLO.replace("line=512", "line=1"), Fault.UNIT_GARBLED),
        (HELLO.replace("line=512", "line=99999999999999"), Fault.UNIT_GARBLED),
        (HELLO.replace("boot=1", "boot=-1"), Fault.UNIT_GARBLED),
    ],
)
def test_a_hello_that_is_not_to_the_page_is_refused(play: Play, values: str, fault: Fault) -> None:
    driver, _ = play(hello(values))
    detail = refusal(driver.identify, fault, Fault.UNIT_GARBLED, Fault.UNIT_IDENTITY)
    assert detail.isprintable()


def reading(pieces: Callable[[int], str]) -> Answer:
    """Good until the chain is read: then what ``pieces`` says for each offset."""

    def answer(board: ScriptedBoard, seq: int, command: str, values: dict[str, str]) -> None:
        board.ok(seq, pieces(int(values["offset"])) if command == "read" else HELLO)

    return answer


@pytest.mark.parametrize(
    "said",
    [
        "offset=0 total=4294967295 data=QUFB",
        "offset=0 total=16385 data=QUFB",
        "offset=7 total=3 data=QUFB",
        "offset=0 total=2 data=QUFB",
        "offset=0 total=9 data=Q",
        "offset=0 total=9 data=QUF_",
        "offset=0 total=9",
        "total=9 data=QUFB",
    ],
)
def test_a_board_that_lies_about_what_it_holds_is_refused(play: Play, said: str) -> None:
    driver, _ = play(reading(lambda _: said))
    driver.identify()
    refusal(lambda: driver.inspect(bytes(32)), Fault.UNIT_GARBLED)


def test_a_board_whose_item_grows_while_it_is_read_is_refused(play: Play) -> None:
    driver, _ = play(reading(lambda offset: f"offset={offset} total={offset + 9} data=QUFB"))
    driver.identify()
    refusal(lambda: driver.inspect(bytes(32)), Fault.UNIT_GARBLED)


@pytest.mark.parametrize("code", ["unsupported", "failed"])
def test_a_board_that_cannot_dial_is_the_unit_s_fault(play: Play, code: str) -> None:
    def answer(board: ScriptedBoard, seq: int, command: str, _values: dict[str, str]) -> None:
        board.say(frame(seq, "err", f"code={code}") if command == "dial" else frame(seq, "ok", HELLO))

    driver, _ = play(answer)
    driver.identify()
    refusal(lambda: driver.dial(Call("localhost", 8883, "SN-1", "t", b"x", 1)), Fault.UNIT_CANNOT_DIAL)


@pytest.mark.parametrize("ending", Ending)
def test_each_ending_that_a_board_reports_is_understood(play: Play, ending: Ending) -> None:
    def answer(board: ScriptedBoard, seq: int, command: str, _values: dict[str, str]) -> None:
        board.ok(seq, f"ending={ending}" if command == "dial" else HELLO)

    driver, _ = play(answer)
    driver.identify()
    assert driver.dial(Call("localhost", 8883, "SN-1", "t", b"x", 1)) is ending


def test_a_command_that_the_board_refuses_is_the_unit_s_fault_and_says_why(play: Play) -> None:
    def answer(board: ScriptedBoard, seq: int, command: str, _values: dict[str, str]) -> None:
        board.say(
            frame(seq, "err", "code=failed text=bm8gZW50cm9weQ==") if command == "keygen" else frame(seq, "ok", HELLO)
        )

    driver, _ = play(answer)
    driver.identify()
    assert "no entropy" in refusal(lambda: driver.enroll("SN-1"), Fault.UNIT_REFUSED)


def test_a_busy_board_is_asked_again(play: Play) -> None:
    def answer(board: ScriptedBoard, seq: int, _command: str, _values: dict[str, str]) -> None:
        board.say(frame(seq, "ok", HELLO) if len(board.asked) > 3 else frame(seq, "err", "code=busy"))

    assert play(answer)[0].identify() == GOOD


def test_a_port_that_dies_is_a_lift(play: Play) -> None:
    driver, _ = play(lambda board, *_: board.vanish())
    refusal(driver.identify, Fault.LIFTED)


def test_a_stop_is_heard_within_a_blink_while_a_board_is_silent(play: Play, stop: Stop) -> None:
    driver, _ = play(lambda *_: None)
    pulled: list[float] = []

    def pull() -> None:
        stop.reason = Fault.STOPPED
        pulled.append(time.monotonic())

    timer = threading.Timer(0.2, pull)
    timer.start()
    refusal(driver.identify, Fault.STOPPED)
    assert time.monotonic() - pulled[0] < 0.5
    timer.join()


def test_what_is_no_port_is_denied_and_what_is_not_there_is_a_lift(tmp_path: Path, stop: Stop) -> None:
    (tmp_path / "file").write_text("")
    refusal(lambda: ConsoleBoard(str(tmp_path / "file"), product(), stop, Transcript()), Fault.PORT_DENIED)
    refusal(lambda: ConsoleBoard(str(tmp_path), product(), stop, Transcript()), Fault.PORT_DENIED)
    refusal(lambda: ConsoleBoard(str(tmp_path / "none"), product(), stop, Transcript()), Fault.LIFTED)


VALUES = st.dictionaries(
    st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9._:,+/=-]{1,30}", fullmatch=True),
    max_size=5,
)


@given(st.integers(1, 9999), VALUES)
def test_a_request_is_read_back_by_a_codec_of_another_hand(seq: int, values: dict[str, str]) -> None:
    from scripted_board import REQUEST

    found = REQUEST.fullmatch(encode(seq, "hello", values).strip())
    assert found is not None
    assert (int(found[1]), found[2]) == (seq, b"hello")
    assert dict(part.split("=", 1) for part in found[3].decode().split()) == values


@given(st.integers(0, 9999), VALUES.filter(bool), st.binary(max_size=40))
def test_a_reply_is_found_behind_any_noise(seq: int, values: dict[str, str], noise: bytes) -> None:
    wire = noise.replace(b"<S1 ", b"") + frame(seq, "ok", " ".join(f"{key}={value}" for key, value in values.items()))
    found = [reply for line in Splitter().feed(wire) for reply in replies(line)]
    assert [(reply.seq, reply.values) for reply in found] == [(seq, values)]


@given(st.lists(st.binary(max_size=3000), max_size=20))
def test_no_bytes_make_the_splitter_grow_or_fall_over(chunks: list[bytes]) -> None:
    splitter = Splitter()
    for chunk in chunks:
        for line in splitter.feed(chunk):
            assert len(line) <= LINE_MAX
            replies(line)
        assert len(splitter._held) <= LINE_MAX


def test_a_value_that_the_wire_cannot_carry_is_not_sent_and_not_told() -> None:
    with pytest.raises(ValueError, match="alphabet") as error:
        encode(1, "write", {"data": "secret key"})
    assert "secret" not in str(error.value)


def test_a_real_tty_of_another_process_is_denied(stop: Stop) -> None:
    master, slave = os.openpty()
    first = ConsoleBoard(os.ttyname(slave), product(), stop, Transcript())
    try:
        refusal(lambda: ConsoleBoard(os.ttyname(slave), product(), stop, Transcript()), Fault.PORT_DENIED)
    finally:
        first.close()
        os.close(slave)
        os.close(master)


def test_a_talk_played_back_ends_as_it_did(tmp_path: Path, stop: Stop) -> None:
    talk = Transcript()
    with SimJig(tmp_path) as jig:
        jig.plug(tmp_path / "port", serial="SN-1", chip="CHIP-1", model="demo-board", faults=("half-reply",))
        refusal(ConsoleBoard(str(tmp_path / "port"), product(), stop, talk).identify, Fault.UNIT_SILENT)
    with replayed(talk.entries()) as port:
        refusal(ConsoleBoard(port, product(), stop, Transcript()).identify, Fault.UNIT_SILENT)
