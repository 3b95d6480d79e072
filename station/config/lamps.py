"""The settings of lamps and sounds: what a slot, or the whole line, shows its state with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from station.config.loader import FilePath, Strict

_Line: TypeAlias = Annotated[int, Field(ge=0, le=1023)] | Annotated[str, Field(min_length=1, max_length=32)]


class Leds(Strict):
    """Lights of the Linux LED class; each value is a folder's name under ``folder``. Without blue, amber shows it."""

    kind: Literal["leds"]
    folder: FilePath = Path("/sys/class/leds")
    green: str
    red: str
    amber: str
    blue: str | None = None

    def files(self) -> tuple[Path, ...]:
        """What must be there, and be open to the station, for the lamp to work."""
        names = [name for name in (self.green, self.red, self.amber, self.blue) if name is not None]
        return tuple(self.folder / name / "brightness" for name in names)

    @field_validator("green", "red", "amber", "blue")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and (not name or "/" in name or name.startswith(".")):
            raise ValueError("should be the name of one folder, as `ls /sys/class/leds` prints it")
        return name


class Gpio(Strict):
    """Lights on GPIO lines of one chip, each by its offset or its name (``gpioinfo`` prints them)."""

    kind: Literal["gpio"]
    chip: Annotated[str, Field(pattern=r"^/dev/[A-Za-z0-9_./-]{1,64}$")] = "/dev/gpiochip0"
    green: _Line
    red: _Line
    amber: _Line
    blue: _Line | None = None
    active_low: bool = False

    def files(self) -> tuple[Path, ...]:
        """As `Leds.files`."""
        return (Path(self.chip),)

    @model_validator(mode="after")
    def _each_once(self) -> Gpio:
        lines = [line for line in (self.green, self.red, self.amber, self.blue) if line is not None]
        if len(set(lines)) < len(lines):
            raise ValueError("two lights are on one line; each has its own")
        return self


class Tower(Strict):
    """A tower of red, amber and green with a buzzer on a serial port (Adafruit 5125 and its like)."""

    kind: Literal["tower"]
    port: FilePath
    buzzer: bool = False

    def files(self) -> tuple[Path, ...]:
        """As `Leds.files`."""
        return (self.port,)


class Usb(Strict):
    """A USB status light that busylight-core knows, by its serial number where there are several."""

    kind: Literal["usb"]
    serial_number: Annotated[str, Field(min_length=1, max_length=128)] | None = None

    def files(self) -> tuple[Path, ...]:
        """As `Leds.files`: only its library knows."""
        return ()


class Terminal(Strict):
    """The lamp is a line on the station's terminal."""

    kind: Literal["terminal"]

    def files(self) -> tuple[Path, ...]:
        """As `Leds.files`."""
        return ()


Lamp: TypeAlias = Annotated[Leds | Gpio | Tower | Usb | Terminal, Field(discriminator="kind")]


class Sounds(Strict):
    """A sound a result: ``command`` with the result's file behind it. Results without a file are silent."""

    command: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(min_length=1)]
    PASS: FilePath | None = None
    FAIL: FilePath | None = None
    ERROR: FilePath | None = None
    ABORTED: FilePath | None = None
    PROVISIONED: FilePath | None = None
    timeout_s: Annotated[float, Field(ge=0.1, le=30)] = 5.0
