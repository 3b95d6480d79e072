"""What an operator sees: only a committed PASS is green, running is not failed, a broken lamp stops nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from station.config.messages import Messages
from station.faults import Fault
from station.lamps import Colour, LampThread, LedLamp, Pattern, TerminalLamp, describe, lit, signal
from station.model import Outcome, Step
from station.status import SlotState, SlotStatus, StatusBoard


def soon(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def leds(tmp_path: Path) -> Path:
    """A folder like /sys/class/leds; no real LED is driven in this suite."""
    for colour in Colour:
        (tmp_path / f"slot1-{colour}").mkdir()
        (tmp_path / f"slot1-{colour}" / "brightness").write_text("7")
        (tmp_path / f"slot1-{colour}" / "max_brightness").write_text("255\n")
        (tmp_path / f"slot1-{colour}" / "trigger").write_text("heartbeat")
    return tmp_path


def led_lamp(leds: Path) -> LedLamp:
    return LedLamp(leds, {colour: f"slot1-{colour}" for colour in Colour})


def light(leds: Path) -> set[Colour]:
    return {colour for colour in Colour if (leds / f"slot1-{colour}" / "brightness").read_text() == "255"}


def test_green_is_for_a_latched_pass_alone() -> None:
    statuses = [SlotStatus("1"), SlotStatus("1", SlotState.RUNNING, step=Step.CONNECT)]
    statuses += [SlotStatus("1", SlotState.RESULT, outcome=outcome) for outcome in Outcome]
    green = [status for status in statuses if Colour.GREEN in signal(status).colours]
    assert [status.outcome for status in green] == [Outcome.PASS]


def test_every_state_looks_different() -> None:
    statuses = [SlotStatus("1"), SlotStatus("1", SlotState.RUNNING)]
    statuses += [SlotStatus("1", SlotState.RESULT, outcome=outcome) for outcome in Outcome]
    assert len({signal(status) for status in statuses}) == len(statuses)


def test_a_double_blink_is_two_flashes_and_a_pause() -> None:
    shown = signal(SlotStatus("1", SlotState.RESULT, outcome=Outcome.ERROR))
    assert shown.pattern is Pattern.DOUBLE
    beat = [lit(shown, at / 100)[0] for at in range(120)]
    assert beat[0]
    assert sum(before is False and after is True for before, after in pairwise([*beat, beat[0]])) == 2


def test_the_next_change_is_never_further_than_the_beat() -> None:
    shown = signal(SlotStatus("1", SlotState.RUNNING))
    on, next_s = lit(shown, 0.59)
    assert on
    assert next_s == pytest.approx(0.01)
    assert lit(signal(SlotStatus("1")), 5) == (True, None)


def test_leds_show_one_colour_at_full_brightness_and_take_the_kernel_s_trigger_away(leds: Path) -> None:
    lamp = led_lamp(leds)
    passed = SlotStatus("1", SlotState.RESULT, outcome=Outcome.PASS)
    lamp.show(passed, signal(passed), on=True)
    assert light(leds) == {Colour.GREEN}
    assert (leds / "slot1-red" / "trigger").read_text() == "none"
    failed = SlotStatus("1", SlotState.RESULT, outcome=Outcome.FAIL)
    lamp.show(failed, signal(failed), on=True)
    assert light(leds) == {Colour.RED}


def test_the_thread_follows_the_status_and_leaves_all_lights_off(leds: Path) -> None:
    board = StatusBoard("line", ("1",), simulated=True)
    thread = LampThread(board, {"1": [led_lamp(leds)]})
    thread.start()
    try:
        board.post(SlotStatus("1", SlotState.RESULT, outcome=Outcome.FAIL))
        soon(lambda: light(leds) == {Colour.RED})
        board.post(SlotStatus("1", SlotState.RUNNING))
        soon(lambda: light(leds) == {Colour.BLUE})
        soon(lambda: light(leds) == set())  # it blinks
        soon(lambda: light(leds) == {Colour.BLUE})
    finally:
        thread.stop()
    assert light(leds) == set()


def test_a_lamp_that_is_gone_is_named_once_and_the_others_go_on(leds: Path, tmp_path: Path) -> None:
    board = StatusBoard("line", ("1",), simulated=True)
    broken = LedLamp(tmp_path / "nowhere", dict.fromkeys(Colour, "x"))
    with capture_logs() as logs:
        thread = LampThread(board, {"1": [broken, led_lamp(leds)]})
        thread.start()
        try:
            board.post(SlotStatus("1", SlotState.RESULT, outcome=Outcome.PASS))
            soon(lambda: light(leds) == {Colour.GREEN})
            board.post(SlotStatus("1", SlotState.RESULT, outcome=Outcome.FAIL))
            soon(lambda: light(leds) == {Colour.RED})
        finally:
            thread.stop()
    assert [entry["event"] for entry in logs] == ["a lamp does not work"]


@pytest.mark.parametrize(("language", "word"), [("en", "FAIL"), ("vi", "HỎNG")])
def test_the_terminal_says_outcome_unit_code_and_what_to_do_in_the_station_s_language(
    language: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = Messages.load(language)
    status = SlotStatus(
        "1", SlotState.RESULT, serial="SN-1", outcome=Outcome.FAIL, fault=Fault.KEY_CLONED, detail="[red]x"
    )
    TerminalLamp(messages).show(status, signal(status), on=True)
    said = capsys.readouterr().out
    assert said.startswith(f"[1] {word}  SN-1  U114 {messages.title(Fault.KEY_CLONED)}")
    assert messages.remedy(Fault.KEY_CLONED) in said
    assert "\x1b" not in said


def test_the_terminal_tells_a_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    lamp, status = TerminalLamp(Messages.load("en")), SlotStatus("1", SlotState.RUNNING, step=Step.ISSUE)
    for _ in range(3):
        lamp.show(status, signal(status), on=True)
        lamp.show(status, signal(status), on=False)
    assert capsys.readouterr().out.count("\n") == 1
    assert describe(status, Messages.load("en")) == "working  signing the certificate"
