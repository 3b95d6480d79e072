"""Lights on GPIO lines, through libgpiod 2 (its Python bindings: ``gpiod``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from station.lamps.lamp import without_blue
from station.lamps.signals import Colour, Frame


def _request(chip: str, **how: Any) -> Any:
    import gpiod  # noqa: PLC0415 - only a station with such a lamp needs it

    return gpiod.request_lines(chip, **how)


class GpioLamp:
    """Up to four lines of one chip. ``request`` stands in for `gpiod.request_lines` where there is no chip.

    A line that nobody holds may fall back to what the chip likes best, so the guardian stays as long as it has one.
    """

    dims = False
    keeps = False

    def __init__(
        self,
        chip: str,
        lines: Mapping[Colour, int | str],
        *,
        active_low: bool = False,
        request: Callable[..., Any] = _request,
    ) -> None:
        self._chip, self._lines, self._active_low, self._ask = chip, lines, active_low, request
        self._held: Any = None
        self._written: Mapping[int | str, Any] = {}

    def open(self) -> None:
        """Request the lines, all dark. Raises OSError where the chip is not there or another program has a line."""
        from gpiod import LineSettings  # noqa: PLC0415 - as above
        from gpiod.line import Direction  # noqa: PLC0415 - as above

        dark = LineSettings(direction=Direction.OUTPUT, active_low=self._active_low)
        self._held = self._ask(self._chip, consumer="station lamp", config={tuple(self._lines.values()): dark})
        self._written = {}

    def show(self, now: Frame, _text: str) -> None:
        """Set all lines at once, where one differs."""
        from gpiod.line import Value  # noqa: PLC0415 - as above

        levels = without_blue(now.levels, self._lines)
        wanted = {
            line: Value.ACTIVE if levels.get(colour, 0.0) >= 0.5 else Value.INACTIVE
            for colour, line in self._lines.items()
        }
        if wanted != self._written:
            self._held.set_values(wanted)
            self._written = wanted

    def close(self) -> None:
        """Give the lines back."""
        if self._held is not None:
            self._held.release()
            self._held = None
