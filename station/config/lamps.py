"""The settings of the lamps: what an operator looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from station.config.loader import FilePath, Strict


class Leds(Strict):
    """Four lights of the Linux LED class; each value is a folder's name under ``folder``."""

    kind: Literal["leds"]
    folder: FilePath = Path("/sys/class/leds")
    green: str
    red: str
    amber: str
    blue: str

    @field_validator("green", "red", "amber", "blue")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if not name or "/" in name or name.startswith("."):
            raise ValueError("should be the name of one folder, as `ls /sys/class/leds` prints it")
        return name


class Terminal(Strict):
    """The lamp is a line on the station's terminal."""

    kind: Literal["terminal"]
