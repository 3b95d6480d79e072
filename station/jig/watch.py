"""One thread for the whole jig: it sleeps on the kernel's news, and tells each slot what is in its place."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final, Protocol

from station.jig.nest import Nest

_RECONCILE_S: Final = 3.0  # news may be lost (a full socket, a suspended machine): look at everything so often


class Source(Protocol):
    """Where news come from."""

    def fileno(self) -> int | None:
        """Readable when there are news; None for a source that only ever looks."""

    def read(self) -> None:
        """Take them. Never blocks."""

    def reconcile(self) -> None:
        """Find out what the news may have missed."""

    def look(self) -> float | None:
        """Do what is due without news; return in how many seconds there is more of it, None for nothing."""

    def close(self) -> None:
        """Give everything back."""


class Jig(threading.Thread):
    """Looks at every nest at the start, at each piece of news, and every few seconds."""

    def __init__(self, nests: Sequence[Nest], sources: Sequence[Source]) -> None:
        super().__init__(name="jig")
        self.nests, self._sources = tuple(nests), tuple(sources)
        self._wake, self._waker = os.pipe()
        self._ending = False

    def look(self) -> None:
        """Look at every nest once, before the thread starts: what is there now, nobody saw come."""
        for source in self._sources:
            source.reconcile()
            source.look()
        for nest in self.nests:
            nest.look()

    def stop(self) -> None:
        """End at once."""
        self._ending = True
        os.write(self._waker, b"x")
        self.join()
        os.close(self._wake)
        os.close(self._waker)

    def run(self) -> None:
        """Watch until stopped."""
        with ExitStack() as parts:
            selector = parts.enter_context(selectors.DefaultSelector())
            selector.register(self._wake, selectors.EVENT_READ)
            for source in self._sources:
                parts.callback(source.close)
                if (handle := source.fileno()) is not None:
                    selector.register(handle, selectors.EVENT_READ, source)
            reconcile_at = 0.0
            while not self._ending:
                if time.monotonic() >= reconcile_at:
                    for source in self._sources:
                        source.reconcile()
                    reconcile_at = time.monotonic() + _RECONCILE_S
                # Sources first: a nest looks at what its source found.
                due = [source.look() for source in self._sources] + [nest.look() for nest in self.nests]
                soon = [again for again in due if again is not None]
                for key, _ in selector.select(min([reconcile_at - time.monotonic(), *soon])):
                    if key.data is not None:
                        key.data.read()
