"""Presence where the port never vanishes: a modem line of the adapter, or a lid switch on a GPIO line."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import termios
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import gpiod
import structlog
from gpiod.line import Bias, Direction, Edge, Value

from station.faults import Fault, FaultError

_LINES_S: Final = 0.05  # modem lines give no news; one ioctl a slot so often
_SWITCH_SETTLES: Final = timedelta(milliseconds=5)  # the kernel's own debounce, beside the slot's

log = structlog.get_logger()

# The bits of TIOCMGET, by the names on an adapter: see tty_ioctl(4).
LINES: Final = {"cts": termios.TIOCM_CTS, "dsr": termios.TIOCM_DSR, "dcd": termios.TIOCM_CAR, "ri": termios.TIOCM_RI}


def modem_lines(handle: int) -> int:
    """The state of an open port's modem lines, as bits. Raises OSError."""
    bits = array.array("i", [0])
    fcntl.ioctl(handle, termios.TIOCMGET, bits)
    return bits[0]


class LineSensor:
    """A board pulls a modem line of the adapter while it is in. A source of the jig's; looked at by its thread.

    The port is held open, beside the driver's own opening during a run: a close would drop DTR and RTS, which resets
    many boards.
    """

    def __init__(
        self, port: Callable[[], str], line: str, *, active_high: bool, read: Callable[[int], int] = modem_lines
    ) -> None:
        self._port, self._bit, self._active_high, self._read = port, LINES[line], active_high, read
        self._handle: int | None = None
        self._closed = False
        self._named = False

    def closed(self) -> bool:
        """Whether the line says that a board is in."""
        return self._closed

    def fileno(self) -> None:
        """Modem lines give no news."""

    def read(self) -> None:
        """There never is any."""

    def reconcile(self) -> None:
        """`look` does it all the time."""

    def look(self) -> float | None:
        """Read the line; a port that is gone holds no board."""
        try:
            if self._handle is None:
                self._handle = os.open(self._port(), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._closed = bool(self._read(self._handle) & self._bit) is self._active_high
            self._named = False
        except (OSError, FaultError) as error:
            self._closed = False
            self.close()
            if not self._named:
                self._named = True
                log.warning("a slot's modem line cannot be read", detail=str(error))
        return _LINES_S

    def close(self) -> None:
        """Give the port back."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None


class SwitchSensor:
    """A lid switch, or any contact, on a GPIO line. A source of the jig's: its edges are news.

    Raises:
        FaultError: `Fault.JIG_BLIND` where there is no such line, or somebody else holds it.
    """

    def __init__(
        self,
        chip: Path,
        line: int,
        *,
        active_low: bool,
        request: Callable[..., gpiod.LineRequest] = gpiod.request_lines,
    ) -> None:
        self._line = line
        settings = gpiod.LineSettings(
            direction=Direction.INPUT,
            edge_detection=Edge.BOTH,
            bias=Bias.PULL_UP if active_low else Bias.PULL_DOWN,
            active_low=active_low,
            debounce_period=_SWITCH_SETTLES,
        )
        try:
            self._held = request(str(chip), consumer="station", config={line: settings})
            self._closed = self._value()
        except (OSError, ValueError) as error:
            raise FaultError(Fault.JIG_BLIND, f"the switch on line {line} of {chip}: {error}") from error

    def closed(self) -> bool:
        """Whether the switch is closed."""
        return self._closed

    def fileno(self) -> int:
        """To wait on."""
        return self._held.fd

    def read(self) -> None:
        """Take the edges, and the line's state after them."""
        with contextlib.suppress(OSError):
            self._held.read_edge_events()
        self.reconcile()

    def reconcile(self) -> None:
        """Read the line. A chip that is gone (a USB expander) holds no board."""
        try:
            self._closed = self._value()
        except OSError as error:
            if self._closed:
                log.error("a slot's switch is gone", line=self._line, detail=str(error))  # noqa: TRY400 - the detail says it
            self._closed = False

    def look(self) -> None:
        """Nothing is ever due."""

    def close(self) -> None:
        """Give the line back."""
        self._held.release()

    def _value(self) -> bool:
        return self._held.get_value(self._line) is Value.ACTIVE
