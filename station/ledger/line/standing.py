"""Whether the line's server and this station are of one mind, and how far: for the sync, and for who only asks."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from station.faults import Fault, FaultError
from station.ledger import chain, orders
from station.ledger.line.push import reached
from station.ledger.line.server import LineServer
from station.ledger.readers import ledger_reader
from station.ledger.store import HEAD

# Counts up whenever `station.ledger.line.setup` says anew who may do what on the server.
RULES: Final = 2

if TYPE_CHECKING:
    from station.config.line import LineSettings


@dataclass(frozen=True, slots=True)
class Standing:
    """What the line's server says of this station: when it last synced, and how many links it does not have yet."""

    seen_at: datetime | None
    backlog: int


def set_up(server: sa.Connection) -> sa.RowMapping:
    """What the line says of itself, where its schema and its rules are this software's.

    Raises:
        FaultError: `Fault.LINE_SETUP`.
    """
    there = server.execute(sa.text("SELECT * FROM line_schema")).mappings().first()
    found = there["version"] if there else "nothing"
    if there is None or found != HEAD:
        newer = there is not None and found > HEAD
        do = "install the newer software on this station" if newer else "its owner runs: station line init"
        raise FaultError(Fault.LINE_SETUP, f"the line's schema is {found}, this software's {HEAD}; {do}")
    if there.get("rules", 1) < RULES:
        raise FaultError(Fault.LINE_SETUP, "the line's rules are of older software; its owner runs: station line init")
    return there


def agrees(server: sa.Connection, station: str, *, simulated: bool) -> None:
    """Hold the line's schema, kind and login against this station's.

    Raises:
        FaultError: `Fault.LINE_SETUP`, `Fault.SIMULATION_MIXED`.
    """
    there = set_up(server)
    if there["simulated"] is not simulated:
        raise FaultError(Fault.SIMULATION_MIXED, "simulated and real stations never share a line")
    me = server.execute(sa.text("SELECT line_me()")).scalar()
    if me != station:
        whose = f"is {me}'s" if me else "is no station's"
        raise FaultError(
            Fault.LINE_SETUP, f"the login {whose}, this is {station}; its owner runs: station line admit {station}"
        )


def ask(settings: LineSettings, ledger: Path, station: str, *, simulated: bool, limit_s: float) -> Standing:
    """Ask the server as the sync would, and change nothing.

    Raises:
        FaultError: what keeps the sync from working: `LINE_AWAY`, `LINE_SETUP`, `LINE_FORKED`, `SIMULATION_MIXED`,
            `LEDGER_DOWN`; `CONFIG` for the password.
    """
    patient = settings.model_copy(update={"deadline_s": min(settings.deadline_s, limit_s)})
    with closing(LineServer(patient, settings.password.read())) as line, line.transaction() as server:
        agrees(server, station, simulated=simulated)
        mine = sa.text("SELECT seen_at FROM line_seen WHERE station = :station")
        seen_at = server.execute(mine, {"station": station}).scalar()
        if not ledger.exists():
            return Standing(seen_at, 0)
        with ledger_reader(ledger) as read, read() as here:
            _, done = reached(here, server, station)
            tip = chain.tip(here)
        return Standing(seen_at, (tip.seq if tip else 0) - done)


def left_here(ledger: Path) -> tuple[tuple[str, int], ...]:
    """The units of each open production order that the station may still pass without the server."""
    if not ledger.exists():
        return ()
    with ledger_reader(ledger) as read, read() as here:
        return orders.left_by_order(here)
