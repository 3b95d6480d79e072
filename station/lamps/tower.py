"""A tower of three lights and a buzzer on a serial port, one byte a command (Adafruit 5125 and its like, 9600 baud)."""

from __future__ import annotations

from typing import Final

import serial

from station.lamps.lamp import without_blue
from station.lamps.signals import Colour, Frame

_BAUD: Final = 9_600
_WRITE_S: Final = 1.0
_ON, _OFF = 0x10, 0x20
_LIGHTS: Final = {Colour.RED: 0x01, Colour.AMBER: 0x02, Colour.GREEN: 0x04}
_BUZZER: Final = 0x08


class TowerLamp:
    """The tower remembers what it was told last; it has no blue, and its own blinking is not used: one beat for all."""

    dims = False
    keeps = True

    def __init__(self, port: str, *, buzzer: bool) -> None:
        self._path, self._buzzer = port, buzzer
        self._port: serial.Serial | None = None
        self._written: dict[int, bool] = {}

    def open(self) -> None:
        """Open the port; what the tower shows is not known then, so each light is told. Raises OSError."""
        self._port = serial.Serial(self._path, _BAUD, write_timeout=_WRITE_S, exclusive=True)
        self._written = {}

    def show(self, now: Frame, _text: str) -> None:
        """Send a byte for each light that differs."""
        levels = without_blue(now.levels, _LIGHTS)
        wanted = {bit: levels.get(colour, 0.0) >= 0.5 for colour, bit in _LIGHTS.items()}
        wanted[_BUZZER] = now.buzzer and self._buzzer
        told = bytes((_ON if on else _OFF) | bit for bit, on in wanted.items() if self._written.get(bit) is not on)
        if told and self._port is not None:
            self._port.write(told)
            self._written = wanted

    def close(self) -> None:
        """Close the port."""
        if self._port is not None:
            self._port.close()
            self._port = None
