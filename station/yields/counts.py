"""Yields: FPY, final yield and retests a unit; what was not counted, and why; output; the chart over 30 days."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime

import sqlalchemy as sa

from station.config.report import Report
from station.ledger.schema import tally
from station.model import OrderKind, Outcome
from station.yields.scope import DONE, Query, Scope, count_if, first_runs, later
from station.yields.stats import p_chart
from station.yields.window import Span

_CHART_DAYS = 30
HOURLY_DAYS = 2  # a longer window shows its output a day


@dataclass(frozen=True, slots=True)
class Yield:
    """Units whose first counted run fell into the time at hand, and what became of them by the window's end."""

    units: int
    passed_first: int
    passed: int
    retested: int

    @property
    def fpy(self) -> float | None:
        """First-pass yield, 0 to 1; None of no units."""
        return self.passed_first / self.units if self.units else None

    @property
    def final(self) -> float | None:
        """Final yield, 0 to 1."""
        return self.passed / self.units if self.units else None

    @property
    def retests(self) -> float | None:
        """The share of units that needed more than one counted run."""
        return self.retested / self.units if self.units else None


@dataclass(frozen=True, slots=True)
class Group:
    """The yield of a part: a shift, a product."""

    name: str
    yields: Yield
    done: int


@dataclass(frozen=True, slots=True)
class Runs:
    """Every run of the window, by what it counts as. Each run is in exactly one of these."""

    outcomes: dict[str, int]
    rework: dict[str, int]
    golden: dict[str, int]
    simulated: int
    unnamed_fails: int
    """FAILs of production boards that never said who they are: in ``outcomes``, but in no unit's yield."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(map(sum, (self.outcomes.values(), self.rework.values(), self.golden.values()))) + self.simulated


@dataclass(frozen=True, slots=True)
class Bar:
    """Units done (passed, or provisioned) in one hour or day; ``hours`` is how long that was."""

    start: datetime
    hours: float
    done: int


@dataclass(frozen=True, slots=True)
class Point:
    """One day of the p-chart: units first seen, how many failed then, the limits; and where out of control, why."""

    day: date
    units: int
    failed: int
    lower: float
    upper: float
    broken: str | None
    faults: tuple[tuple[str, int], ...] = ()
    slots: tuple[tuple[str, int], ...] = ()


def yields(connection: sa.Connection, scope: Scope, kind: OrderKind, span: Span | None = None) -> Yield:
    """The yield of the units that were first counted in ``span`` (the window, where none is named)."""
    query: Query = sa.select(*_columns(scope, kind)).where(*first_runs(scope, kind, span))
    units, passed_first, passed, retested = connection.execute(query).one()
    return Yield(units, passed_first, passed, retested)


def _columns(scope: Scope, kind: OrderKind) -> list[sa.ColumnElement[int]]:
    """`Yield`'s four numbers, over `first_runs`."""
    _, retest = later(scope, kind)
    passing, passed_later = later(scope, kind, name="passing")
    at_once = tally.c.outcome == Outcome.PASS.value
    return [
        sa.func.count(),
        count_if(at_once),
        count_if(at_once | sa.exists().where(*passed_later, passing.c.outcome == Outcome.PASS.value)),
        count_if(sa.exists().where(*retest)),
    ]


def by_product(connection: sa.Connection, scope: Scope) -> list[Group]:
    """The yield of each product, by name."""
    kind = OrderKind.PRODUCTION
    query: Query = (
        sa.select(tally.c.product, *_columns(scope, kind)).where(*first_runs(scope, kind)).group_by(tally.c.product)
    )
    done: dict[str, int] = dict(
        connection.execute(
            sa.select(tally.c.product, sa.func.count())
            .where(*scope.real(kind), tally.c.outcome.in_(DONE))
            .group_by(tally.c.product)
        ).all()
    )
    found = {name: Yield(*counts) for name, *counts in connection.execute(query)}
    return [Group(name, found.get(name, Yield(0, 0, 0, 0)), done.get(name, 0)) for name in sorted({*found, *done})]


def by_shift(connection: sa.Connection, scope: Scope, settings: Report) -> list[Group]:
    """The yield of each shift, as the settings list them."""
    groups = []
    for shift in settings.shifts:
        whole, done = Counter[str](), 0
        for span in scope.window.shift(shift):
            one = yields(connection, scope, OrderKind.PRODUCTION, span)
            whole.update(units=one.units, first=one.passed_first, passed=one.passed, retested=one.retested)
            done += _done(connection, scope, span)
        groups.append(
            Group(shift.name, Yield(whole["units"], whole["first"], whole["passed"], whole["retested"]), done)
        )
    return groups


def _done(connection: sa.Connection, scope: Scope, span: Span) -> int:
    conditions = scope.real(OrderKind.PRODUCTION, span=span)
    query: Query = sa.select(sa.func.count()).where(*conditions, tally.c.outcome.in_(DONE))
    found: int = connection.execute(query).scalar_one()
    return found


def runs(connection: sa.Connection, scope: Scope) -> Runs:
    """Every run that ended in the window, sorted into what it counts as."""
    nameless = tally.c.serial.is_(None)
    query: Query = (
        sa.select(tally.c.simulated, tally.c.kind, tally.c.outcome, nameless.label("nameless"), sa.func.count())
        .where(*scope.rows())
        .group_by(tally.c.simulated, tally.c.kind, tally.c.outcome, nameless)
    )
    found: dict[str, Counter[str]] = {kind.value: Counter() for kind in OrderKind}
    simulated = unnamed = 0
    for is_simulated, kind, outcome, is_nameless, count in connection.execute(query):
        if is_simulated:
            simulated += count
            continue
        found[kind][outcome] += count
        if is_nameless and kind == OrderKind.PRODUCTION.value and outcome == Outcome.FAIL.value:
            unnamed += count
    return Runs(
        outcomes=dict(found[OrderKind.PRODUCTION.value]),
        rework=dict(found[OrderKind.REWORK.value]),
        golden=dict(found[OrderKind.GOLDEN.value]),
        simulated=simulated,
        unnamed_fails=unnamed,
    )


def output(connection: sa.Connection, scope: Scope) -> list[Bar]:
    """Units done an hour, of a window of up to two days; a day, of a longer one."""
    window = scope.window
    if len(window.days) > HOURLY_DAYS:
        spans = [window.day(day) for day in window.days]
        return [Bar(span.start, span.seconds / 3600, _done(connection, scope, span)) for span in spans]
    # A minute is the widest unit of text whose edges are every zone's hours' edges too.
    minute = sa.func.substr(sa.type_coerce(tally.c.at, sa.Text), 1, 16)
    query: Query = (
        sa.select(minute, sa.func.count())
        .where(*scope.real(OrderKind.PRODUCTION), tally.c.outcome.in_(DONE))
        .group_by(minute)
    )
    start, hours = window.span.start, window.hours()
    bins = Counter[int]()
    for text, count in connection.execute(query):
        at = datetime.fromisoformat(text).replace(tzinfo=UTC)
        bins[int((at - start).total_seconds() // 3600)] += count
    return [Bar(span.start, span.seconds / 3600, bins[index]) for index, span in enumerate(hours)]


def chart(connection: sa.Connection, scope: Scope) -> tuple[float, list[Point]]:
    """The p-chart of first failures over the 30 days that end with the window's last, and its centre line."""
    month = scope.days(_CHART_DAYS)
    days = [(day, month.window.day(day)) for day in month.window.days]
    failed = count_if(tally.c.outcome == Outcome.FAIL.value)
    counts = []
    for _, span in days:
        query = sa.select(sa.func.count(), failed).where(*first_runs(month, OrderKind.PRODUCTION, span))
        counts.append(connection.execute(query).one())
    centre, limits = p_chart([(units, bad) for units, bad in counts])
    points = []
    for (day, span), (units, bad), limit in zip(days, counts, limits, strict=True):
        why = _why(connection, month, span) if limit.broken else ((), ())
        points.append(Point(day, units, bad, limit.lower, limit.upper, limit.broken, *why))
    return centre, points


def _why(connection: sa.Connection, scope: Scope, span: Span) -> tuple[tuple[tuple[str, int], ...], ...]:
    """What the first failures of a day were, and in which slots: the two that came most."""
    conditions = [*first_runs(scope, OrderKind.PRODUCTION, span), tally.c.outcome == Outcome.FAIL.value]
    place = tally.c.station + sa.literal("/") + tally.c.slot
    found = []
    for what in (tally.c.fault, place):
        query = sa.select(what, sa.func.count()).where(*conditions).group_by(what)
        most = sorted(connection.execute(query), key=lambda row: (-row[1], row[0]))[:2]
        found.append(tuple((name, count) for name, count in most))
    return tuple(found)
