"""A simulated board's wire: a pty under a link, with the bytes a second of a real one."""

from __future__ import annotations

import os
import select
import sys
import time
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self

from station.sim.board_frames import LINE

_PIECE = 4_096
_LOST_AFTER_S = 0.5


class PowerOffError(Exception):
    """The board was unplugged: its parent is gone, a signal came, or a fault wants it so."""


class Wire:
    """The board's end of the pty. Everything that waits here also waits for the power to go.

    Raises:
        PowerOffError: by every method, once ``power`` (stdin, for a board that is a process) is closed.

    Attributes:
        came, went: the bytes so far, each way.
    """

    def __init__(self, link: Path, bytes_a_second: int = 0, power: int | None = None) -> None:
        self._link, self._rate = link, bytes_a_second
        self._power = sys.stdin.fileno() if power is None else power
        self._open()
        self._lines: deque[bytes | None] = deque()
        self._half = bytearray()
        self._too_long = False
        self._sent_at = self._got_at = 0.0
        self.came = self.went = 0
        self._before: tuple[int, int, float] = (0, 0, 0.0)  # the bytes each way until this rate, and what they took

    def _open(self) -> None:
        # The slave stays open here too: with no slave open at all, the master reads EIO.
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._tty = os.ttyname(self._slave)

    def __enter__(self) -> Self:
        self._show()
        return self

    def _show(self) -> None:
        new = self._link.with_name(f".#{self._link.name}.{os.getpid()}")
        new.symlink_to(self._tty)
        new.replace(self._link)

    def renumber(self, gone_s: float) -> None:
        """Vanish and come back under the same link with another tty, as a USB board that restarts."""
        gone = self._master, self._slave
        self._link.unlink(missing_ok=True)
        self._open()  # before the old one is closed, or it might get the same number
        for end in gone:
            os.close(end)
        self.pause(gone_s)
        self._show()

    def __exit__(self, *_: object) -> None:
        # Another board may have been put into this place meanwhile; its link is not ours to take.
        if self._link.is_symlink() and str(self._link.readlink()) == self._tty:
            self._link.unlink()
        os.close(self._master)
        os.close(self._slave)

    def line(self) -> bytes | None:
        """The next line that is not empty, without its end; None for one that was longer than the buffer."""
        while not self._lines:
            if self._wait(read=True):
                self._receive()
        return self._lines.popleft()

    def take(self) -> bytes:
        """What has come, or what comes next, as it is: for boards whose lines have rules of their own."""
        while not self._wait(read=True):
            pass
        return self._read()

    def hear(self, other: int, timeout_s: float) -> tuple[bytes, bool]:
        """What has come here, and whether ``other`` has something to read too: the first of them within the time."""
        ready = self._ready([self._master, other], [], timeout_s)
        return self._read() if self._master in ready else b"", other in ready

    def send(self, data: bytes) -> None:
        """Send at the wire's rate. What nobody takes for half a second is lost, as on a wire."""
        piece = max(1, self._rate // 100) if self._rate else _PIECE
        rest = memoryview(data)
        while rest:
            if not self._wait(write=True, timeout_s=_LOST_AFTER_S):
                return
            sent = os.write(self._master, rest[:piece])
            rest = rest[sent:]
            self.went += sent
            self._sent_at = self._pass(self._sent_at, sent)

    def pause(self, seconds: float) -> None:
        """Do nothing for so long."""
        self.pause_while(lambda: True, seconds)

    def pause_while(self, condition: Callable[[], bool], seconds: float) -> None:
        """Do nothing as long as ``condition`` holds, but no longer than ``seconds``."""
        end = time.monotonic() + seconds
        while condition() and (rest := end - time.monotonic()) > 0:
            self._wait(timeout_s=min(rest, 0.01))

    def discard(self) -> None:
        """Lose what has come in so far."""
        self._lines.clear()
        self._half.clear()
        self._too_long = False
        while select.select([self._master], [], [], 0)[0]:
            os.read(self._master, _PIECE)

    def set_rate(self, bytes_a_second: int) -> None:
        """Another baud rate from now on; 0 for no limit."""
        self._before = self.came, self.went, self.floor_s
        self._rate = bytes_a_second

    @property
    def floor_s(self) -> float:
        """The seconds that the bytes so far take at least: at each rate those of its busier direction."""
        came, went, before = self._before
        return before + max(self.came - came, self.went - went) / self._rate if self._rate else before

    def _receive(self) -> None:
        *ended, rest = self._read().split(b"\n")
        for end in ended:
            self._keep(end)
            if self._too_long or self._half:
                self._lines.append(None if self._too_long else bytes(self._half))
            self._half.clear()
            self._too_long = False
        self._keep(rest)

    def _read(self) -> bytes:
        piece = os.read(self._master, max(1, self._rate // 100) if self._rate else _PIECE)
        self.came += len(piece)
        self._got_at = self._pass(self._got_at, len(piece))
        return piece

    def _keep(self, piece: bytes) -> None:
        """Put a piece into the line buffer; one that does not fit spoils its line."""
        if len(self._half) + len(piece) >= LINE:
            self._too_long = True
            self._half.clear()
        else:
            self._half += piece

    def _pass(self, last: float, count: int) -> float:
        """Let the time pass that ``count`` bytes take after those that passed at ``last``."""
        if not self._rate:
            return last
        through = max(last, time.monotonic()) + count / self._rate
        self.pause(through - time.monotonic())
        return through

    def _wait(self, *, read: bool = False, write: bool = False, timeout_s: float | None = None) -> bool:
        """Whether the pty became ready within the time."""
        ready = self._ready([self._master] if read else [], [self._master] if write else [], timeout_s)
        return self._master in ready

    def _ready(self, readers: list[int], writers: list[int], timeout_s: float | None) -> set[int]:
        readable, writable, _ = select.select([self._power, *readers], writers, [], timeout_s)
        if self._power in readable and not os.read(self._power, _PIECE):
            raise PowerOffError
        return {*readable, *writable} - {self._power}
