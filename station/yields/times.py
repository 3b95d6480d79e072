"""Time: what each step took, what the line waited for, and what the station's own faults cost."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise
from typing import Any

import sqlalchemy as sa

from station.config.report import Report
from station.faults import Blame, Fault
from station.ledger.schema import order_closures, orders, tally
from station.model import OrderKind, Outcome, Step
from station.yields.cells import Cell
from station.yields.scope import DONE, Query, Scope, natural
from station.yields.stats import percentile
from station.yields.steps import durations
from station.yields.window import Span, common, joined, seconds, without

_WORK = (OrderKind.PRODUCTION, OrderKind.REWORK)
_LONGEST_DAYS = 35  # waiting is told run by run; of longer windows nobody reads it
_NO_BOARD, _ANDON, _TROUBLE, _NO_ORDER = CAUSES = ("no board", "andon", "trouble", "no order")


@dataclass(frozen=True, slots=True)
class Cycle:
    """How long one step, or a whole good run (``step`` None), took: milliseconds, to the millisecond."""

    step: str | None
    runs: int
    median_ms: int
    p95_ms: int
    target_s: float | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Where one slot's planned time went, in seconds: runs, and the gaps between them by cause."""

    station: str
    slot: str
    planned_s: float
    running_s: float
    waited_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Lost:
    """A fault that is not the unit's: how many runs ended in it, and the seconds of slots that it cost."""

    code: str
    runs: int
    seconds: float | None


def cycles(connection: sa.Connection, scope: Scope, settings: Report) -> list[Cycle]:
    """Each step that ended without a fault, in the order of a run; then the whole of the runs that were done."""
    taken = durations(connection, scope)
    targets = settings.targets
    known = [step.value for step in Step]
    found = [
        _cycle(name, taken[name], targets.steps_s.get(Step(name)) if name in known else None)
        for name in sorted(taken, key=lambda name: known.index(name) if name in known else len(known))
    ]
    run_ms = sa.cast(sa.func.round(tally.c.duration_ms), sa.BigInteger)
    done = [*scope.real(*_WORK), tally.c.outcome.in_(DONE)]
    query: Query = sa.select(run_ms, sa.func.count()).where(*done).group_by(run_ms)
    whole: Counter[int] = Counter(dict(connection.execute(query).all()))
    return [*found, _cycle(None, whole, targets.cycle_s)] if whole else found


def _cycle(step: str | None, taken: Counter[int], target_s: float | None) -> Cycle:
    return Cycle(step, sum(taken.values()), percentile(taken, 0.5) or 0, percentile(taken, 0.95) or 0, target_s)


@dataclass(frozen=True, slots=True)
class _Run:
    slot: str
    span: Span
    outcome: str
    fault: str | None

    @property
    def blame(self) -> Blame | None:
        if self.outcome != Outcome.ERROR.value or self.fault is None:
            return None
        try:
            return Fault(self.fault).blame
        except ValueError:  # of a newer software's catalogue, on a line that shares one database
            return Blame.STATION


def waiting(
    connection: sa.Connection, scope: Scope, settings: Report, read: Iterable[Cell], stood: list[Span] | None = None
) -> tuple[list[Waiting], list[Lost]]:
    """Where each slot's time went, and what each fault of ours cost; times only of windows up to 35 days.

    Nothing records why a nest was empty, so it is concluded: no open order with units left; else andon, while the line
    ``stood`` by the diary (where that does not cover the window: from a run that ended in a fault of the CA to the
    station's next run that does not); else trouble, after any other ERROR in the slot; else there was no board.
    """
    if len(scope.window.days) > _LONGEST_DAYS:
        return [], _lost_runs(read)
    no_order = without([scope.window.span], _open_orders(connection, scope))
    found: list[Waiting] = []
    lost: dict[str, float] = defaultdict(float)
    ended: Counter[str] = Counter()
    rows: Any = connection.execute(_every_run(scope), execution_options={"yield_per": 2000})
    for station, of_station in groupby(rows, key=lambda row: row[0]):
        taken = [_Run(slot, Span(began, at), outcome, fault) for _, slot, began, at, outcome, fault in of_station]
        for run in taken:
            if run.blame is not None and run.fault is not None:
                ended[run.fault] += 1
                lost[run.fault] += run.span.seconds
        planned = _planned(scope, settings, taken)
        andons = joined(list(_andons(taken, scope.window.span.end))) if stood is None else stood
        for slot in sorted({run.slot for run in taken}, key=natural):
            mine = [run for run in taken if run.slot == slot]
            found.append(_of_slot(station, mine, planned, {_NO_ORDER: no_order, _ANDON: andons}, lost))
    costs = [Lost(code, count, lost[code]) for code, count in ended.items()]
    return found, sorted(costs, key=lambda one: (-(one.seconds or 0), one.code))


def _every_run(scope: Scope) -> sa.Select[tuple[str, str, datetime, datetime, str, str | None]]:
    """Of every kind and outcome: a golden sample keeps a slot busy too."""
    names = (tally.c.station, tally.c.slot, tally.c.started_at, tally.c.at, tally.c.outcome, tally.c.fault)
    window_only = [*scope.rows(), tally.c.simulated.is_(sa.false())]
    return sa.select(*names).where(*window_only).order_by(tally.c.station, tally.c.at, tally.c.run)


def _planned(scope: Scope, settings: Report, taken: list[_Run]) -> list[Span]:
    """The shifts; where none are named, each day from its first run's start to its last run's end."""
    if settings.shifts:
        return joined([span for shift in settings.shifts for span in scope.window.shift(shift)])
    ends = [run.span.end for run in taken]
    spans = []
    for day in map(scope.window.day, scope.window.days):
        inside = taken[bisect_left(ends, day.start) : bisect_left(ends, day.end)]
        if inside:
            spans.append(Span(min(run.span.start for run in inside), inside[-1].span.end).within(day))
    return joined(spans)


def _andons(taken: list[_Run], until: datetime) -> Iterator[Span]:
    since: datetime | None = None
    for run in taken:
        if run.blame is Blame.CA:
            since = since or run.span.end
        elif since is not None and run.span.start >= since:
            yield Span(since, run.span.start)
            since = None
    if since is not None:
        yield Span(since, until)


def _of_slot(
    station: str, mine: list[_Run], planned: list[Span], causes: dict[str, list[Span]], lost: dict[str, float]
) -> Waiting:
    busy = joined([run.span for run in mine])
    gaps = list(_gaps(mine, planned))
    idle = without(planned, busy)
    waited: dict[str, float] = {}
    parts: dict[str, list[Span]] = {}
    erred = joined([gap for run, gap in gaps if run.blame not in {None, Blame.CA}])
    for cause, spans in ({**causes, _TROUBLE: erred}).items():
        parts[cause] = common(idle, spans)
        waited[cause] = seconds(parts[cause])
        idle = without(idle, spans)
    for run, gap in gaps:
        if run.blame is not None and run.fault is not None:
            cause = _ANDON if run.blame is Blame.CA else _TROUBLE
            lost[run.fault] += seconds(common(parts[cause], [gap]))
    waited[_NO_BOARD] = seconds(idle)
    return Waiting(station, mine[0].slot, seconds(planned), seconds(common(planned, busy)), waited)


def _gaps(mine: list[_Run], planned: list[Span]) -> Iterator[tuple[_Run, Span]]:
    """Each run, and the time from its end to the slot's next run."""
    for run, following in pairwise(mine):
        yield run, Span(run.span.end, following.span.start)
    if mine and planned:
        yield mine[-1], Span(mine[-1].span.end, planned[-1].end)


def _open_orders(connection: sa.Connection, scope: Scope) -> list[Span]:
    """When an order of production or rework was open and had units left."""
    span = scope.window.span
    passes = (tally.c.order_number == orders.c.number) & tally.c.outcome.in_(DONE)
    counted = sa.select(sa.func.count()).where(passes).scalar_subquery()
    last = sa.select(sa.func.max(tally.c.at)).where(passes).scalar_subquery()
    query: Query = (
        sa.select(orders.c.opened_at, order_closures.c.closed_at, orders.c.quantity, counted, last)
        .outerjoin(order_closures, order_closures.c.order_number == orders.c.number)
        .where(
            orders.c.kind.in_([kind.value for kind in _WORK]),
            orders.c.opened_at < span.end,
            order_closures.c.closed_at.is_(None) | (order_closures.c.closed_at > span.start),
        )
    )
    spans = []
    for opened, closed, quantity, passed, filled in connection.execute(query):
        ends = [moment for moment in (closed, filled if passed >= quantity else None, span.end) if moment]
        spans.append(Span(opened, min(ends)).within(span))
    return joined(spans)


def _lost_runs(read: Iterable[Cell]) -> list[Lost]:
    ended = Counter[str]()
    for cell in read:
        if cell.outcome == Outcome.ERROR.value and not cell.simulated:
            ended[cell.fault or Fault.UNEXPECTED.code] += cell.runs
    return sorted((Lost(code, count, None) for code, count in ended.items()), key=lambda one: (-one.runs, one.code))
