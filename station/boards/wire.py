"""A board's serial port, as every family uses it: bounded in time and bytes, heard by the run's stop, transcribed.

Facts of ports (``boards.md``): an unplugged one raises four kinds of exceptions by what was asked of it; a write may
block for ever; a read of a single byte at a time is 600 times too slow.
"""

from __future__ import annotations

import contextlib
import errno
import re
import select
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import serial

from station.faults import Fault, FaultError, printable
from station.interfaces import Stop
from station.transcript import Transcript

_T = TypeVar("_T")

NOISE_MAX: Final = 262_144  # bytes that may come while waiting for one answer

_TICK_S: Final = 0.02  # how long one read or one look for room may block: the stop is looked at in between
_WRITE_S: Final = 1.0  # patience with a port that takes no more bytes, beside their own time on the line
_CHUNK: Final = 4_096
_WRITE_PIECE: Final = 256
_QUOTED: Final = 160  # bytes of the board's last words in a fault's detail

# What open() says where nothing is plugged in (any more); EIO is a tty that was hung up.
_NOBODY: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EIO})
# What pyserial raises once the device is gone: flush raises termios.error, a close by another thread TypeError.
_GONE: Final = (OSError, termios.error, TypeError)
# ANSI control sequences and the two-byte escapes (ECMA-48, 5.3 and 5.4): colours and cursor moves of shells.
_ANSI: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")


def plain(data: bytes) -> bytes:
    """``data`` without ANSI sequences."""
    return _ANSI.sub(b"", data)


class Never:
    """No reason to stop, for a probe that is short anyway, and for a person at a terminal, who has Ctrl-C."""

    def check(self) -> None:
        """Go on."""

    def wait(self, seconds: float) -> None:
        """Wait all of it."""
        time.sleep(seconds)


class Wire:
    """One open port. What was read and not yet asked for is kept, up to `NOISE_MAX` bytes.

    Raises:
        FaultError: `Fault.LIFTED` where there is no such port; `Fault.PORT_DENIED` where it cannot be opened. Every
            method but `close`: `Fault.LIFTED` where the port died, and what the run's stop raises.
    """

    def __init__(self, port: str, baud: int, stop: Stop, transcript: Transcript) -> None:
        self.baud = baud
        self._path, self._stop, self._transcript = port, stop, transcript
        self._held = bytearray()
        self._port = _open(port, baud)

    def read(self) -> bytes:
        """What has come, or the first bytes of what comes within a tick of 20 ms; at most some kilobytes."""
        if self._held:
            held = bytes(self._held)
            self._held.clear()
            return held
        self._stop.check()
        try:
            chunk = bytes(self._port.read(max(1, min(self._port.in_waiting, _CHUNK))))
        except _GONE as error:
            raise self._gone(error) from None
        self._transcript.received(chunk)
        return chunk

    def write(self, data: bytes) -> None:
        """All of ``data``, in pieces, each once there is room, so that a board that takes nothing hides no stop.

        Raises:
            FaultError: `Fault.UNIT_SILENT` where the port takes no more bytes.
        """
        self._transcript.sent(data)
        end = time.monotonic() + _WRITE_S + len(data) * 10 / self.baud
        try:
            for start in range(0, len(data), _WRITE_PIECE):
                while not select.select([], [self._port.fileno()], [], _TICK_S)[1]:
                    self._stop.check()
                    if time.monotonic() > end:
                        raise FaultError(Fault.UNIT_SILENT, "the port takes no more bytes")
                self._port.write(data[start : start + _WRITE_PIECE])
        except serial.SerialTimeoutException:
            raise FaultError(Fault.UNIT_SILENT, "the port takes no more bytes") from None
        except _GONE as error:
            raise self._gone(error) from None

    def until(self, wanted: re.Pattern[bytes], total_s: float, *, most: int = NOISE_MAX) -> re.Match[bytes]:
        """Read until ``wanted`` is found in what came (ANSI sequences taken out); what stands behind it is kept.

        ``Match.string`` is all that came up to then. A pattern that may match the beginning of a longer answer must say
        where that ends. ``most`` bounds the bytes that are looked at.

        Raises:
            FaultError: `Fault.UNIT_SILENT` where it does not come within ``total_s`` seconds; `Fault.UNIT_GARBLED`
                where more than ``most`` bytes came instead.
        """
        raw, end = bytearray(), time.monotonic() + total_s
        while True:
            raw += self.read()
            text = plain(bytes(raw))
            found = wanted.search(text)
            if found is not None:
                self._held[:0] = text[found.end() :]
                return found
            if len(raw) > most:
                raise FaultError(Fault.UNIT_GARBLED, f"over {most} bytes came instead of an answer")
            if time.monotonic() > end:
                said = printable(text[-_QUOTED:].decode("latin-1"), 2 * _QUOTED)
                raise FaultError(Fault.UNIT_SILENT, f"no answer within {total_s:g} s; the board's last words: {said!r}")

    def ask(self, line: bytes, wanted: re.Pattern[bytes], total_s: float, *, most: int = NOISE_MAX) -> re.Match[bytes]:
        """Write, and read `until`; the bytes' own time on the line comes on top of ``total_s``."""
        self.write(line)
        return self.until(wanted, total_s + len(line) * 20 / self.baud, most=most)

    def drain(self, quiet_s: float, total_s: float) -> bytes:
        """What comes until nothing did for ``quiet_s`` (or ``total_s`` is over): the rest of a former talk."""
        came, last, end = bytearray(), time.monotonic(), time.monotonic() + total_s
        while time.monotonic() - last < quiet_s and time.monotonic() < end and len(came) < NOISE_MAX:
            if chunk := self.read():
                came += chunk
                last = time.monotonic()
        return bytes(came)

    @contextmanager
    def private(self, what: str) -> Iterator[None]:
        """Nothing that passes within is transcribed, nor quoted by a fault: around a secret and its echo.

        Raises:
            FaultError: as what is done within; a unit's fault with a detail that holds nothing of what the board said.
        """
        try:
            with self._transcript.private(what):
                yield
        except FaultError as error:
            if error.fault.code.startswith("U"):
                error.unquoted(f"while {what} was sent; what the board said is not quoted, for it may hold that")
            raise

    def note(self, text: str) -> None:
        """Say in the transcript what no byte shows."""
        self._transcript.note(text)

    def wait(self, seconds: float) -> None:
        """Wait, but raise as soon as the run's stop does."""
        self._stop.wait(seconds)

    def reopen(self, total_s: float) -> None:
        """Close, and open again as soon as the port is there: a USB board that resets takes its port along.

        Raises:
            FaultError: `Fault.LIFTED` or `Fault.PORT_DENIED` where it is not back within ``total_s`` seconds.
        """
        self.close()
        self._held.clear()
        end = time.monotonic() + total_s
        while True:
            self._stop.wait(0.05)
            try:
                self._port = _open(self._path, self.baud)
            except FaultError:
                if time.monotonic() > end:
                    raise
            else:
                self.note("the port was opened again")
                return

    def through_restart(self, act: Callable[[], _T], total_s: float) -> _T:
        """Do ``act``, and again where the port went meanwhile and came back: a USB board takes it along as it restarts.

        Raises:
            FaultError: as ``act``; `Fault.LIFTED` where the port is not back within ``total_s`` seconds.
        """
        end = time.monotonic() + total_s
        while True:
            try:
                return act()
            except FaultError as error:
                if error.fault is not Fault.LIFTED or time.monotonic() > end:
                    raise
            self.reopen(end - time.monotonic())

    def close(self) -> None:
        """Give the port back. Never raises, and does not wait for a board that takes nothing."""
        with contextlib.suppress(*_GONE):
            self._port.reset_output_buffer()
        with contextlib.suppress(*_GONE):
            self._port.close()

    def _gone(self, error: BaseException) -> FaultError:
        return FaultError(Fault.LIFTED, f"the port died: {type(error).__name__}: {error}")


def _open(port: str, baud: int) -> serial.Serial:
    try:
        return serial.Serial(port, baud, timeout=_TICK_S, write_timeout=_WRITE_S, exclusive=True)
    except (OSError, termios.error, ValueError) as error:
        number = getattr(error, "errno", None) or _first_argument(error) or _first_argument(error.__context__)
        fault = Fault.LIFTED if number in _NOBODY else Fault.PORT_DENIED
        raise FaultError(fault, f"{port}: {error}") from None


def _first_argument(error: BaseException | None) -> object:
    """The errno of a termios.error: pyserial wraps it in an exception that only quotes it."""
    return error.args[0] if isinstance(error, termios.error) and error.args else None
