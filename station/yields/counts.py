"""Yields: FPY, final yield and retests a unit; what was not counted, and why; output; the chart over 30 days."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import sqlalchemy as sa

from station.config.report import Report
from station.ledger.schema import retests, tally
from station.ledger.tally import COUNTED
from station.model import OrderKind, Outcome
from station.yields.scope import DONE, Condition, Query, Scope, again, count_if, first_runs
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


def _with_again(scope: Scope) -> tuple[sa.FromClause, list[Condition]]:
    """The tally beside what became of its units; for each of `Yield`'s numbers whether a first run counts in it."""
    later, at_once = again(scope), tally.c.outcome == Outcome.PASS.value
    rows = tally.outerjoin(later, (later.c.serial == tally.c.serial) & (later.c.kind == tally.c.kind))
    return rows, [sa.true(), at_once, at_once | (later.c.passed == 1), later.c.serial.is_not(None)]


def _sum(found: Iterable[Sequence[int]]) -> Yield:
    return Yield(*map(sum, zip((0, 0, 0, 0), *found, strict=True)))


@dataclass(frozen=True, slots=True)
class Products:
    """The yield of all production, of all rework, and of each product's production by name."""

    production: Yield
    rework: Yield
    each: list[Group]


def products(connection: sa.Connection, scope: Scope) -> Products:
    """Count the units of both kinds in one reading of their first runs."""
    kinds = (OrderKind.PRODUCTION, OrderKind.REWORK)
    rows, numbers = _with_again(scope)
    query: Query = (
        sa.select(tally.c.kind, tally.c.product, *map(count_if, numbers))
        .select_from(rows)
        .where(*first_runs(scope, *kinds))
        .group_by(tally.c.kind, tally.c.product)
    )
    found: dict[str, dict[str, list[int]]] = {kind.value: {} for kind in kinds}
    for kind, name, *counted in connection.execute(query):
        found[kind][name] = counted
    production, rework = (found[kind.value] for kind in kinds)
    done: dict[str, int] = dict(
        connection.execute(
            sa.select(tally.c.product, sa.func.count())
            .where(*scope.real(OrderKind.PRODUCTION), tally.c.outcome.in_(DONE))
            .group_by(tally.c.product)
        ).all()
    )
    names = sorted({*production, *done})
    each = [Group(name, Yield(*production.get(name, (0, 0, 0, 0))), done.get(name, 0)) for name in names]
    return Products(_sum(production.values()), _sum(rework.values()), each)


@dataclass(frozen=True, slots=True)
class Times:
    """What the window's time is divided into."""

    output: list[Bar]
    shifts: list[Group]


def times(connection: sa.Connection, scope: Scope, settings: Report) -> Times:
    """Units done an hour (a day, where the window is longer than two), and each shift's yield."""
    window = scope.window
    bars = [window.day(day) for day in window.days] if len(window.days) > HOURLY_DAYS else window.hours()
    shifts = [(shift.name, window.shift(shift)) for shift in settings.shifts]
    rows, numbers = _with_again(scope)
    noted = retests.alias("noted")
    rows = rows.outerjoin(noted, noted.c.run == tally.c.run)
    first = tally.c.outcome.in_(COUNTED) & tally.c.serial.is_not(None) & noted.c.run.is_(None)
    columns = [count_if(tally.c.outcome.in_(DONE)), *(count_if(first & number) for number in numbers)]
    spans = bars + [span for _, of_shift in shifts for span in of_shift]
    sums = iter(
        _in_spans(connection, spans, sa.select(*columns).select_from(rows).where(*scope.real(OrderKind.PRODUCTION)))
    )
    output = [Bar(span.start, span.seconds / 3600, next(sums)[0]) for span in bars]
    groups = []
    for name, of_shift in shifts:
        parts = [next(sums) for _ in of_shift]
        groups.append(Group(name, _sum(part[1:] for part in parts), sum(part[0] for part in parts)))
    return Times(output, groups)


def _in_spans(connection: sa.Connection, spans: Sequence[Span], counts: Query) -> list[list[int]]:
    """The sums that ``counts`` selects, in each span, in one reading of the tally.

    The database groups by a stretch of the time's text: an hour where every span begins and ends with one, else ten
    minutes, else one. No zone and no shift has an edge within a minute.
    """
    edges = sorted({_minute(moment) for span in spans for moment in (span.start, span.end)})
    width = next(
        width for width, end in ((13, ":00"), (15, "0"), (16, "")) if all(edge.endswith(end) for edge in edges)
    )
    stretch = sa.func.substr(sa.type_coerce(tally.c.at, sa.Text), 1, width)
    stops = [edge[:width] for edge in edges]
    parts = [[0] * len(counts.selected_columns) for _ in range(len(stops) + 1)]
    query = counts.add_columns(stretch).group_by(stretch)
    # All at once: PostgreSQL never reads in parallel for a cursor.
    for *numbers, text in connection.execute(query):
        part = bisect_right(stops, text)
        parts[part] = [sum(pair) for pair in zip(parts[part], numbers, strict=True)]
    found = []
    for span in spans:
        inside = parts[
            bisect_right(stops, _minute(span.start)[:width]) : bisect_left(stops, _minute(span.end)[:width]) + 1
        ]
        found.append([sum(column) for column in zip(*inside, strict=True)] or [0] * len(counts.selected_columns))
    return found


def _minute(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()[:16]


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


def chart(connection: sa.Connection, scope: Scope) -> tuple[float, list[Point]]:
    """The p-chart of first failures over the 30 days that end with the window's last, and its centre line."""
    month = scope.days(_CHART_DAYS)
    days = [(day, month.window.day(day)) for day in month.window.days]
    failed = count_if(tally.c.outcome == Outcome.FAIL.value)
    query: Query = sa.select(sa.func.count(), failed).where(*first_runs(month, OrderKind.PRODUCTION))
    counts = _in_spans(connection, [span for _, span in days], query)
    centre, limits = p_chart([(units, bad) for units, bad in counts])
    points = []
    for (day, span), (units, bad), limit in zip(days, counts, limits, strict=True):
        why = _why(connection, month, span) if limit.broken else ((), ())
        points.append(Point(day, units, bad, limit.lower, limit.upper, limit.broken, *why))
    return centre, points


def _why(connection: sa.Connection, scope: Scope, span: Span) -> tuple[tuple[tuple[str, int], ...], ...]:
    """What the first failures of a day were, and in which slots: the two that came most."""
    conditions = [*first_runs(scope, OrderKind.PRODUCTION, span=span), tally.c.outcome == Outcome.FAIL.value]
    place = tally.c.station + sa.literal("/") + tally.c.slot
    found = []
    for what in (tally.c.fault, place):
        query = sa.select(what, sa.func.count()).where(*conditions).group_by(what)
        most = sorted(connection.execute(query), key=lambda row: (-row[1], row[0]))[:2]
        found.append(tuple((name, count) for name, count in most))
    return tuple(found)
