"""The figures are the truth: a recount in plain Python over the list of facts, written apart, finds the very same.

The months hold whatever a line does: retests, aborts, errors, golden samples, rework, boards that never
say who they are, two stations, runs that end on the very edge of a day, and days of 23 and 25 hours.
"""

from __future__ import annotations

import itertools
import math
import shutil
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ledgers import open_ledger
from month import OrderFact, RunFact, put

from station.config.report import Report
from station.model import Outcome
from station.yields.counts import Yield
from station.yields.records import UnitRow
from station.yields.records import units as unit_rows
from station.yields.report import Figures, collect
from station.yields.scope import Scope
from station.yields.window import window

# Berlin's clocks go forward on 2026-03-29 and back on 2026-10-25; Saigon's never do; Kathmandu's are off by 45 minutes.
ZONES = ("Europe/Berlin", "Asia/Ho_Chi_Minh", "Asia/Kathmandu")
EDGES = ("2026-03-28", "2026-10-24", "2026-07-14")
FAULTS = {"FAIL": ("U101", "U110"), "ERROR": ("C303", "N402", "J203"), "ABORTED": ("J201", "J202", "S604")}
STEPS = ("identify", "admit", "enroll", "issue", "install", "verify", "connect")
ORDERS = {"production": "WO-1", "rework": "RW-1", "golden": "GO-1"}
# Without shrinking: it would take longer than the suite may; the example that failed is printed as it is.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
MADE = datetime(2026, 12, 31, tzinfo=UTC)
_numbers = itertools.count()

_moments = st.one_of(
    st.integers(0, 6 * 86_400).map(lambda second: timedelta(seconds=second)),
    # The first day of the window, so that much happens to the same few units on one day.
    st.integers(56 * 3600, 70 * 3600).map(lambda second: timedelta(seconds=second)),
    # The edges: midnight, six o'clock and the hours in which clocks change, and a microsecond beside them.
    st.builds(
        lambda day, hour, off: timedelta(days=day, hours=hour, microseconds=off),
        st.integers(0, 5),
        st.sampled_from((0, 1, 2, 3, 4, 5, 6, 16, 17, 22, 23)),
        st.sampled_from((-1, 0, 1)),
    ),
)


@st.composite
def run_facts(draw: st.DrawFn, start: datetime) -> RunFact:
    outcome = draw(st.sampled_from(("PASS", "PASS", "PASS", "FAIL", "FAIL", "ERROR", "ABORTED", "PROVISIONED")))
    kind = draw(st.sampled_from(("production",) * 6 + ("rework", "golden")))
    serial: str | None = draw(st.sampled_from(("A", "B", "C", "D", "E")))
    admitted = True
    if outcome in {"FAIL", "ERROR"} and kind == "production" and draw(st.booleans()):
        admitted = False
        serial = draw(st.sampled_from((serial, None)))
    took = tuple((step, float(draw(st.integers(1, 9999))), None) for step in STEPS[: draw(st.integers(0, 7))])
    return RunFact(
        id=f"run-{next(_numbers)}",
        # Golden samples are boards of their own.
        serial=f"GOLD-{serial}" if kind == "golden" else serial,
        ended_at=start + draw(_moments),
        outcome=outcome,
        fault=draw(st.sampled_from(FAULTS[outcome])) if outcome in FAULTS else None,
        order=ORDERS[kind] if admitted else None,
        kind=kind,
        slot=draw(st.sampled_from("12")),
        station=draw(st.sampled_from(("s1", "s1", "s2"))),
        operator=draw(st.sampled_from(("linh", "tuan"))),
        took_s=float(draw(st.integers(1, 5000))),
        simulated=draw(st.sampled_from((False,) * 9 + (True,))),
        steps=took,
        certified=admitted and draw(st.booleans()),
        life_days=draw(st.sampled_from((7300, 60, 80, 170, 175, 260, 290))),  # some end about when it is counted
        revoked=draw(st.booleans()),
    )


def superseding(facts: list[RunFact]) -> list[RunFact]:
    """A unit's certificate goes out of service when it gets its next."""
    newest: dict[str | None, str] = {}
    made = []
    for fact in sorted(facts, key=lambda one: (one.ended_at, one.id)):
        good = fact.certified and fact.outcome in {"PASS", "PROVISIONED"}
        made.append(replace(fact, supersedes=newest.get(fact.serial)) if good else fact)
        if good:
            newest[fact.serial] = fact.id
    return made


@st.composite
def months(draw: st.DrawFn) -> tuple[list[RunFact], Report, date, date]:
    first = date.fromisoformat(draw(st.sampled_from(EDGES)))
    zone = draw(st.sampled_from(ZONES))
    # The moments are set by the wall clock of the first day, so that the edges are edges there.
    start = datetime(first.year, first.month, first.day, tzinfo=ZoneInfo(zone)).astimezone(UTC) - timedelta(days=2)
    facts = superseding(
        draw(st.lists(run_facts(start), max_size=5) | st.lists(run_facts(start), min_size=30, max_size=40))
    )
    told = Report.model_validate_json(
        f'{{"timezone": "{zone}", "day_starts": "{draw(st.sampled_from(("00:00", "06:00", "02:30")))}",'
        ' "shifts": [{"name": "day", "starts": "06:00", "ends": "18:00"},'
        ' {"name": "night", "starts": "18:00", "ends": "06:00"}]}'
    )
    return facts, told, first, first + timedelta(days=draw(st.sampled_from((0, 0, 1, 2))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("truth")
    open_ledger(made / "empty.sqlite").dispose()
    return made


Units = dict[tuple[str, str], UnitRow]


def report(folder: Path, facts: list[RunFact], told: Report, first: date, last: date) -> tuple[Figures, Units]:
    path = folder / f"{next(_numbers)}.sqlite"
    shutil.copy(folder / "empty.sqlite", path)
    ledger = open_ledger(path)
    try:
        golden = tuple(sorted({fact.serial for fact in facts if fact.kind == "golden" and fact.serial}))
        put(ledger, [OrderFact("WO-1"), OrderFact("RW-1", "rework"), OrderFact("GO-1", "golden", 9, golden)], facts)
        scope = Scope(window(told, MADE, first=first, last=last))
        with ledger.store.read() as connection:
            found = collect(connection, scope, told, station="s1", software="1", now=MADE)
            rows = {(row.serial, row.kind): row for row in unit_rows(connection, scope)}
    finally:
        ledger.dispose()
        ledger.store.path.unlink()
    assert sum(row.first_here for row in rows.values() if row.kind == "production") == found.yields.units
    return found, rows


# The recount. It knows nothing of the station's code: lists, and the wall clock.


class Recount:
    def __init__(self, facts: list[RunFact], told: Report, first: date, last: date) -> None:
        self.zone, self.starts = ZoneInfo(told.timezone), told.day_starts
        self.start, self.end = self.opens(first), self.opens(last + timedelta(days=1))
        self.real = sorted((f for f in facts if not f.simulated), key=lambda f: (f.ended_at, f.id))
        self.facts = facts
        self.all_here = [f for f in facts if self.start <= f.ended_at < self.end]
        self.here = [f for f in self.real if self.start <= f.ended_at < self.end]

    def opens(self, day: date) -> datetime:
        hour, minute = map(int, self.starts.split(":"))
        return datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone).astimezone(UTC)

    def cohort(self, kind: str, start: datetime, end: datetime) -> Iterator[tuple[RunFact, list[RunFact]]]:
        """Each unit whose first counted run is in the time: that run, and its counted runs after it."""
        by_unit: dict[str, list[RunFact]] = defaultdict(list)
        for fact in self.real:
            if fact.kind == kind and fact.serial and fact.outcome in {"PASS", "FAIL"}:
                by_unit[fact.serial].append(fact)
        for runs in by_unit.values():
            if start <= runs[0].ended_at < end:
                yield runs[0], [run for run in runs[1:] if run.ended_at < self.end]

    def yields(self, kind: str, start: datetime, end: datetime) -> tuple[int, int, int, int]:
        units = list(self.cohort(kind, start, end))
        return (
            len(units),
            sum(first.outcome == "PASS" for first, _ in units),
            sum(any(run.outcome == "PASS" for run in (first, *more)) for first, more in units),
            sum(bool(more) for _, more in units),
        )

    def running_s(self) -> dict[tuple[str, str], int]:
        """Of each slot, the seconds that any of its runs covers."""
        covered: dict[tuple[str, str], float] = defaultdict(float)
        until: dict[tuple[str, str], datetime] = defaultdict(lambda: self.start)
        for fact in sorted(self.here, key=lambda f: f.started_at):
            place = (fact.station, fact.slot)
            covered[place] += max(timedelta(0), fact.ended_at - max(fact.started_at, until[place])).total_seconds()
            until[place] = max(until[place], fact.ended_at)
        return {place: round(seconds) for place, seconds in covered.items()}

    def lifts(self) -> dict[tuple[str, str], list[tuple[int, ...]]]:
        """By slot and by operator, of each run: itself, lifted, swapped, and whether its unit then failed."""
        found: dict[tuple[str, str], list[tuple[int, ...]]] = defaultdict(list)
        for fact in self.here:
            if fact.kind == "golden":
                continue
            later = [
                f.outcome
                for f in self.real
                if (f.ended_at, f.id) > (fact.ended_at, fact.id) and f.ended_at < self.end
                if fact.serial and (f.serial, f.kind) == (fact.serial, "production") and f.outcome in {"PASS", "FAIL"}
            ]
            lifted = fact.fault == "J201"
            row = (1, int(lifted), int(fact.fault == "J202"), int(lifted and later[:1] == ["FAIL"]))
            for key in (("slot", f"{fact.station}/{fact.slot}"), ("operator", fact.operator)):
                found[key].append(row)
        return found

    def done(self, order: str, since: datetime | None) -> set[str]:
        """The units that were done for an order."""
        mine = [f for f in self.facts if f.order == order and f.outcome in {"PASS", "PROVISIONED"}]
        return {f.serial for f in mine if f.serial and f.ended_at < self.end and (not since or f.ended_at >= since)}

    def certificates(self, days: int) -> dict[str, object]:
        """Those of the window, and those that need somebody."""
        certified = [f for f in self.facts if f.certified]
        replaced = {f.supersedes for f in self.facts}
        alive = [f for f in certified if f.outcome in {"PASS", "PROVISIONED"} and f.id not in replaced]
        orphans = [f for f in certified if f.outcome not in {"PASS", "PROVISIONED"}]
        wait = [f.ended_at for f in (*orphans, *(f for f in self.facts if f.supersedes)) if not f.revoked]
        near = timedelta(days=days)
        return {
            "signed": sum(self.start <= f.signed_at < self.end for f in certified),
            "superseded": sum(f.supersedes is not None for f in self.here),
            "waiting": len(wait),
            "oldest_waiting": min(wait, default=None),
            "expired": sum(MADE - near <= f.not_after < MADE for f in alive),
            "expiring": sum(MADE <= f.not_after < MADE + near for f in alive),
        }

    def units(self) -> dict[tuple[str, str], dict[str, object]]:
        """Each unit of the window, as CSV and JSON have it."""
        mine: dict[tuple[str, str], list[RunFact]] = defaultdict(list)
        for fact in self.here:
            if fact.serial:
                mine[fact.serial, fact.kind].append(fact)
        return {key: self.unit(runs) for key, runs in mine.items()}

    def unit(self, runs: list[RunFact]) -> dict[str, object]:
        first, last = runs[0], runs[-1]
        counted = [f for f in runs if f.outcome in {"PASS", "FAIL"}]
        left_with = [f for f in runs if f.certified and f.outcome in {"PASS", "PROVISIONED"}]
        before = [f for f in self.real if (f.serial, f.kind) == (last.serial, last.kind) and f.ended_at < self.start]
        return {
            **{name: getattr(last, name) for name in ("serial", "kind", "product", "station", "slot", "operator")},
            "order": last.order or "",
            "runs": len(runs),
            "counted": len(counted),
            "errors": sum(f.outcome == "ERROR" for f in runs),
            "aborted": sum(f.outcome == "ABORTED" for f in runs),
            "first_here": bool(counted) and not any(f.outcome in {"PASS", "FAIL"} for f in before),
            "first_outcome": counted[0].outcome if counted else "",
            "first_fault": (counted[0].fault or "") if counted else "",
            "last_outcome": last.outcome,
            "last_fault": last.fault or "",
            "first_ended_at": first.ended_at.isoformat(timespec="microseconds"),
            "last_ended_at": last.ended_at.isoformat(timespec="microseconds"),
            "certificate_id": left_with[-1].id if left_with else "",
            "certificate_ends": left_with[-1].not_after.isoformat(timespec="microseconds") if left_with else "",
        }


def four(found: Yield) -> tuple[int, int, int, int]:
    return found.units, found.passed_first, found.passed, found.retested


@settings(
    max_examples=25,
    deadline=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(month=months())
def test_the_figures_are_those_of_a_plain_recount(  # noqa: PLR0915 - figure after figure
    folder: Path, month: tuple[list[RunFact], Report, date, date]
) -> None:
    facts, told, first, last = month
    (found, units_found), truth = report(folder, facts, told, first, last), Recount(*month)

    assert four(found.yields) == truth.yields("production", truth.start, truth.end)
    assert four(found.rework) == truth.yields("rework", truth.start, truth.end)
    per_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for fact in truth.here:
        per_kind[fact.kind][fact.outcome] += 1
    assert found.runs.outcomes == per_kind["production"]
    assert found.runs.rework == per_kind["rework"]
    assert found.runs.golden == per_kind["golden"]
    assert found.runs.simulated == sum(fact.simulated for fact in truth.all_here)
    assert found.runs.total == len(truth.all_here)
    nameless = [f for f in truth.here if f.kind == "production" and f.outcome == "FAIL" and f.serial is None]
    assert found.runs.unnamed_fails == len(nameless)

    done = [f for f in truth.here if f.kind == "production" and f.outcome in {"PASS", "PROVISIONED"}]
    assert found.done == len(done)
    if last == first:
        hours = Counter(int((f.ended_at - truth.start) / timedelta(hours=1)) for f in done)
        assert {index: bar.done for index, bar in enumerate(found.output) if bar.done} == hours
        assert sum(bar.hours for bar in found.output) == (truth.end - truth.start) / timedelta(hours=1)
    shifts = Counter("day" if 6 <= f.ended_at.astimezone(truth.zone).hour < 18 else "night" for f in done)
    assert {group.name: group.done for group in found.shifts if group.done} == shifts
    assert sum(group.yields.units for group in found.shifts) == found.yields.units

    points = {point.day: (point.units, point.failed) for point in found.chart if point.units}
    days = [last - timedelta(days=back) for back in range(30)]
    expected = {}
    for day in days:
        units = list(truth.cohort("production", truth.opens(day), truth.opens(day + timedelta(days=1))))
        if units:
            expected[day] = (len(units), sum(run.outcome == "FAIL" for run, _ in units))
    assert points == expected

    work = [f for f in truth.here if f.kind in {"production", "rework"}]
    assert {(f.code, f.outcome): (f.runs, f.units) for f in found.faults} == {
        key: (
            sum(1 for f in work if (f.fault, f.outcome) == key),
            len({f.serial for f in work if (f.fault, f.outcome) == key} - {None}),
        )
        for key in {(f.fault, f.outcome) for f in work if f.fault}
    }
    cohort = list(truth.cohort("production", truth.start, truth.end))
    places: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for run, more in cohort:
        row = places[run.station, run.slot]
        row[0] += 1
        if run.outcome == "FAIL":
            row[1] += 1
            passed = [
                (later.station, later.slot) == (run.station, run.slot) for later in more if later.outcome == "PASS"
            ]
            row[2] += False in passed
            row[3] += True in passed
    assert {(s.station, s.slot): [s.units, s.failed, s.passed_elsewhere, s.passed_here] for s in found.slots} == places

    took: dict[str, list[float]] = defaultdict(list)
    for fact in work:
        for step, ms, _ in fact.steps:
            took[step].append(ms)
    took[""] = [f.took_s * 1000 for f in work if f.outcome in {"PASS", "PROVISIONED"}]
    assert {c.step or "": (c.runs, c.median_ms, c.p95_ms) for c in found.cycles} == {
        step: (len(times), statistics.median_low(times), sorted(times)[math.ceil(0.95 * len(times)) - 1])
        for step, times in took.items()
        if times
    }
    certified = [f for f in truth.here if f.certified]
    assert found.certificates.passed == sum(f.outcome in {"PASS", "PROVISIONED"} for f in certified)
    assert found.certificates.orphaned == sum(f.outcome not in {"PASS", "PROVISIONED"} for f in certified)

    whole = sum(slot.running_s + sum(slot.waited_s.values()) for slot in found.waiting)
    assert whole == pytest.approx(sum(slot.planned_s for slot in found.waiting), abs=0.01)
    assert {(s.station, s.slot): round(s.running_s) for s in found.waiting} == truth.running_s()
    assert found.shift_hours * 3600 == pytest.approx((truth.end - truth.start).total_seconds())  # day and night
    assert found.rate == (found.done / found.shift_hours)
    errors = [f.fault for f in truth.here if f.outcome == "ERROR"]
    assert {one.code: one.runs for one in found.lost} == Counter(errors)
    assert {(one.kind, one.name): (one.runs, one.lifted, one.swapped, one.then_failed) for one in found.lifts} == {
        key: tuple(map(sum, zip(*rows, strict=True))) for key, rows in truth.lifts().items()
    }
    assert {one.number: (one.passed, one.passed_now) for one in found.orders} == {
        number: (len(truth.done(number, None)), len(truth.done(number, truth.start))) for number in ORDERS.values()
    }
    assert truth.certificates(told.expiring_days) == {
        name: getattr(found.certificates, name)
        for name in ("signed", "superseded", "waiting", "oldest_waiting", "expired", "expiring")
    }
    assert {key: row._asdict() for key, row in units_found.items()} == truth.units()


@settings(
    max_examples=4,
    deadline=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(month=months())
def test_the_days_add_up_to_the_month(folder: Path, month: tuple[list[RunFact], Report, date, date]) -> None:
    facts, told, first, _ = month
    whole, _ = report(folder, facts, told, first, first + timedelta(days=2))
    days = [report(folder, facts, told, day, day)[0] for day in (first + timedelta(days=index) for index in range(3))]
    assert sum(day.yields.units for day in days) == whole.yields.units
    assert sum(day.yields.passed_first for day in days) == whole.yields.passed_first
    assert sum(day.done for day in days) == whole.done
    assert sum(day.runs.total for day in days) == whole.runs.total


def test_every_outcome_is_counted_somewhere() -> None:
    assert {outcome.value for outcome in Outcome} == {"PASS", "FAIL", "ERROR", "ABORTED", "PROVISIONED"}
