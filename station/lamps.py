"""Status to colours: what an operator looks at. Running never looks like failed, and only a committed PASS is green.

| slot | colour | pattern |
|---|---|---|
| EMPTY | off | |
| RUNNING | blue | slow blink |
| PASS | green | steady |
| FAIL | red | steady |
| ERROR | amber | double blink |
| ABORTED | amber | steady |
| PROVISIONED | green and blue | steady |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import structlog

from station.config.messages import Messages
from station.model import Outcome
from station.status import SlotState, SlotStatus, StatusBoard

log = structlog.get_logger()


class Colour(StrEnum):
    """The lights of one lamp."""

    GREEN = "green"
    RED = "red"
    AMBER = "amber"
    BLUE = "blue"


class Pattern(StrEnum):
    """How a light is on."""

    STEADY = "steady"
    SLOW = "slow blink"
    DOUBLE = "double blink"


@dataclass(frozen=True, slots=True)
class Signal:
    """What a lamp shows: no colours is off."""

    colours: frozenset[Colour] = frozenset()
    pattern: Pattern = Pattern.STEADY


_RESULTS: Mapping[Outcome, Signal] = {
    Outcome.PASS: Signal(frozenset({Colour.GREEN})),
    Outcome.FAIL: Signal(frozenset({Colour.RED})),
    Outcome.ERROR: Signal(frozenset({Colour.AMBER}), Pattern.DOUBLE),
    Outcome.ABORTED: Signal(frozenset({Colour.AMBER})),
    Outcome.PROVISIONED: Signal(frozenset({Colour.GREEN, Colour.BLUE})),
}

# Seconds on and off in turn. A double blink is two short flashes and a pause: told from the slow one at a glance.
_BEAT: Mapping[Pattern, tuple[float, ...]] = {
    Pattern.STEADY: (),
    Pattern.SLOW: (0.6, 0.6),
    Pattern.DOUBLE: (0.12, 0.12, 0.12, 0.84),
}


def signal(status: SlotStatus) -> Signal:
    """The one place that decides what a status looks like."""
    if status.state is SlotState.RUNNING:
        return Signal(frozenset({Colour.BLUE}), Pattern.SLOW)
    if status.outcome is None:
        return Signal()
    return _RESULTS[status.outcome]


def lit(shown: Signal, age_s: float) -> tuple[bool, float | None]:
    """Whether the light is on ``age_s`` after its signal began, and the seconds to its next change (None: never)."""
    beat = _BEAT[shown.pattern]
    if not beat:
        return True, None
    at = age_s % sum(beat)
    for index, length in enumerate(beat):
        if at < length:
            return index % 2 == 0, length - at
        at -= length
    return True, beat[0]


class Lamp(Protocol):
    """One slot's lamp."""

    def show(self, status: SlotStatus, shown: Signal, /, *, on: bool) -> None:
        """Light it. Raises OSError where the lamp is gone; the line goes on without it."""


class LedLamp:
    """Lights of the Linux LED class: one folder a colour under /sys/class/leds (kernel: leds/leds-class.rst)."""

    def __init__(self, folder: Path, names: Mapping[Colour, str]) -> None:
        self._files = {colour: folder / name for colour, name in names.items()}
        self._written: dict[Colour, bool] = {}

    def show(self, _status: SlotStatus, shown: Signal, *, on: bool) -> None:
        """Write each light's brightness, where it differs from what was written last."""
        for colour, light in self._files.items():
            wanted = on and colour in shown.colours
            if self._written.get(colour) is wanted:
                continue
            if colour not in self._written:
                (light / "trigger").write_text("none")  # or the kernel goes on blinking it by itself
            full = (light / "max_brightness").read_text().strip() if wanted else "0"
            (light / "brightness").write_text(full)
            self._written[colour] = wanted


_STYLE = {Colour.GREEN: "bold green", Colour.RED: "bold red", Colour.AMBER: "bold yellow", Colour.BLUE: "bold blue"}


class TerminalLamp:
    """A line on the terminal for each change. Colours only where there is a terminal."""

    def __init__(self, messages: Messages) -> None:
        from rich.console import Console  # noqa: PLC0415 - only a station with this lamp needs it

        self._console, self._messages, self._last = Console(highlight=False, soft_wrap=True), messages, SlotStatus("")

    def show(self, status: SlotStatus, shown: Signal, *, on: bool) -> None:
        """Print the status once; a terminal does not blink."""
        if status == self._last or not on:
            return
        self._last = status
        style = _STYLE[min(shown.colours)] if shown.colours else "dim"
        self._console.print(f"[{status.slot}] {describe(status, self._messages)}", style=style, markup=False)


def describe(status: SlotStatus, messages: Messages) -> str:
    """One line in the station's language: state, unit, step or result, and what to do."""
    words = [messages.word(status.state.value) if status.outcome is None else messages.word(status.outcome.value)]
    if status.serial:
        words.append(status.serial)
    if status.state is SlotState.RUNNING and status.step:
        words.append(messages.word(status.step.value))
    if status.fault:
        words.append(f"{status.fault.code} {messages.title(status.fault)}. {messages.remedy(status.fault)}")
    return "  ".join(words)


class LampThread(threading.Thread):
    """Keeps every lamp at its slot's present status; a lamp that fails is named once and never stops the line."""

    def __init__(self, status: StatusBoard, lamps: Mapping[str, Iterable[Lamp]]) -> None:
        super().__init__(name="lamps")
        self._status = status
        self._lamps = {slot: tuple(some) for slot, some in lamps.items()}
        self._began: dict[str, tuple[SlotStatus, float]] = {}
        self._broken: set[int] = set()
        self._end = threading.Event()

    def stop(self) -> None:
        """End within half a second, all lights out."""
        self._end.set()
        self.join()

    def run(self) -> None:
        """Follow the status board, waking for its changes and for the next blink."""
        while not self._end.is_set():
            now = self._status.now()
            wake = min([0.5, *(self._light(slot) for slot in now.slots)])
            self._status.wait(now.version, wake)
        for slot in self._status.now().slots:
            self._light(SlotStatus(slot.slot))

    def _light(self, slot: SlotStatus) -> float:
        shown, began = self._began.get(slot.slot, (None, 0.0))
        if shown != slot:
            began = time.monotonic()
            self._began[slot.slot] = (slot, began)
        on, next_s = lit(signal(slot), time.monotonic() - began)
        for lamp in self._lamps.get(slot.slot, ()):
            self._try(lamp, slot, on=on)
        return 0.5 if next_s is None else max(next_s, 0.01)

    def _try(self, lamp: Lamp, slot: SlotStatus, *, on: bool) -> None:
        try:
            lamp.show(slot, signal(slot), on=on)
            self._broken.discard(id(lamp))
        except (OSError, ValueError) as error:
            if id(lamp) not in self._broken:
                self._broken.add(id(lamp))
                log.warning("a lamp does not work", slot=slot.slot, detail=str(error))
