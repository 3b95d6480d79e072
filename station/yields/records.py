"""The figures unit by unit: CSV for spreadsheets, JSON for programs. Row by row, so that a year fits into memory.

What each column and key means stands in ``docs/report.md``; `SCHEMA` in `station.yields.report` counts its versions.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import IO, Any, NamedTuple

import sqlalchemy as sa

from station.ledger.schema import issued, tally, uses
from station.ledger.tally import COUNTED
from station.model import OrderKind, Outcome
from station.yields.report import SCHEMA, Figures, plain
from station.yields.scope import DONE, Scope

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class UnitRow(NamedTuple):
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
    plain = ("serial", "kind", "product", "order_number", "station", "slot", "operator", "outcome", "fault")
    query = (
        sa.select(
            *(tally.c[name] for name in plain),
            _text(tally.c.at),
            before.label("counted_before"),
            issued.c.certificate_id,
            _text(issued.c.not_after),
        )
        .outerjoin(uses, (uses.c.run == tally.c.run) & tally.c.outcome.in_(DONE))
        .outerjoin(issued, issued.c.number == uses.c.number)
        .where(*scope.real(*OrderKind), tally.c.serial.is_not(None))
        .order_by(tally.c.serial, tally.c.kind, tally.c.at, tally.c.run)
    )
    rows = map(tuple, connection.execute(query, execution_options={"yield_per": 2000}))
    for _, mine in groupby(rows, key=itemgetter(0, 1)):
        yield _unit(list(mine))


def _text(moment: sa.Column[Any]) -> sa.ColumnElement[str]:
    """As it stands in the record; a million times made and told again cost more than all the rest."""
    return sa.type_coerce(moment, sa.Text).label(moment.name)


def _unit(rows: list[Any]) -> UnitRow:
    counted = [row for row in rows if row[7] in COUNTED]
    outcomes = [row[7] for row in rows]
    certified = next((row for row in reversed(rows) if row[11]), None)
    # By place: of a year's ten million rows each name would be looked up anew.
    serial, kind, product, order, station, slot, operator, last_outcome, last_fault, last_at, *_ = rows[-1]
    first_at, counted_before = rows[0][9:11]
    return UnitRow(
        serial=serial,
        kind=kind,
        product=product,
        order=order or "",
        station=station,
        slot=slot,
        operator=operator,
        runs=len(rows),
        counted=len(counted),
        errors=outcomes.count(Outcome.ERROR.value),
        aborted=outcomes.count(Outcome.ABORTED.value),
        first_here=bool(counted) and not counted_before,
        first_outcome=counted[0][7] if counted else "",
        first_fault=(counted[0][8] or "") if counted else "",
        last_outcome=last_outcome,
        last_fault=last_fault or "",
        first_ended_at=first_at,
        last_ended_at=last_at,
        certificate_id=certified[11] if certified else "",
        certificate_ends=certified[12] if certified else "",
    )


def write_units(rows: Iterable[UnitRow], figures: Figures, table: IO[str] | None, document: IO[str] | None) -> None:
    """Read the units once, and write them as CSV, as JSON, or both.

    CSV is RFC 4180, with names in the first line; a cell that a spreadsheet would take for a formula gets an
    apostrophe. JSON is one document: ``schema``, ``figures``, and ``units``, a line each.
    """
    sheet = csv.writer(table) if table else None
    if sheet:
        sheet.writerow(UnitRow._fields)
    if document:
        document.write(f'{{"schema":{SCHEMA},\n"figures":{json.dumps(plain(figures))},\n"units":[')
    between = "\n"
    for row in rows:
        if sheet:
            sheet.writerow(map(_cell, row))
        if document:
            document.write(between + json.dumps(row._asdict()))
            between = ",\n"
    if document:
        document.write("\n]}\n")


def _cell(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
