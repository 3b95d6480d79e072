"""The thread that closes days: the head is signed, the days go into an archive, the anchor leaves the machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from station.faults import Fault, FaultError
from station.ledger.anchors import Anchor, add_head
from station.ledger.export import archive
from station.ledger.store import Store

_LOOK_S: Final = 60.0

log = structlog.get_logger()


def _now() -> datetime:
    return datetime.now(UTC)


class Keeper(threading.Thread):
    """Looks once a minute whether a day (UTC) is over that has no head yet.

    What fails is tried again at the next look: the head first, then the archive, then each place that anchors go to.
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
    ) -> None:
        super().__init__(name="keeper")
        self._store, self._station, self._archives = store, station, archives
        self._sign, self._seal, self._clock = sign, seal, clock
        self._places = dict(places or {})
        self._delivered: dict[str, str] = {}
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
        day = (self._clock() - timedelta(days=1)).date().isoformat()
        if all(self._delivered.get(place) == day for place in ("archive", *self._places)):
            return
        head = add_head(self._store, self._station, day, self._sign, self._seal)
        if head is None:
            return
        if self._delivered.get("archive") != day:
            written = archive(self._store.path, self._archives, head)
            self._delivered["archive"] = day
            if written is not None:
                log.info("days are archived", file=str(written.path), first=written.first, last=written.last)
        for place, deliver in self._places.items():
            if self._delivered.get(place) != day:
                deliver(head)
                self._delivered[place] = day
                log.info("the day's head is anchored", place=place, link=head.seq)

    def _say(self, error: FaultError) -> None:
        """Once a kind of trouble, not once a minute."""
        if error.fault is not self._told:
            log.error("a day is not closed yet", fault=error.fault.code, detail=error.detail)
        self._told = error.fault
