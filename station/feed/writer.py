"""The station's side of the feed: a worker beside the slots that tells the provider what may be activated."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from station.faults import Fault, FaultError
from station.feed.lines import FeedLine, Sign, sealed
from station.feed.shelf import Shelf
from station.ledger import SqliteLedger, feed
from station.ledger.standing import Recorded
from station.model import StandingState
from station.status import StatusBoard

_IDLE_S: Final = 5.0
_FIRST_S: Final = 0.5
_LONGEST_S: Final = 60.0
_LASTING: Final = timedelta(days=400)  # PROVISIONED waits in a box; and what is over stays told as long

log = structlog.get_logger()


class FeedWriter(threading.Thread):
    """Seals a line for each certificate whose standing changed, puts it on disk, then on the shelf.

    It is not in any slot's way: it reads the ledger when the status changes (a slot begins CONNECT, a run ends), and
    what cannot be laid down now is tried again, after 0.5 s and up to a minute apart, over any restart.
    """

    def __init__(
        self,
        station: str,
        ledger: SqliteLedger,
        shelf: Shelf,
        public_key_pem: bytes,
        sign: Sign,
        *,
        status: StatusBoard,
        connect_valid_s: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(name="feed")
        self._station, self._store, self._shelf = station, ledger.store, shelf
        self._public, self._sign, self._status = public_key_pem, sign, status
        self._connecting = timedelta(seconds=connect_valid_s)
        self._clock = clock
        self._over = threading.Event()
        self._pause = 0.0

    def stop(self) -> None:
        """End after the line at hand; what waits is told at the next start."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Work until `stop`."""
        seen = 0
        while not self._over.is_set():
            seen = self._status.now().version
            try:
                self.round()
                self._pause = 0.0
            except FaultError as error:
                self._pause = min(max(self._pause * 2, _FIRST_S), _LONGEST_S)
                log.warning("the feed waits", fault=error.fault.code, detail=error.detail, again_s=self._pause)
            except Exception:  # a thread's top: the station works on without it, and says so
                self._pause = _LONGEST_S
                log.exception("unexpected", fault=Fault.UNEXPECTED.code)
            if self._pause:
                self._over.wait(self._pause)
            else:
                self._status.wait(seen, _IDLE_S)

    def round(self) -> int:
        """Seal what changed and lay down what waits; returns how many lines are on the shelf since."""
        laid = self._lay_down()
        while True:
            with self._store.read() as connection:
                changed = feed.to_tell(connection)
            if not changed:
                return laid
            for one in changed:
                self._write(one)
                laid += self._lay_down()
                if self._over.is_set():
                    return laid

    def _write(self, one: Recorded) -> None:
        now = self._clock()
        lasts = self._connecting if one.standing.state is StandingState.CONNECTING else _LASTING
        with self._store.read() as connection:
            # Not below the milliseconds of now: a ledger restored from a backup must not number lines anew.
            seq = max(feed.next_seq(connection), int(now.timestamp() * 1000))
        # Sealed outside of any transaction: a token may take its time. Nobody else numbers lines.
        line = FeedLine(self._station, seq, one.standing, now, now + lasts)
        raw = sealed(line, self._public, self._sign)
        with self._store.write() as connection:
            feed.write(connection, one, seq, raw, line.expires)

    def _lay_down(self) -> int:
        with self._store.read() as connection:
            waiting = feed.unsent(connection)
        for one in waiting:
            self._shelf.put(one.certificate_id, one.line)
            with self._store.write() as connection:
                feed.sent(connection, one)
        return len(waiting)
