"""What an operator sees: only a committed PASS is green alone, running is not failed, each state has its own look."""

from __future__ import annotations

from itertools import pairwise

import pytest

from station.config.messages import Messages
from station.faults import Blame, Fault
from station.lamps.lamp import without_blue
from station.lamps.meaning import describe, describe_line, line_signal, signal
from station.lamps.signals import NO_STATION, Colour, Pattern, Signal, frame
from station.model import Outcome, Step
from station.status import Andon, SlotState, SlotStatus, StationStatus

RESULTS = [SlotStatus("1", SlotState.RESULT, outcome=outcome) for outcome in Outcome]
STATUSES = [
    SlotStatus("1"),
    SlotStatus("1", SlotState.RUNNING, step=Step.CONNECT),
    SlotStatus("1", SlotState.WAITING),
    SlotStatus("1", SlotState.OUT, fault=Fault.SLOT_OUT),
    *RESULTS,
]
ANDON = Andon(Fault.HSM_DOWN, Blame.CA, "gone")


def looks(shown: Signal, *, dims: bool, blue: bool) -> tuple[frozenset[Colour], ...]:
    """What is lit over six seconds, in steps of 20 ms, each look once after the other."""
    has = set(Colour) if blue else set(Colour) - {Colour.BLUE}
    seen = []
    for at in range(300):
        levels = without_blue(frame(shown, at / 50, dims=dims).levels, has)
        seen.append(frozenset(colour for colour, level in levels.items() if level > 0.5))
    return tuple(seen)


def test_green_alone_is_for_a_latched_pass_alone() -> None:
    green = [status.outcome for status in STATUSES if signal(status).colours == {Colour.GREEN}]
    assert green == [Outcome.PASS]
    touched = {status.outcome for status in STATUSES if Colour.GREEN in signal(status).colours}
    assert touched <= {Outcome.PASS, *(outcome for outcome in Outcome if outcome.value == "PROVISIONED")}


@pytest.mark.parametrize("dims", [True, False], ids=["dimmed", "on and off"])
@pytest.mark.parametrize("blue", [True, False], ids=["four lights", "no blue"])
def test_every_state_looks_different_on_every_lamp(dims: bool, blue: bool) -> None:
    shown = [*(signal(status) for status in STATUSES), NO_STATION]
    assert len({looks(one, dims=dims, blue=blue) for one in shown}) == len(shown)


def test_running_never_looks_like_failed() -> None:
    running = signal(STATUSES[1])
    assert running.pattern is Pattern.BREATHING
    assert Colour.RED not in running.colours
    assert signal(SlotStatus("1", SlotState.RESULT, outcome=Outcome.FAIL)) == Signal(
        frozenset({Colour.RED}), Pattern.STEADY, "FAIL"
    )


def test_a_line_that_stands_changes_no_latched_result_and_no_run() -> None:
    for status in STATUSES[1:]:
        assert signal(status, stopped=True) == signal(status)
    assert signal(STATUSES[0], stopped=True) == signal(STATUSES[2])


def test_a_double_blink_is_two_flashes_and_a_pause() -> None:
    shown = signal(SlotStatus("1", SlotState.RESULT, outcome=Outcome.ERROR))
    beat = [bool(frame(shown, at / 100, dims=True).levels) for at in range(120)]
    assert beat[0]
    assert sum(before is False and after is True for before, after in pairwise([*beat, beat[0]])) == 2


def test_a_breath_never_goes_out_and_is_smooth() -> None:
    levels = [frame(signal(STATUSES[1]), at / 100, dims=True).levels[Colour.BLUE] for at in range(480)]
    assert min(levels) > 0
    assert max(levels) == 1
    assert max(abs(after - before) for before, after in pairwise(levels)) < 0.25


def test_the_next_change_comes_when_it_is_told() -> None:
    for status in STATUSES:
        for dims in (True, False):
            shown, at = signal(status), 0.0
            for _ in range(40):
                now = frame(shown, at, dims=dims)
                if now.next_s is None:
                    break
                assert now.next_s > 0
                just_before = frame(shown, at + now.next_s * 0.99, dims=dims)
                assert (just_before.levels, just_before.buzzer) == (now.levels, now.buzzer)
                at += now.next_s + 1e-9


def test_the_buzzer_sounds_once_a_result() -> None:
    failed = signal(SlotStatus("1", SlotState.RESULT, outcome=Outcome.FAIL))
    heard = [frame(failed, at / 100, dims=False).buzzer for at in range(1000)]
    assert heard[0]
    assert sum(before is True and after is False for before, after in pairwise(heard)) == 1
    assert not any(frame(signal(STATUSES[1]), at / 10, dims=False).buzzer for at in range(50))


def test_the_line_s_lamp_is_dark_as_long_as_all_slots_work() -> None:
    assert line_signal(stopped=False, out=False) == Signal()
    assert line_signal(stopped=False, out=True) == signal(STATUSES[3])
    assert line_signal(stopped=True, out=True) == signal(STATUSES[2])


@pytest.mark.parametrize(("language", "word"), [("en", "FAIL"), ("vi", "HỎNG")])
def test_a_lamp_that_speaks_says_outcome_unit_code_and_what_to_do(language: str, word: str) -> None:
    messages = Messages.load(language)
    status = SlotStatus("1", SlotState.RESULT, serial="SN-1", outcome=Outcome.FAIL, fault=Fault.KEY_CLONED)
    said = describe(status, None, messages)
    assert said.startswith(f"{word}  SN-1  U114 {messages.title(Fault.KEY_CLONED)}")
    assert messages.remedy(Fault.KEY_CLONED) in said
    # A latched result says what it is, whether the line stands or not.
    assert describe(status, ANDON, messages) == said


def test_a_lamp_that_speaks_says_whose_move_it_is_while_the_line_stands() -> None:
    messages = Messages.load("en")
    said = describe(SlotStatus("1"), ANDON, messages)
    assert said.startswith(
        "the line stands  the move is with: the certificate authority  C301 The HSM does not answer."
    )
    assert describe(SlotStatus("1", SlotState.WAITING), ANDON, messages) == said
    now = StationStatus(1, "s", simulated=True, slots=(SlotStatus("7", SlotState.OUT),))
    assert describe_line(now, messages) == "out of service: 7"


def test_a_step_is_told_in_words() -> None:
    running = SlotStatus("1", SlotState.RUNNING, serial="SN-1", step=Step.ISSUE)
    assert describe(running, None, Messages.load("en")) == "working  SN-1  signing the certificate"
