"""A line of stations on a real PostgreSQL: what its tests do again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from ledgers import end, finish, production, rows, started, unit
from postgres import Line

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, verify
from station.ledger.line import LineSync
from station.ledger.line.push import PUSHED

MakeStations = Callable[..., list[SqliteLedger]]
PASSED = "SELECT count(*) FROM tally WHERE outcome = 'PASS' AND kind = 'production'"


def refused(call: Callable[[], object]) -> Fault:
    with pytest.raises(FaultError) as error:
        call()
    return error.value.fault


def everything(line: Line, *ledgers: SqliteLedger) -> None:
    """The line has each row that the stations have, each once and as it is there, and no other."""
    for table in PUSHED:
        query = f"SELECT {', '.join(table.columns.keys())} FROM {table.name}"  # noqa: S608 - our own names
        there = [tuple(int(value) if isinstance(value, bool) else value for value in row) for row in line.rows(query)]
        here = {row for ledger in ledgers for row in rows(ledger.store.path, query)}
        assert len(there) == len(set(there)), f"{table.name}: a row is there twice"
        assert set(there) == here, table.name
    for ledger in ledgers:
        chained = rows(ledger.store.path, "SELECT count(*) FROM chain")[0][0]
        there = line.rows("SELECT count(*), max(seq) FROM line_links WHERE station = %s", ledger.store.path.stem)
        assert there == [(chained, chained)]
        assert verify.ledger_file(ledger.store.path).findings == []


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def build(ledger: SqliteLedger, prefix: str, most: int) -> int:
    """Units one after the other, until the station's share is used up; how many passed."""
    return next((index for index in range(most) if not built(ledger, f"{prefix}-{index}")), most)


def built(ledger: SqliteLedger, serial: str, fault: Fault | None = None) -> bool:
    """A run of the unit, as far as the station has a share left for it."""
    run = started(ledger, unit(serial))
    try:
        ledger.admit(run)
    except FaultError as error:
        if error.fault not in {Fault.LEASE_SPENT, Fault.ORDER_FULL, Fault.NO_ORDER}:
            raise
        end(ledger, run, error.fault)
        return False
    finish(ledger, run, serial, fault)
    return True


@pytest.fixture
def pair(shared_line: Line, make_stations: MakeStations) -> tuple[SqliteLedger, LineSync, SqliteLedger, LineSync]:
    """Two stations in touch, with shares of one order."""
    one, two = make_stations("s1", "s2")
    first, second = shared_line.sync(one, "s1"), shared_line.sync(two, "s2")
    one.add_order(production(quantity=20), "linh")
    first.round()
    second.round()
    return one, first, two, second


Pair = tuple[SqliteLedger, LineSync, SqliteLedger, LineSync]
