"""What a day costs does not grow with the years before it: no query of its report reads a big table from end to end."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from month import put
from test_yields_files import DAY, NOW, SETTINGS, day_facts, orders

from station.ledger import SqliteLedger
from station.yields.records import units
from station.yields.report import collect
from station.yields.scope import Scope
from station.yields.window import window

# Retests and the outbox hold a few of a hundred runs, orders a few a week.
_NAMES = "tally|steps|runs|uses|issued|certificates|closures|admissions|identified|earlier|after"
# An index that SQLite makes for one query is such a reading too.
_BIG = re.compile(rf"SCAN ({_NAMES})\b|SEARCH ({_NAMES}) USING AUTOMATIC")


def test_no_query_of_a_days_report_reads_the_whole_history(ledger: SqliteLedger) -> None:
    put(ledger, orders(), day_facts())
    scope = Scope(window(SETTINGS, NOW, day=DAY))
    asked: list[tuple[str, Any]] = []
    with ledger.store.read() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda *said: asked.append((said[2], said[3])))
        collect(connection, scope, SETTINGS, station="s1", software="1", now=NOW)
        list(units(connection, scope))
        queries = list(asked)
        plans = [
            (row[3], statement)
            for statement, values in queries
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
    assert len(queries) > 15
    assert [(step, statement) for step, statement in plans if _BIG.search(step)] == []
