"""Which slot holds a board. A slot's port is a path that names a place (a by-path link), never a tty that renumbers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Nest:
    """The place of one slot: a board is in it while the link resolves to a device."""

    port: Path

    def board(self) -> tuple[int, int] | None:
        """What is plugged in, as (device number, inode); None for nothing. Not an identity: it tells a re-plug."""
        try:
            found = self.port.stat()
        except OSError:
            return None
        return (found.st_rdev, found.st_ino)


class Presence:
    """Debounced presence: a board is *in* after ``debounce_s`` unchanged, and *lifted* after ``lifted_s`` of absence.

    The second is long, because a board that resets its own USB vanishes for some 100 ms and was not lifted.
    """

    poll_s = _POLL_S

    def __init__(self, nest: Nest, *, debounce_s: float, lifted_s: float) -> None:
        self._nest, self._debounce_s, self._lifted_s = nest, debounce_s, lifted_s
        self._seen: tuple[int, int] | None = None
        self._since = time.monotonic()

    def plugged(self) -> bool:
        """Whether the same board has been there for the debounce time. Call it repeatedly."""
        self._look()
        return self._seen is not None and time.monotonic() - self._since >= self._debounce_s

    def lifted(self) -> bool:
        """Whether nothing has been there for the lift time. Call it repeatedly."""
        self._look()
        return self._seen is None and time.monotonic() - self._since >= self._lifted_s

    def _look(self) -> None:
        now = self._nest.board()
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
