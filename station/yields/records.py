"""The figures unit by unit: CSV for spreadsheets, JSON for programs. Row by row, so that a year fits into memory.

What each column and key means stands in ``docs/report.md``; `SCHEMA` in `station.yields.report` counts its versions.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from itertools import groupby
from typing import IO, Any

import sqlalchemy as sa

from station.ledger.schema import issued, tally, uses
from station.ledger.tally import COUNTED
from station.model import OrderKind, Outcome
from station.yields.report import SCHEMA, Figures, plain
from station.yields.scope import Scope

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class UnitRow:
    """One unit's runs in the window, of one kind of order. Times are ISO 8601, UTC."""

    serial: str
    kind: str
    product: str
    order: str
    station: str
    slot: str
    operator: str
    runs: int
    counted: int
    errors: int
    aborted: int
    first_here: bool
    first_outcome: str
    first_fault: str
    last_outcome: str
    last_fault: str
    first_ended_at: str
    last_ended_at: str
    certificate_id: str
    certificate_ends: str


def units(connection: sa.Connection, scope: Scope) -> Iterator[UnitRow]:
    """Each unit that had a run in the window, by serial; not the simulated, nor runs that never learned a serial."""
    earlier = tally.alias("earlier")
    before = sa.exists().where(
        earlier.c.serial == tally.c.serial,
        earlier.c.kind == tally.c.kind,
        earlier.c.simulated.is_(sa.false()),
        earlier.c.outcome.in_(COUNTED),
        earlier.c.at < scope.window.span.start,
    )
    query = (
        sa.select(tally, before.label("counted_before"), issued.c.certificate_id, issued.c.not_after)
        .outerjoin(uses, (uses.c.run == tally.c.run) & (tally.c.outcome == Outcome.PASS.value))
        .outerjoin(issued, issued.c.number == uses.c.number)
        .where(*scope.real(*OrderKind), tally.c.serial.is_not(None))
        .order_by(tally.c.serial, tally.c.kind, tally.c.at, tally.c.run)
    )
    rows = connection.execute(query, execution_options={"yield_per": 2000}).mappings()
    for _, mine in groupby(rows, key=lambda row: (row["serial"], row["kind"])):
        yield _unit(list(mine))


def _unit(rows: list[Any]) -> UnitRow:
    first, last = rows[0], rows[-1]
    counted = [row for row in rows if row["outcome"] in COUNTED]
    outcomes = [row["outcome"] for row in rows]
    certified = next((row for row in reversed(rows) if row["certificate_id"]), None)
    return UnitRow(
        serial=last["serial"],
        kind=last["kind"],
        product=last["product"],
        order=last["order_number"] or "",
        station=last["station"],
        slot=last["slot"],
        operator=last["operator"],
        runs=len(rows),
        counted=len(counted),
        errors=outcomes.count(Outcome.ERROR.value),
        aborted=outcomes.count(Outcome.ABORTED.value),
        first_here=bool(counted) and not first["counted_before"],
        first_outcome=counted[0]["outcome"] if counted else "",
        first_fault=(counted[0]["fault"] or "") if counted else "",
        last_outcome=last["outcome"],
        last_fault=last["fault"] or "",
        first_ended_at=first["at"].isoformat(),
        last_ended_at=last["at"].isoformat(),
        certificate_id=certified["certificate_id"] if certified else "",
        certificate_ends=certified["not_after"].isoformat() if certified else "",
    )


def write_csv(rows: Iterable[UnitRow], file: IO[str]) -> None:
    """RFC 4180, with names in the first line. A cell that a spreadsheet would take for a formula gets an apostrophe."""
    writer = csv.writer(file)
    writer.writerow(field.name for field in fields(UnitRow))
    writer.writerows(map(_cells, rows))


def _cells(row: UnitRow) -> list[object]:
    return [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in astuple(row)]


def write_json(figures: Figures, rows: Iterable[UnitRow], file: IO[str]) -> None:
    """One document: ``schema``, ``figures``, and ``units``, a line each."""
    names = [field.name for field in fields(UnitRow)]
    file.write(f'{{"schema":{SCHEMA},\n"figures":{json.dumps(plain(figures))},\n"units":[')
    for index, row in enumerate(rows):
        file.write(",\n" if index else "\n")
        json.dump(dict(zip(names, astuple(row), strict=True)), file)
    file.write("\n]}\n")
