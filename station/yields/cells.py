"""The window's runs in one reading: how many there are of each sort. The report's tables are sums over these."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from station.ledger.schema import retests, tally
from station.ledger.tally import COUNTED
from station.model import OrderKind, Outcome
from station.yields.scope import Query, Scope, count_if

WORK = (OrderKind.PRODUCTION.value, OrderKind.REWORK.value)
_KEYS = ("simulated", "kind", "product", "station", "slot", "operator", "outcome", "fault")


class Cell(NamedTuple):
    """Runs that are alike in all of this.

    ``units`` of them were their unit's first counted run ever; of those units ``passed`` by the window's end, then or
    later, and ``retested`` were counted again. A filter by order or station makes no later run the first.
    """

    simulated: bool
    kind: str
    product: str
    station: str
    slot: str
    operator: str
    outcome: str
    fault: str | None
    nameless: bool
    runs: int
    units: int
    passed: int
    retested: int

    @property
    def passed_first(self) -> int:
        """How many of ``units`` passed in this very run."""
        return self.units if self.outcome == Outcome.PASS.value else 0

    @property
    def work(self) -> bool:
        """Whether it is production or rework, and no simulator's."""
        return self.kind in WORK and not self.simulated

    @property
    def place(self) -> str:
        """Station and slot."""
        return f"{self.station}/{self.slot}"


def cells(connection: sa.Connection, scope: Scope) -> list[Cell]:
    """Every run that ended in the window, in one cell; as many cells as there are sorts of runs, not runs."""
    keys = [*(tally.c[name] for name in _KEYS), tally.c.serial.is_(None)]
    noted, later = retests.alias("noted"), again(scope)
    rows = tally.outerjoin(noted, noted.c.run == tally.c.run).outerjoin(
        later, (later.c.serial == tally.c.serial) & (later.c.kind == tally.c.kind)
    )
    first = tally.c.outcome.in_(COUNTED) & tally.c.serial.is_not(None) & noted.c.run.is_(None)
    passed = (tally.c.outcome == Outcome.PASS.value) | (later.c.passed == 1)
    numbers = [sa.func.count(), *map(count_if, (first, first & passed, first & later.c.serial.is_not(None)))]
    query: Query = sa.select(*keys, *numbers).select_from(rows).where(*scope.rows()).group_by(*keys)
    return [Cell(*row) for row in connection.execute(query)]


def again(scope: Scope) -> sa.Subquery:
    """The units that were counted again up to the window's end, and whether they passed then: joined to first runs.

    Small, where a question to each of millions of runs is not. What is before the window is no first run's of it.
    """
    span, passed = scope.window.span, sa.case((retests.c.outcome == Outcome.PASS.value, 1), else_=0)
    query = sa.select(retests.c.serial, retests.c.kind, sa.func.max(passed).label("passed"))
    query = query.where(retests.c.at >= span.start, retests.c.at < span.end)
    return query.group_by(retests.c.serial, retests.c.kind).subquery("again")
