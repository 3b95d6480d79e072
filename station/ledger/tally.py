"""One narrow row a closed run: what reports count by, in one place.

Everything in it stands in the record's other tables too; but a year of them is joined in minutes, and this is read in
seconds. The row is written in the transaction that closes the run, so it can neither be missing nor come late.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from station.ledger.schema import admissions, closures, identified, order_units, orders, retests, runs, tally
from station.model import OrderKind, Outcome

COUNTED: Final = (Outcome.PASS.value, Outcome.FAIL.value)
_PORTION: Final = 5000


def add(connection: sa.Connection, run: str) -> None:
    """Tally one run that was closed within this transaction. It must be on record with everything it has."""
    row = connection.execute(_closed().where(closures.c.run == run)).mappings().one()
    connection.execute(sa.insert(tally).values(_tallied(connection, row)))
    if row["serial"] is not None:
        _tell_retests(connection, tally.c.serial == row["serial"])


def add_missing(connection: sa.Connection) -> None:
    """Tally every closed run that has no row yet: for the migration, and after rows came from elsewhere."""
    missing = _closed().where(~sa.exists().where(tally.c.run == closures.c.run))
    while rows := connection.execute(missing.limit(_PORTION)).mappings().all():
        connection.execute(sa.insert(tally), [_tallied(connection, row) for row in rows])


def add_missing_retests(connection: sa.Connection) -> None:
    """Note every retest that is tallied and not noted yet."""
    _tell_retests(connection)


def _tell_retests(connection: sa.Connection, *of: sa.ColumnElement[bool]) -> None:
    """A run that has an earlier one of its unit never becomes the first, whatever comes late: so rows are only added.

    Golden samples are run every day and are in no yield.
    """
    earlier, names = tally.alias("earlier"), retests.c.keys()
    found = sa.select(*(tally.c[name] for name in names)).where(
        *of,
        *_counted(tally),
        sa.exists().where(
            earlier.c.serial == tally.c.serial,
            earlier.c.kind == tally.c.kind,
            *_counted(earlier),
            sa.tuple_(earlier.c.at, earlier.c.run) < sa.tuple_(tally.c.at, tally.c.run),
        ),
        ~sa.exists().where(retests.c.run == tally.c.run),
    )
    connection.execute(sa.insert(retests).from_select(names, found))


def _counted(rows: Any) -> list[sa.ColumnElement[bool]]:
    return [
        rows.c.simulated.is_(sa.false()),
        rows.c.kind != OrderKind.GOLDEN.value,
        rows.c.outcome.in_(COUNTED),
    ]


def _closed() -> sa.Select[Any]:
    same = ("station", "slot", "operator", "product", "simulated", "started_at")
    return (
        sa.select(
            runs.c.id.label("run"),
            closures.c.at,
            closures.c.outcome,
            closures.c.fault,
            *(runs.c[name] for name in same),
            identified.c.serial,
            admissions.c.order_number,
            orders.c.kind,
        )
        .select_from(closures)
        .join(runs, runs.c.id == closures.c.run)
        .outerjoin(identified, identified.c.run == closures.c.run)
        .outerjoin(admissions, admissions.c.run == closures.c.run)
        .outerjoin(orders, orders.c.number == admissions.c.order_number)
    )


def _tallied(connection: sa.Connection, row: sa.RowMapping) -> dict[str, Any]:
    values = dict(row)
    if values["kind"] is None:
        values["kind"] = _kind_unadmitted(connection, values["serial"])
    values["duration_ms"] = (values["at"] - values["started_at"]).total_seconds() * 1000
    return values


def _kind_unadmitted(connection: sa.Connection, serial: str | None) -> str:
    """What a run that ended before its order was found counts as: a known bad sample must not spoil the yield."""
    named = (
        sa.select(orders.c.kind)
        .join(order_units, order_units.c.order_number == orders.c.number)
        .where(order_units.c.serial == serial)
        .order_by(orders.c.opened_at.desc(), orders.c.number)
        .limit(1)
    )
    found: str | None = connection.execute(named).scalar() if serial is not None else None
    return found or OrderKind.PRODUCTION.value
