"""The thread that closes days: the head is signed, the days go into an archive, the anchor leaves the machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from station.faults import Fault, FaultError
from station.ledger.anchors import Anchor, add_head, newest_heads
from station.ledger.export import archive
from station.ledger.store import Store

_LOOK_S: Final = 60.0
_DAYS_BACK: Final = 14  # a place that was away for so long still gets every day's anchor

log = structlog.get_logger()


def _now() -> datetime:
    return datetime.now(UTC)


class Keeper(threading.Thread):
    """Marks once a minute how far the record is, and looks whether a day (UTC) is over that has no head yet.

    What fails is tried again at the next look: the head first, then the archive, then each place that anchors go to,
    with the days that it missed. Which place has which is not on record: after a start they are brought once more.
    """

    def __init__(
        self,
        store: Store,
        station: str,
        archives: Path,
        *,
        sign: Callable[[bytes], bytes] | None = None,
        seal: str | None = None,
        places: Mapping[str, Callable[[Anchor], None]] | None = None,
        clock: Callable[[], datetime] = _now,
        tell: Callable[[FaultError | None], None] = lambda _: None,
    ) -> None:
        super().__init__(name="keeper")
        self._store, self._station, self._archives = store, station, archives
        self._sign, self._seal, self._clock, self._tell = sign, seal, clock, tell
        self._places = dict(places or {})
        self._done: set[tuple[str, str]] = set()
        self._closed = ""
        self._over = threading.Event()
        self._told: Fault | None = None

    def stop(self) -> None:
        """End after what is at hand; the next start goes on."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Work until `stop`."""
        while not self._over.is_set():
            try:
                self.look()
                self._told = None
                self._tell(None)
            except FaultError as error:
                self._say(error)
            except Exception as error:  # a thread's top: the proof must not stop the line
                log.exception("unexpected")
                self._say(FaultError(Fault.UNEXPECTED, type(error).__name__))
            self._over.wait(_LOOK_S)

    def look(self) -> None:
        """Close yesterday where that is still to do.

        Raises:
            FaultError: what kept it from being closed, archived or delivered.
        """
        self._store.mark()
        day = (self._clock() - timedelta(days=1)).date().isoformat()
        if self._closed == day:
            return
        head = add_head(self._store, self._station, day, self._sign, self._seal)
        if head is None:
            return
        if ("archive", day) not in self._done:
            written = archive(self._store.path, self._archives, head)
            self._done.add(("archive", day))
            if written is not None:
                log.info("days are archived", file=str(written.path), first=written.first, last=written.last)
        for place, deliver in self._places.items():
            self._anchor(place, deliver)
        self._closed = day

    def _anchor(self, place: str, deliver: Callable[[Anchor], None]) -> None:
        """Bring a place every day's head that it lacks: one that it does not take must not keep the later ones back."""
        refused: FaultError | None = None
        for one in newest_heads(self._store, _DAYS_BACK):
            if (place, one.day) in self._done:
                continue
            try:
                deliver(one)
            except FaultError as error:
                refused = refused or error
                if error.fault is not Fault.STORE_DIFFERS:  # the others would be told the same
                    break
            else:
                self._done.add((place, one.day))
                log.info("the day's head is anchored", place=place, day=one.day, link=one.seq)
        if refused is not None:
            raise refused

    def _say(self, error: FaultError) -> None:
        """Once a kind of trouble, not once a minute."""
        if error.fault is not self._told:
            log.error("a day is not closed yet", fault=error.fault.code, detail=error.detail)
        self._told = error.fault
        self._tell(error)
