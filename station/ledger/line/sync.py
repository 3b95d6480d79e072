"""The station's own thread for the line: push, learn, lease; and where the server is away, try again.

It has connections of its own to both databases and holds neither while it waits for the other's answer longer than
one short transaction. A slot never waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
import structlog

from station.faults import Fault, FaultError
from station.ledger.line import pull
from station.ledger.line.push import Pusher
from station.ledger.line.server import LineServer
from station.ledger.store import HEAD

if TYPE_CHECKING:
    from station.ledger.record import SqliteLedger

_LONGEST_PAUSE_S: Final = 60.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LineState:
    """How the station stands with the line, now. ``backlog`` is in links; ``fault`` is None while it is in touch."""

    synced_at: datetime | None = None
    backlog: int = 0
    fault: Fault | None = None
    detail: str = ""


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
    ) -> None:
        super().__init__(name="line")
        self._store, self._server = ledger.store, server
        self._station, self._software, self._simulated = station, software, simulated
        self._block, self._every_s, self._settled = block, every_s, settled
        self._pusher = Pusher(ledger.store, station)
        self._woken, self._over = threading.Event(), threading.Event()
        self.state = LineState()

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
                pause_s = self._every_s
                wait_for_news = True
            except FaultError as error:
                self._failed(error)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                wait_for_news = False
            except Exception as error:  # a thread's top: the line must not stop the station
                log.exception("unexpected")
                self._failed(FaultError(Fault.UNEXPECTED, type(error).__name__))
                wait_for_news = False
            # A server that is away is not asked at the end of each run.
            (self._woken if wait_for_news else self._over).wait(pause_s)

    def round(self) -> None:
        """Everything once: push what is new, learn what is new, lease what is needed.

        Raises:
            FaultError: `LINE_AWAY`, `LINE_SETUP`, `LINE_FORKED`, `SIMULATION_MIXED`, `LEDGER_DOWN`.
        """
        with self._server.transaction() as server:
            self._agrees(server)
            self._pusher.begin(server)
        self.push()
        with self._server.transaction() as server:
            twofold = pull.pull_orders(server, self._store)
            pull.pull_passes(server, self._store, self._station, self._pusher.epoch)
            if pull.pull_clashes(server, self._store, self._station):
                self._settled()
        pull.lease(self._server, self._store, self._station, self._block, twofold)
        self.push()
        with self._server.transaction() as server:
            self._seen(server)
        if self.state.fault is not None or self.state.synced_at is None:
            log.info("in touch with the line's server")
        self.state = LineState(datetime.now(UTC), self._pusher.backlog())

    def push(self) -> None:
        """Push what the server does not have yet, after `Pusher.begin` said what that is."""
        while not self._over.is_set() and (portion := self._pusher.next()) is not None:
            with self._server.transaction() as server:
                self._pusher.push(server, portion)
            self._pusher.pushed(portion)

    def _agrees(self, server: sa.Connection) -> None:
        there = server.execute(sa.text("SELECT version, simulated FROM line_schema")).first()
        if there is None or there.version != HEAD:
            found = there.version if there else "nothing"
            raise FaultError(
                Fault.LINE_SETUP,
                f"the line's schema is {found}, this software's {HEAD}; its owner runs: station line init",
            )
        if there.simulated is not self._simulated:
            raise FaultError(Fault.SIMULATION_MIXED, "simulated and real stations never share a line")

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
        backlog = self.state.backlog
        try:
            backlog = self._pusher.backlog()
        except FaultError:
            log.warning("the ledger does not answer the line's thread")
        self.state = LineState(self.state.synced_at, backlog, error.fault, error.detail)
