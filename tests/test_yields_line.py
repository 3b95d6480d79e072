"""The same SQL on PostgreSQL: one month on both engines gives the same figures, units and records."""

from __future__ import annotations

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
