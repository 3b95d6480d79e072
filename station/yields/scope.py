"""What is counted: the rows of the tally that a report is about, as SQL that SQLite and PostgreSQL both speak.

Every query begins at the index on the end of a run, so that a report reads its own days however long the history is;
what was before a day is asked unit by unit, by the index on the serial.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import sqlalchemy as sa

from station.ledger.schema import tally
from station.model import OrderKind, Outcome
from station.yields.window import Span, Window

Condition: TypeAlias = sa.ColumnElement[bool]
Query: TypeAlias = sa.Select[*tuple[Any, ...]]

COUNTED = (Outcome.PASS.value, Outcome.FAIL.value)
DONE = (Outcome.PASS.value, *(name for name in ("PROVISIONED",) if name in Outcome.__members__))


@dataclass(frozen=True, slots=True)
class Scope:
    """The window, and the one order or station that was asked for."""

    window: Window
    order: str | None = None
    station: str | None = None

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
    earlier = tally.alias("earlier")
    return [
        *scope.real(kind, span=span),
        tally.c.outcome.in_(COUNTED),
        tally.c.serial.is_not(None),
        ~sa.exists().where(
            earlier.c.serial == tally.c.serial,
            earlier.c.kind == kind.value,
            earlier.c.simulated.is_(sa.false()),
            earlier.c.outcome.in_(COUNTED),
            (earlier.c.at < tally.c.at) | ((earlier.c.at == tally.c.at) & (earlier.c.run < tally.c.run)),
        ),
    ]


def later(scope: Scope, kind: OrderKind, *more: Any, name: str = "later") -> tuple[Any, list[Condition]]:
    """The counted runs of the same unit after the row at hand, up to the window's end."""
    after = tally.alias(name)
    return after, [
        after.c.serial == tally.c.serial,
        after.c.kind == kind.value,
        after.c.simulated.is_(sa.false()),
        after.c.outcome.in_(COUNTED),
        (after.c.at > tally.c.at) | ((after.c.at == tally.c.at) & (after.c.run > tally.c.run)),
        after.c.at < scope.window.span.end,
        *more,
    ]


def count_if(condition: Condition) -> sa.ColumnElement[int]:
    """How many rows it holds for."""
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key to sort names by: slot 10 comes after slot 9."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in name.replace("/", " / ").split())
