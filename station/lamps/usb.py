"""USB status lights of many makers, through busylight-core. One light of any colour, so pairs of colours are mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from station.lamps.signals import Colour, Frame

_RGB: Final[Mapping[frozenset[Colour], tuple[int, int, int]]] = {
    frozenset({Colour.GREEN}): (0, 255, 0),
    frozenset({Colour.RED}): (255, 0, 0),
    frozenset({Colour.AMBER}): (255, 120, 0),
    frozenset({Colour.BLUE}): (0, 0, 255),
    frozenset({Colour.GREEN, Colour.BLUE}): (0, 255, 255),
    frozenset({Colour.RED, Colour.AMBER}): (255, 0, 255),  # not their mean: that is amber
}


class UsbLamp:
    """The light with this serial number (None: the only one there is). ``find`` stands in where there is none.

    Many lights keep their colour, some go out after seconds without a word: the guardian stays as long as it has one.
    """

    dims = True
    keeps = False

    def __init__(self, serial_number: str | None, find: Callable[[str | None], Any] | None = None) -> None:
        self._serial_number, self._find = serial_number, find or _find
        self._light: Any = None
        self._written: tuple[int, int, int] | None = None

    def open(self) -> None:
        """Find the light and keep other programs off it. Raises `busylight_core.NoLightsFoundError` or OSError."""
        self._light = self._find(self._serial_number)
        self._written = None

    def show(self, now: Frame, _text: str) -> None:
        """Set the colour where it differs."""
        lit = {colour: level for colour, level in now.levels.items() if level > 0}
        level = max(lit.values(), default=0.0)
        red, green, blue = _RGB.get(frozenset(lit), (0, 0, 0))
        wanted = (round(red * level), round(green * level), round(blue * level))
        if wanted != self._written:
            self._light.on(wanted)
            self._written = wanted

    def close(self) -> None:
        """Give it back as it is."""
        if self._light is not None:
            self._light.release()
            self._light = None


def _find(serial_number: str | None) -> Any:
    from busylight_core import Light  # noqa: PLC0415 - only a station with such a lamp needs it
    from loguru import logger  # noqa: PLC0415 - it comes with busylight-core

    logger.remove()  # it would write to the station's log, in a format of its own

    def wanted(hardware: Any) -> bool:
        return serial_number is None or hardware.serial_number == serial_number

    return Light.first_light(predicate=wanted)
