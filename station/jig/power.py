"""A slot's power: a port of a USB hub that can switch it (uhubctl), or a relay on a GPIO line."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import gpiod
from gpiod.line import Direction, Value

from station.faults import Fault, FaultError
from station.jig.nest import Power

_UHUBCTL_S: Final = 15.0
_OFF_S: Final = 1.0  # a board's capacitors are empty by then


class HubPower:
    """One port of a USB hub. uhubctl runs as a child: it talks to libusb, which may hang with its hub."""

    def __init__(self, location: str, port: int, *, program: str = "uhubctl") -> None:
        self._location, self._port, self._program = location, port, program

    def on(self) -> None:
        """Switch on. Raises `Fault.POWER_STUCK`."""
        self._switch("on")

    def off(self) -> None:
        """Switch off. Raises `Fault.POWER_STUCK`."""
        self._switch("off")

    def _switch(self, action: str) -> None:
        what = f"uhubctl, port {self._port} of hub {self._location} {action}"
        command = [self._program, "--location", self._location, "--ports", str(self._port), "--action", action]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_UHUBCTL_S, check=False
            )
        except FileNotFoundError as error:
            raise FaultError(Fault.POWER_STUCK, f"{what}: not installed; apt-get install uhubctl") from error
        except subprocess.TimeoutExpired as error:
            raise FaultError(Fault.POWER_STUCK, f"{what}: no end within {_UHUBCTL_S:.0f} s") from error
        except OSError as error:
            raise FaultError(Fault.POWER_STUCK, f"{what}: {error.strerror}") from error
        if done.returncode:
            said = (done.stderr or done.stdout)[-200:].decode(errors="replace").strip()
            raise FaultError(Fault.POWER_STUCK, f"{what}: exit {done.returncode}: {said}")


class RelayPower:
    """A relay on a GPIO line. The line is held as long as this lives: what nobody holds may fall back."""

    def __init__(
        self,
        chip: Path,
        line: int,
        *,
        active_low: bool,
        request: Callable[..., gpiod.LineRequest] = gpiod.request_lines,
    ) -> None:
        self._chip, self._line, self._active_low, self._request = chip, line, active_low, request
        self._held: gpiod.LineRequest | None = None

    def on(self) -> None:
        """Switch on. Raises `Fault.POWER_STUCK`."""
        self._set(Value.ACTIVE)

    def off(self) -> None:
        """Switch off. Raises `Fault.POWER_STUCK`."""
        self._set(Value.INACTIVE)

    def _set(self, value: Value) -> None:
        try:
            if self._held is None:
                settings = gpiod.LineSettings(
                    direction=Direction.OUTPUT, active_low=self._active_low, output_value=value
                )
                self._held = self._request(str(self._chip), consumer="station", config={self._line: settings})
            else:
                self._held.set_value(self._line, value)
        except (OSError, ValueError) as error:
            raise FaultError(Fault.POWER_STUCK, f"the relay on line {self._line} of {self._chip}: {error}") from error


def cycle(power: Power, off_s: float = _OFF_S) -> None:
    """Off, a pause, on. Raises `Fault.POWER_STUCK`."""
    power.off()
    time.sleep(off_s)
    power.on()
