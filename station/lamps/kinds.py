"""From a lamp's settings, as plain values, to the lamp. A driver is loaded only where a lamp needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from station.lamps.lamp import Lamp
from station.lamps.signals import Colour


def make(settings: dict[str, Any], slot: str) -> Lamp:
    """The lamp of ``slot`` ("" for the whole line's)."""
    match settings["kind"]:
        case "leds":
            from station.lamps.leds import LedLamp  # noqa: PLC0415 - see above

            return LedLamp(Path(settings["folder"]), _of_each_colour(settings))
        case "gpio":
            from station.lamps.gpio import GpioLamp  # noqa: PLC0415 - see above

            return GpioLamp(settings["chip"], _of_each_colour(settings), active_low=settings["active_low"])
        case "tower":
            from station.lamps.tower import TowerLamp  # noqa: PLC0415 - see above

            return TowerLamp(settings["port"], buzzer=settings["buzzer"])
        case "usb":
            from station.lamps.usb import UsbLamp  # noqa: PLC0415 - see above

            return UsbLamp(settings["serial_number"])
    from station.lamps.terminal import TerminalLamp  # noqa: PLC0415 - see above

    return TerminalLamp(slot)


def _of_each_colour(settings: dict[str, Any]) -> dict[Colour, Any]:
    return {colour: settings[colour] for colour in Colour if settings.get(colour) is not None}
