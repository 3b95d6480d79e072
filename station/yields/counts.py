"""Yields: FPY, final yield and retests a unit; what was not counted, and why; output; the chart over 30 days."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import sqlalchemy as sa

from station.config.report import Report
from station.ledger.schema import tally
from station.model import OrderKind, Outcome
from station.yields.cells import Cell, again
from station.yields.scope import DONE, Query, Scope, count_if, first_runs
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


def _yield(of: Iterable[Cell]) -> Yield:
    numbers = [(cell.units, cell.passed_first, cell.passed, cell.retested) for cell in of]
    return Yield(*map(sum, zip((0, 0, 0, 0), *numbers, strict=True)))


def of_kind(read: Iterable[Cell], kind: OrderKind) -> Yield:
    """The yield of all units of production, or of rework."""
    return _yield(cell for cell in read if cell.kind == kind.value and not cell.simulated)


def by_product(read: Iterable[Cell]) -> list[Group]:
    """The yield of each product's production, by name."""
    mine: dict[str, list[Cell]] = defaultdict(list)
    for cell in read:
        if cell.kind == OrderKind.PRODUCTION.value and not cell.simulated:
            mine[cell.product].append(cell)
    groups = [Group(name, _yield(of), _done(of)) for name, of in sorted(mine.items())]
    return [group for group in groups if group.yields.units or group.done]


def _done(of: Iterable[Cell]) -> int:
    return sum(cell.runs for cell in of if cell.outcome in DONE)


def output(connection: sa.Connection, scope: Scope) -> list[Bar]:
    """Units done an hour, of a window of up to two days; a day, of a longer one."""
    window = scope.window
    spans = [window.day(day) for day in window.days] if len(window.days) > HOURLY_DAYS else window.hours()
    done = sa.select(sa.func.count()).where(*scope.real(OrderKind.PRODUCTION), tally.c.outcome.in_(DONE))
    found = _in_spans(connection, spans, done)
    return [Bar(span.start, span.seconds / 3600, count) for span, (count,) in zip(spans, found, strict=True)]


def by_shift(connection: sa.Connection, scope: Scope, settings: Report) -> list[Group]:
    """The yield of each shift, as the settings list them."""
    spans = [(shift.name, span) for shift in settings.shifts for span in scope.window.shift(shift)]
    if not settings.shifts:
        return []
    later, kind = again(scope), OrderKind.PRODUCTION
    rows = tally.outerjoin(later, (later.c.serial == tally.c.serial) & (later.c.kind == tally.c.kind))
    at_once = tally.c.outcome == Outcome.PASS.value
    numbers = (at_once, at_once | (later.c.passed == 1), later.c.serial.is_not(None))
    first: Query = sa.select(sa.func.count(), *map(count_if, numbers)).select_from(rows)
    done: Query = sa.select(sa.func.count()).where(*scope.real(kind), tally.c.outcome.in_(DONE))
    times = [span for _, span in spans]
    units = _in_spans(connection, times, first.where(*first_runs(scope, kind)))
    counts = _in_spans(connection, times, done)
    groups = []
    for shift in settings.shifts:
        mine = [place for place, (name, _) in enumerate(spans) if name == shift.name]
        whole = Yield(*map(sum, zip((0, 0, 0, 0), *(units[place] for place in mine), strict=True)))
        groups.append(Group(shift.name, whole, sum(counts[place][0] for place in mine)))
    return groups


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


def runs(read: Iterable[Cell]) -> Runs:
    """Every run that ended in the window, sorted into what it counts as."""
    found: dict[str, Counter[str]] = {kind.value: Counter() for kind in OrderKind}
    simulated = unnamed = 0
    for cell in read:
        if cell.simulated:
            simulated += cell.runs
            continue
        found[cell.kind][cell.outcome] += cell.runs
        if cell.nameless and cell.kind == OrderKind.PRODUCTION.value and cell.outcome == Outcome.FAIL.value:
            unnamed += cell.runs
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
