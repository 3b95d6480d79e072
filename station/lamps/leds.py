"""Lights of the Linux LED class: one folder a colour under /sys/class/leds (kernel: leds/leds-class.rst)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from station.lamps.lamp import without_blue
from station.lamps.signals import Colour, Frame


class LedLamp:
    """Up to four LEDs. What was written last stays: the kernel holds it, whoever dies."""

    keeps = True

    def __init__(self, folder: Path, names: Mapping[Colour, str]) -> None:
        self._files = {colour: folder / name for colour, name in names.items()}
        self._full: dict[Colour, int] = {}
        self._written: dict[Colour, int] = {}

    @property
    def dims(self) -> bool:
        """Whether every LED has more steps than one."""
        return all(full > 1 for full in self._full.values())

    def open(self) -> None:
        """Take the kernel's triggers away, or it goes on blinking by itself."""
        self._written.clear()
        for colour, light in self._files.items():
            (light / "trigger").write_text("none")
            self._full[colour] = int((light / "max_brightness").read_text())

    def show(self, now: Frame, _text: str) -> None:
        """Write each light's brightness where it differs from what was written last."""
        levels = without_blue(now.levels, self._files)
        for colour, light in self._files.items():
            wanted = round(levels.get(colour, 0.0) * self._full[colour])
            if self._written.get(colour) != wanted:
                (light / "brightness").write_text(str(wanted))
                self._written[colour] = wanted

    def close(self) -> None:
        """Nothing is held open."""
