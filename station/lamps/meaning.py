"""What a status looks like. Running never looks like failed, and only a committed PASS is green alone.

| status | lights | pattern |
|---|---|---|
| EMPTY | none | |
| RUNNING | blue | breathes |
| PASS | green | steady |
| FAIL | red | steady |
| ERROR | amber | double blink |
| ABORTED | amber | steady |
| PROVISIONED | green and blue | steady |
| the line is stopped (andon) | red, amber | in turn |
| slot out of service | red and amber | double blink, together |
| no station | red and amber | steady |

What is not about the board in the slot is red *and* amber. The last of them is steady, since every light holds that by
itself once nobody drives it. A lamp without blue shows amber for it, a lamp that cannot be dimmed a slow blink.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from station.config.messages import Messages
from station.lamps.signals import Colour, Pattern, Signal
from station.model import Outcome
from station.status import Andon, SlotState, SlotStatus, StationStatus

_STOPPED: Final = Signal(frozenset({Colour.RED, Colour.AMBER}), Pattern.TURNS)
_OUT: Final = Signal(frozenset({Colour.RED, Colour.AMBER}), Pattern.DOUBLE)
_RUNNING: Final = Signal(frozenset({Colour.BLUE}), Pattern.BREATHING)
_RESULTS: Final[Mapping[Outcome, Signal]] = {
    Outcome.PASS: Signal(frozenset({Colour.GREEN}), sound="PASS"),
    Outcome.FAIL: Signal(frozenset({Colour.RED}), sound="FAIL"),
    Outcome.ERROR: Signal(frozenset({Colour.AMBER}), Pattern.DOUBLE, "ERROR"),
    Outcome.ABORTED: Signal(frozenset({Colour.AMBER}), sound="ABORTED"),
    Outcome.PROVISIONED: Signal(frozenset({Colour.GREEN, Colour.BLUE}), sound="PROVISIONED"),
}


def signal(status: SlotStatus, *, stopped: bool = False) -> Signal:
    """The one place that decides what a status looks like. ``stopped``: the whole line is (andon).

    What a board in the slot came to stays until it is lifted, whatever else is the matter with the station.
    """
    match status.state:
        case SlotState.RUNNING:
            return _RUNNING
        case SlotState.WAITING:
            return _STOPPED
        case SlotState.OUT:
            return _OUT
        case SlotState.EMPTY if stopped:
            return _STOPPED
    return Signal() if status.outcome is None else _RESULTS[status.outcome]


def line_signal(*, stopped: bool, out: bool) -> Signal:
    """What a lamp for the whole line shows: dark as long as all slots work."""
    if stopped:
        return _STOPPED
    return _OUT if out else Signal()


def describe(status: SlotStatus, andon: Andon | None, messages: Messages) -> str:
    """One line in the station's language: state, unit, step or result, and what to do."""
    if andon and status.state in {SlotState.EMPTY, SlotState.WAITING}:
        return describe_andon(andon, messages)
    words = [messages.word(status.state.value) if status.outcome is None else messages.word(status.outcome.value)]
    if status.serial:
        words.append(status.serial)
    if status.state is SlotState.RUNNING and status.step:
        words.append(messages.word(status.step.value))
    if status.fault:
        words.append(f"{status.fault.code} {messages.title(status.fault)}. {messages.remedy(status.fault)}")
    return "  ".join(words)


def describe_andon(andon: Andon, messages: Messages) -> str:
    """Why the line stands, whose move it is, and what to do."""
    fault = andon.fault
    whose = f"{messages.word('move')} {messages.word(fault.blame.value)}"
    return f"{messages.word('andon')}  {whose}  {fault.code} {messages.title(fault)}. {messages.remedy(fault)}"


def describe_line(now: StationStatus, messages: Messages) -> str:
    """The same for the whole line's lamp."""
    if now.andon:
        return describe_andon(now.andon, messages)
    out = [slot.slot for slot in now.slots if slot.state is SlotState.OUT]
    return f"{messages.word('out')}: {', '.join(out)}" if out else messages.word("at work")
