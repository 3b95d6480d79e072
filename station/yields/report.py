"""One report: every figure of it as a value, counted in one consistent view of the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from station.config.report import Report as Settings
from station.config.report import Shift
from station.model import OrderKind
from station.yields import counts, faults, standing, times
from station.yields.cells import cells
from station.yields.faults import FaultCount, Lifts, SlotYield
from station.yields.scope import Scope
from station.yields.troubles import Troubles, troubles
from station.yields.window import Span, joined, seconds

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that the pages say, and the JSON file holds."""

    station: str
    order: str | None
    only_station: str | None
    timezone: str
    first: date
    last: date
    start: datetime
    end: datetime
    made_at: datetime
    software: str
    over: bool
    """Whether the window had ended when this was counted; if not, it is a look at a running day."""
    yields: counts.Yield
    rework: counts.Yield
    products: list[counts.Group]
    shifts: list[counts.Group]
    runs: counts.Runs
    output: list[counts.Bar]
    shift_hours: float
    """Hours of all shifts in the window, up to now; 0 where the settings name no shift."""
    centre: float
    chart: list[counts.Point]
    faults: list[FaultCount]
    slots: list[SlotYield]
    lifts: list[Lifts]
    cycles: list[times.Cycle]
    waiting: list[times.Waiting]
    lost: list[times.Lost]
    troubles: Troubles | None
    """What the station's diary says; None of a whole line, whose stations each keep their own."""
    orders: list[standing.OrderStand]
    orders_shared: bool
    """Whether a line shares them: their counts are this station's alone, of the whole line's quantity."""
    certificates: standing.Certificates
    targets: dict[str, Any]

    @property
    def empty(self) -> bool:
        """Whether no run at all ended in the window."""
        return self.runs.total == 0

    @property
    def done(self) -> int:
        """Units that left the line good."""
        return sum(bar.done for bar in self.output)

    @property
    def hourly(self) -> bool:
        """Whether `output` is an hour a bar, not a day."""
        return (self.last - self.first).days < counts.HOURLY_DAYS

    @property
    def rate(self) -> float | None:
        """Units done an hour of the shifts; without shifts, of the hours in which anything was done."""
        hours = self.shift_hours or (sum(bar.hours for bar in self.output if bar.done) if self.hourly else 0.0)
        return self.done / hours if hours else None


def collect(
    connection: sa.Connection,
    scope: Scope,
    settings: Settings,
    *,
    station: str,
    software: str,
    now: datetime,
    diary: Path | None = None,
) -> Figures:
    """Count everything. ``connection`` should be one transaction that sees one state of the record."""
    span = scope.window.span
    centre, chart = counts.chart(connection, scope)
    read = cells(connection, scope)
    own = scope.station is None or scope.station == station
    told = troubles(diary, scope, settings, now) if diary is not None and own else None
    covered = told is not None and told.since is not None and told.since <= span.start
    stood = told.stood(span.end) if told and covered else None
    waiting, lost = times.waiting(connection, scope, settings, read, stood)
    return Figures(
        station=station,
        order=scope.order,
        only_station=scope.station,
        timezone=settings.timezone,
        first=scope.window.first,
        last=scope.window.last,
        start=span.start,
        end=span.end,
        made_at=now,
        software=software,
        over=now >= span.end,
        yields=counts.of_kind(read, OrderKind.PRODUCTION),
        rework=counts.of_kind(read, OrderKind.REWORK),
        products=counts.by_product(read),
        shifts=counts.by_shift(connection, scope, settings),
        runs=counts.runs(read),
        output=counts.output(connection, scope),
        shift_hours=seconds(joined([part for shift in settings.shifts for part in shift_spans(scope, shift, now)]))
        / 3600,
        centre=centre,
        chart=chart,
        faults=faults.pareto(connection, scope),
        slots=faults.slots(connection, scope, read),
        lifts=faults.lifts(connection, scope, read),
        cycles=times.cycles(connection, scope, settings),
        waiting=waiting,
        lost=lost,
        troubles=told,
        orders=standing.order_stands(connection, scope),
        orders_shared=standing.orders_shared(connection, scope),
        certificates=standing.certificate_stands(connection, scope, settings, now),
        targets=settings.targets.model_dump(mode="json"),
    )


def shift_spans(scope: Scope, shift: Shift, now: datetime) -> list[Span]:
    """The hours of a shift that are over."""
    return [span.within(Span(scope.window.span.start, now)) for span in scope.window.shift(shift)]


@contextmanager
def snapshot(connection: sa.Connection) -> Iterator[sa.Connection]:
    """See one state of the record throughout: SQLite's read transaction does; PostgreSQL is asked to.

    A year's sums are also too large for the 4 MB that PostgreSQL gives a sort, and too short to compile; and it would
    rather remember the runs of steps one by one than hash them all, which takes half the time.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for setting in ("work_mem = '128MB'", "hash_mem_multiplier = 3", "enable_memoize = off", "jit = off"):
            connection.exec_driver_sql(f"SET LOCAL {setting}")
    yield connection


def plain(value: Any) -> Any:
    """A value as JSON holds it: records as objects, moments in ISO 8601, UTC."""
    match value:
        case datetime() | date():
            return value.isoformat()
        case Mapping():
            return {str(key): plain(one) for key, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
        case counts.Yield():
            return {**_fields(value), "fpy": value.fpy, "final_yield": value.final, "retest_rate": value.retests}
    if is_dataclass(value):
        return _fields(value)
    return value


def _fields(value: Any) -> dict[str, Any]:
    return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
