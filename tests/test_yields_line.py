"""The same SQL on PostgreSQL: one month on both engines gives the same figures, units and records."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from ledgers import open_ledger
from month import fill, put
from postgres import Line
from test_yields_files import DAY, NOW, SETTINGS, day_facts, maker, orders

from station.yields.making import Maker, Wanted
from station.yields.report import plain
from station.yields.scope import Scope
from station.yields.times import Cycle, cycles
from station.yields.window import window


def days(count: int) -> timedelta:
    return timedelta(days=count)


def owner(line: Line) -> psycopg.Connection[Any]:
    made = line.server.owner(line.name)
    made.autocommit = False
    return made


def test_postgresql_and_sqlite_give_the_same_report(shared_line: Line, tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "alone.sqlite")
    put(ledger, orders(), day_facts())
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: owner(shared_line))
    try:
        with engine.begin() as connection:
            fill(connection, orders(), day_facts())
        for first in (DAY, DAY - timedelta(days=40)):
            wanted = Wanted(first=first, last=DAY, formats=("csv", "json", "openhtf"))
            here = maker(ledger, tmp_path / "sqlite", "en", SETTINGS)
            there = Maker(engine.begin, SETTINGS, "line-1", "0.1.0", "en", tmp_path / "postgresql")
            mine, theirs = here.make(wanted, NOW), there.make(wanted, NOW)
            assert plain(theirs.figures) == plain(mine.figures)
            for file in sorted(mine.folder.rglob("*.*")):
                assert (theirs.folder / file.relative_to(mine.folder)).read_bytes() == file.read_bytes(), file.name
    finally:
        engine.dispose()


def test_a_day_that_the_server_summed_up_is_believed_until_a_run_of_it_comes_late(
    shared_line: Line, tmp_path: Path
) -> None:
    facts = [
        replace(fact, id=f"{fact.id}/{n}", serial=f"{fact.serial}/{n}", ended_at=fact.ended_at - days(3650 + n))
        for n in range(3)
        for fact in day_facts()
    ]
    (late,) = (replace(fact, id="late", took_s=9.0) for fact in facts if fact.id == "r1/1")
    scope = Scope(window(SETTINGS, NOW, first=DAY - days(3655), last=DAY - days(3648)))
    ledger = open_ledger(tmp_path / "alone.sqlite")
    put(ledger, orders(), facts)

    def here() -> list[Cycle]:
        with ledger.store.read() as connection:
            return cycles(connection, scope, SETTINGS)

    def there() -> list[Cycle]:
        with engine.begin() as connection:
            return cycles(connection, scope, SETTINGS)

    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: owner(shared_line))
    try:
        with engine.begin() as connection:
            fill(connection, orders(), facts)
        assert there() == here()
        summed = [shared_line.rows("SELECT line_sum_steps()")[0][0] for _ in range(4)]
        assert summed == [*(f"{DAY - days(3650 + n)}" for n in (2, 1, 0)), None]
        assert there() == here()
        # What is summed is what is read: a wrong sum shows.
        shared_line.rows("UPDATE line_step_times SET count = count + 1 WHERE day = %s RETURNING 1", summed[1])
        assert there() != here()
        put(ledger, [], [late])
        with engine.begin() as connection:
            fill(connection, [], [late])
        assert there() == here()
    finally:
        engine.dispose()
        ledger.dispose()
