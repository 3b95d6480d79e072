"""Colours, patterns, and what each moment of them looks like. No more is loaded by the guardian than this."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Colour(StrEnum):
    """The lights of one lamp."""

    GREEN = "green"
    RED = "red"
    AMBER = "amber"
    BLUE = "blue"


class Pattern(StrEnum):
    """How lights are on."""

    STEADY = "steady"
    BREATHING = "breathing"
    DOUBLE = "double blink"
    TURNS = "in turn"


@dataclass(frozen=True, slots=True)
class Signal:
    """What a lamp shows: no colours is off.

    ``sound`` names the result that has just come, where one has (its outcome's word).
    """

    colours: frozenset[Colour] = frozenset()
    pattern: Pattern = Pattern.STEADY
    sound: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """One moment of a signal: how bright each light is (0 to 1; those that are not named are off), and for how long.

    ``next_s`` is None where it stays so. ``buzzer`` is for lamps that have one.
    """

    levels: Mapping[Colour, float] = field(default_factory=dict)
    next_s: float | None = None
    buzzer: bool = False


NO_STATION: Final = Signal(frozenset({Colour.RED, Colour.AMBER}))

_BREATH_S: Final = 2.4
_BREATH_STEPS: Final = 16  # changes of brightness a breath: smooth to the eye, and little work
_DARKEST: Final = 0.06  # a breath never goes out: off means empty
# Seconds on and off in turn. A double blink is two short flashes and a pause: told from the slow one at a glance.
_SLOW: Final = (_BREATH_S / 2, _BREATH_S / 2)
_FLASHES: Final = (0.12, 0.12, 0.12, 0.84)
_TURN_S: Final = 0.6
# The buzzer, once a result: seconds on and off in turn.
_BEEPS: Final[Mapping[str, tuple[float, ...]]] = {
    "PASS": (0.08,),
    "PROVISIONED": (0.08, 0.08, 0.08),
    "FAIL": (0.8,),
    "ERROR": (0.2, 0.2, 0.2),
    "ABORTED": (0.2,),
}


def frame(shown: Signal, age_s: float, *, dims: bool) -> Frame:
    """The moment ``age_s`` after a signal began, for lights that can be dimmed or not."""
    levels, next_s = _lights(shown, age_s, dims=dims)
    beeps = _BEEPS.get(shown.sound, ())
    buzzer, beep_s = _once(beeps, age_s)
    nexts = [seconds for seconds in (next_s, beep_s) if seconds is not None]
    return Frame(levels, min(nexts, default=None), buzzer)


def _lights(shown: Signal, age_s: float, *, dims: bool) -> tuple[dict[Colour, float], float | None]:
    match shown.pattern:
        case Pattern.STEADY:
            return dict.fromkeys(shown.colours, 1.0), None
        case Pattern.BREATHING if dims:
            step_s = _BREATH_S / _BREATH_STEPS
            step, into_s = divmod(age_s, step_s)
            height = (1 + math.cos(2 * math.pi * step / _BREATH_STEPS)) / 2
            return dict.fromkeys(shown.colours, _DARKEST + (1 - _DARKEST) * height), step_s - into_s
        case Pattern.TURNS:
            turn, into_s = divmod(age_s, _TURN_S)
            colours = sorted(shown.colours)
            return {colours[int(turn) % len(colours)]: 1.0}, _TURN_S - into_s
    index, left_s = _beat(_SLOW if shown.pattern is Pattern.BREATHING else _FLASHES, age_s)
    return (dict.fromkeys(shown.colours, 1.0) if index % 2 == 0 else {}), left_s


def _beat(beat: tuple[float, ...], age_s: float) -> tuple[int, float]:
    """Which part of an endless beat it is, and how long that lasts yet."""
    at = age_s % sum(beat)
    for index, length in enumerate(beat):
        if at < length:
            return index, length - at
        at -= length
    return 0, beat[0]


def _once(beat: tuple[float, ...], age_s: float) -> tuple[bool, float | None]:
    for index, length in enumerate(beat):
        if age_s < length:
            return index % 2 == 0, length - age_s
        age_s -= length
    return False, None
