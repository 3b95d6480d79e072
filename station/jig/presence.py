"""Debounced presence: the jig's thread tells what it sees, the slot's thread asks what that means."""

from __future__ import annotations

import threading
import time
from typing import TypeAlias

# What is in a place, told from what was there before (real path, device number). Not an identity of the board.
Mark: TypeAlias = tuple[str | int, ...]


class Presence:
    """A board is *in* after ``debounce_s`` unchanged, and *lifted* after ``lifted_s`` of absence.

    The second is long, because a board that resets its own USB vanishes for some 100 ms and was not lifted. One thread
    waits (the slot's); any thread may tell.
    """

    def __init__(self, *, debounce_s: float, lifted_s: float) -> None:
        self._debounce_s, self._lifted_s = debounce_s, lifted_s
        # One value, replaced whole: whoever reads it needs no lock.
        self._now: tuple[Mark | None, float] = (None, time.monotonic())
        self._stirred = threading.Event()

    def see(self, mark: Mark | None) -> None:
        """Tell what is there now; None for nothing. Telling the same again changes nothing."""
        if mark != self._now[0]:
            self._now = (mark, time.monotonic())
            self._stirred.set()

    def there(self) -> bool:
        """Whether anything is there at this moment, debounced or not."""
        return self._now[0] is not None

    @property
    def since(self) -> float:
        """When what is there now came, or what was there went (``time.monotonic()``): another value, another board?"""
        return self._now[1]

    def plugged(self) -> bool:
        """Whether the same board has been there for the debounce time."""
        mark, since = self._now
        return mark is not None and time.monotonic() - since >= self._debounce_s

    def lifted(self) -> bool:
        """Whether nothing has been there for the lift time."""
        mark, since = self._now
        return mark is None and time.monotonic() - since >= self._lifted_s

    def wait(self, seconds: float) -> None:
        """Wait until something changes, a debounce or lift time is over, `wake` is called, or ``seconds`` passed."""
        mark, since = self._now
        due = since + (self._lifted_s if mark is None else self._debounce_s) - time.monotonic()
        self._stirred.wait(min(seconds, due) if due > 0 else seconds)
        self._stirred.clear()

    def wake(self) -> None:
        """End the present `wait`, or the next one at once: for reasons that are not the jig's."""
        self._stirred.set()
