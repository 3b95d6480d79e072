"""What is counted: the rows of the tally that a report is about, as SQL that SQLite and PostgreSQL both speak.

Every query begins at the index on the end of a run, so that a report reads its own days however long the history is;
which of them were retests stands in a table of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import sqlalchemy as sa

from station.ledger.schema import retests, tally
from station.ledger.tally import COUNTED
from station.model import OrderKind, Outcome
from station.yields.window import Span, Window

Condition: TypeAlias = sa.ColumnElement[bool]
Query: TypeAlias = sa.Select[*tuple[Any, ...]]

DONE = (Outcome.PASS.value, Outcome.PROVISIONED.value)


@dataclass(frozen=True, slots=True)
class Scope:
    """The window, and the one order or station that was asked for; ``line``: of a line's record."""

    window: Window
    order: str | None = None
    station: str | None = None
    line: bool = False

    def rows(self, span: Span | None = None) -> list[Condition]:
        """Every run that ended in ``span`` (the window, where none is named)."""
        span = span or self.window.span
        conditions: list[Condition] = [tally.c.at >= span.start, tally.c.at < span.end]
        if self.order is not None:
            conditions.append(tally.c.order_number == self.order)
        if self.station is not None:
            conditions.append(tally.c.station == self.station)
        return conditions

    def real(self, *kinds: OrderKind, span: Span | None = None) -> list[Condition]:
        """Those of them that no simulator made, of these kinds of order."""
        return [*self.rows(span), tally.c.simulated.is_(sa.false()), tally.c.kind.in_([kind.value for kind in kinds])]

    def days(self, count: int) -> Scope:
        """The same over the ``count`` days that end with the window's last."""
        return replace(self, window=self.window.before(count))


def first_runs(scope: Scope, kind: OrderKind, span: Span | None = None) -> list[Condition]:
    """The runs that were their unit's first counted one ever: each unit once, on one day, whatever the window.

    A filter by order or station chooses among them; it does not make a later run the first.
    """
    return [
        *scope.real(kind, span=span),
        tally.c.outcome.in_(COUNTED),
        tally.c.serial.is_not(None),
        ~sa.exists().where(retests.c.run == tally.c.run),
    ]


def retested(scope: Scope, *more: Condition) -> sa.ColumnElement[bool]:
    """Whether the unit of a first run was counted again (in a run of ``more``), up to the window's end."""
    same = (retests.c.serial == tally.c.serial, retests.c.kind == tally.c.kind)
    return sa.exists().where(*same, retests.c.at < scope.window.span.end, *more)


def next_counted(scope: Scope, kind: OrderKind) -> Any:
    """What the unit of the row at hand was when it was next counted, up to the window's end."""
    after = tally.alias("after")
    query = sa.select(after.c.outcome).where(
        after.c.serial == tally.c.serial,
        after.c.kind == kind.value,
        after.c.simulated.is_(sa.false()),
        after.c.outcome.in_(COUNTED),
        _when(after) > _when(tally),
        after.c.at < scope.window.span.end,
    )
    return query.order_by(after.c.at, after.c.run).limit(1).scalar_subquery()


def _when(rows: Any) -> Any:
    """What a unit's runs are ordered by. As one row value, for so the index on the serial answers by itself."""
    return sa.tuple_(rows.c.at, rows.c.run)


def count_if(condition: Condition) -> sa.ColumnElement[int]:
    """How many rows it holds for."""
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key to sort names by: slot 10 comes after slot 9."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in name.replace("/", " / ").split())
