"""The station's own thread for the line: push, learn, lease; and where the server is away, try again.

It has connections of its own to both databases and holds neither while it waits for the other's answer longer than
one short transaction. A slot never waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
import structlog

from station.faults import Fault, FaultError
from station.ledger import orders
from station.ledger.line import pull
from station.ledger.line.push import Pusher
from station.ledger.line.server import LineServer
from station.ledger.line.standing import agrees
from station.status import LineLink

if TYPE_CHECKING:
    from station.ledger.record import SqliteLedger

_LONGEST_PAUSE_S: Final = 15.0

log = structlog.get_logger()


class LineSync(threading.Thread):
    """Keeps the station and the line of one mind, every ``every_s`` and whenever a run ends."""

    def __init__(
        self,
        ledger: SqliteLedger,
        server: LineServer,
        *,
        station: str,
        software: str,
        simulated: bool,
        block: int,
        every_s: float,
        settled: Callable[[], None] = lambda: None,
        tell: Callable[[LineLink], None] = lambda _: None,
    ) -> None:
        super().__init__(name="line")
        self._store, self._server = ledger.store, server
        self._station, self._software, self._simulated = station, software, simulated
        self._block, self._every_s, self._settled, self._tell = block, every_s, settled, tell
        self._pusher = Pusher(ledger.store, station)
        self._woken, self._over = threading.Event(), threading.Event()
        self.state = LineLink()

    def wake(self) -> None:
        """Look again, now."""
        self._woken.set()

    def stop(self) -> None:
        """End; what is under way ends by its deadline, what is left is pushed after the next start."""
        self._over.set()
        self._woken.set()
        self.join()
        self._server.close()

    def run(self) -> None:
        """Work until `stop`."""
        pause_s = self._every_s
        while not self._over.is_set():
            self._woken.clear()
            try:
                self.round()
                pause_s, away = self._every_s, False
            except FaultError as error:
                self._failed(error)
                pause_s, away = min(pause_s * 2, _LONGEST_PAUSE_S), True
            except Exception as error:  # a thread's top: the line must not stop the station
                log.exception("unexpected")
                self._failed(FaultError(Fault.UNEXPECTED, type(error).__name__))
                away = True
            self._rest(pause_s, away=away)

    def _rest(self, pause_s: float, *, away: bool) -> None:
        """Wait. A server that is away is not asked at the end of each run; what is left here is told none the less."""
        until = time.monotonic() + pause_s
        while not self._over.is_set() and self._woken.wait(max(0.0, until - time.monotonic())):
            if not away:
                return
            self._woken.clear()
            self._post(self.state.synced_at, self.state.fault, self.state.detail)

    def round(self) -> None:
        """Everything once: push what is new, learn what is new, lease what is needed; have the server sum up a day.

        Raises:
            FaultError: `LINE_AWAY`, `LINE_SETUP`, `LINE_FORKED`, `SIMULATION_MIXED`, `LEDGER_DOWN`.
        """
        with self._server.transaction() as server:
            agrees(server, self._station, simulated=self._simulated)
            self._pusher.begin(server)
        self.push()
        with self._server.transaction() as server:
            twofold = pull.pull_orders(server, self._store)
            pull.pull_leases(server, self._store, self._station)
            pull.pull_passes(server, self._store, self._station, self._pusher.epoch)
            pull.recall(server, self._store)
            if pull.pull_clashes(server, self._store, self._station):
                self._settled()
        pull.lease(self._server, self._store, self._station, self._block, twofold)
        self.push()
        with self._server.transaction() as server:
            self._seen(server)
        with self._server.transaction() as server:
            server.execute(sa.text("SELECT line_sum_steps()"))
        if self.state.fault is not None or self.state.synced_at is None:
            log.info("in touch with the line's server")
        self._post(datetime.now(UTC), None)

    def push(self) -> None:
        """Push what the server does not have yet, after `Pusher.begin` said what that is."""
        while not self._over.is_set() and (portion := self._pusher.next()) is not None:
            with self._server.transaction() as server:
                self._pusher.push(server, portion)
            self._pusher.pushed(portion)

    def _seen(self, server: sa.Connection) -> None:
        server.execute(
            sa.text(
                "INSERT INTO line_seen (station, clock, backlog, software)"
                " VALUES (:station, :clock, :backlog, :software)"
                " ON CONFLICT (station) DO UPDATE SET clock = :clock, backlog = :backlog, software = :software"
            ),
            {
                "station": self._station,
                "clock": datetime.now(UTC).isoformat(timespec="microseconds"),
                "backlog": self._pusher.backlog(),
                "software": self._software,
            },
        )

    def _failed(self, error: FaultError) -> None:
        if error.fault is not self.state.fault:
            log.warning("out of touch with the line", fault=error.fault.code, detail=error.detail)
        self._post(self.state.synced_at, error.fault, error.detail)

    def _post(self, synced_at: datetime | None, fault: Fault | None, detail: str = "") -> None:
        """Say how the station stands, by its own ledger; where that does not answer, as it was."""
        old, backlog, left = self.state, self.state.backlog, self.state.left
        try:
            backlog, left = self._pusher.backlog(), self._left()
        except FaultError:
            log.warning("the ledger does not answer the line's thread")
        begun = old.synced_at is None and old.fault is None
        since = datetime.now(UTC) if begun or fault is not old.fault else old.since
        self.state = LineLink(synced_at, backlog, left, fault, detail, since)
        self._tell(self.state)

    def _left(self) -> tuple[tuple[str, int], ...]:
        with self._store.read() as connection:
            return orders.left_by_order(connection)
