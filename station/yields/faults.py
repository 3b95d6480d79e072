"""What went wrong: the Pareto of faults with examples, slot against slot, and boards that were lifted too early."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from station.faults import Fault
from station.ledger.schema import closures, retests, tally
from station.model import OrderKind, Outcome
from station.yields.cells import Cell
from station.yields.scope import Query, Scope, count_if, first_runs, natural, next_counted, retested
from station.yields.stats import fisher, holm

_EXAMPLES = 3
_EXPLAINED = 10
_SUSPECT = 0.01
_WORK = (OrderKind.PRODUCTION, OrderKind.REWORK)


@dataclass(frozen=True, slots=True)
class Example:
    """One run that ended so."""

    serial: str | None
    place: str
    at: datetime
    run: str
    detail: str


@dataclass(frozen=True, slots=True)
class FaultCount:
    """A fault, how often runs ended in it, and the newest of them."""

    code: str
    outcome: str
    runs: int
    units: int
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotYield:
    """One slot's first runs against all others': ``chance`` is the corrected p of the difference being luck.

    Of the units that failed here first, ``passed_elsewhere`` passed later in another slot, ``passed_here`` in this one:
    many of the first kind speak for a bad pogo pin, few of either for bad boards.
    """

    station: str
    slot: str
    units: int
    failed: int
    passed_elsewhere: int
    passed_here: int
    chance: float | None
    suspect: bool


@dataclass(frozen=True, slots=True)
class Lifts:
    """Boards taken out of a running slot, by slot or by operator; of these, how many failed when next counted."""

    kind: str
    name: str
    runs: int
    lifted: int
    swapped: int
    then_failed: int
    chance: float | None
    suspect: bool


def pareto(connection: sa.Connection, scope: Scope) -> list[FaultCount]:
    """Every fault that runs of production or rework ended in, most first; the first ten with examples."""
    query: Query = (
        sa.select(tally.c.fault, tally.c.outcome, sa.func.count(), sa.func.count(sa.distinct(tally.c.serial)))
        .where(*scope.real(*_WORK), tally.c.fault.is_not(None))
        .group_by(tally.c.fault, tally.c.outcome)
    )
    found = [FaultCount(*row) for row in connection.execute(query)]
    found.sort(key=lambda one: (-one.runs, one.code, one.outcome))
    shown = [replace(one, examples=_examples(connection, scope, one)) for one in found[:_EXPLAINED]]
    return shown + found[_EXPLAINED:]


def _examples(connection: sa.Connection, scope: Scope, fault: FaultCount) -> tuple[Example, ...]:
    place = tally.c.station + sa.literal("/") + tally.c.slot
    query: Query = (
        sa.select(tally.c.serial, place, tally.c.at, tally.c.run, closures.c.detail)
        .join(closures, closures.c.run == tally.c.run)
        .where(*scope.real(*_WORK), tally.c.fault == fault.code, tally.c.outcome == fault.outcome)
        .order_by(tally.c.at.desc(), tally.c.run)
        .limit(_EXAMPLES)
    )
    return tuple(Example(*row) for row in connection.execute(query))


def slots(connection: sa.Connection, scope: Scope, read: Iterable[Cell]) -> list[SlotYield]:
    """Each slot's first runs, and whether it fails more of them than the others do."""
    units, failed = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for cell in read:
        if cell.kind == OrderKind.PRODUCTION.value and not cell.simulated and cell.units:
            units[cell.station, cell.slot] += cell.units
            failed[cell.station, cell.slot] += cell.units - cell.passed_first
    passed = _passed_later(connection, scope)
    places = sorted(units, key=lambda place: (place[0], natural(place[1])))
    parts = [(units[place], failed[place]) for place in places]
    judged = zip(places, parts, _chances(parts), _worse(parts), strict=True)
    return [
        SlotYield(*place, *part, *passed.get(place, (0, 0)), chance, _suspect(chance, worse=more))
        for place, part, chance, more in judged
    ]


def _passed_later(connection: sa.Connection, scope: Scope) -> dict[tuple[str, str], tuple[int, int]]:
    """Of the units that failed first in a slot, how many passed later elsewhere, and how many there."""
    place = (tally.c.station, tally.c.slot)
    passed = retests.c.outcome == Outcome.PASS.value
    here = (retests.c.station == tally.c.station) & (retests.c.slot == tally.c.slot)
    # A FAIL has its fault; by it the index finds these few.
    failed = (tally.c.outcome == Outcome.FAIL.value, tally.c.fault.is_not(None))
    query: Query = (
        sa.select(*place, count_if(retested(scope, passed, ~here)), count_if(retested(scope, passed, here)))
        .where(*first_runs(scope, OrderKind.PRODUCTION), *failed)
        .group_by(*place)
    )
    return {(station, slot): (away, there) for station, slot, away, there in connection.execute(query)}


def lifts(connection: sa.Connection, scope: Scope, read: Iterable[Cell]) -> list[Lifts]:
    """Runs, lifted and swapped boards of each slot and of each operator, that nobody dodges a red lamp unseen."""
    place = tally.c.station + sa.literal("/") + tally.c.slot
    failed = next_counted(scope, OrderKind.PRODUCTION) == Outcome.FAIL.value
    query: Query = (
        sa.select(place, tally.c.operator, count_if(failed))
        .where(*scope.real(*_WORK), tally.c.fault == Fault.LIFTED.code)
        .group_by(place, tally.c.operator)
    )
    found: dict[str, dict[str, list[int]]] = {kind: defaultdict(lambda: [0, 0, 0, 0]) for kind in ("slot", "operator")}
    for cell in read:
        if cell.work:
            numbers = (cell.runs, *(cell.runs * (cell.fault == fault.code) for fault in (Fault.LIFTED, Fault.SWAPPED)))
            for one in (found["slot"][cell.place], found["operator"][cell.operator]):
                one[:3] = [sum(pair) for pair in zip(one, numbers, strict=False)]
    for name, operator, count in connection.execute(query):
        found["slot"][name][3] += count
        found["operator"][operator][3] += count
    return [one for kind, by_name in found.items() for one in _lifts(kind, by_name)]


def _lifts(kind: str, by_name: Mapping[str, list[int]]) -> list[Lifts]:
    names = sorted(by_name, key=natural)
    parts = [(by_name[name][0], by_name[name][1]) for name in names]
    judged = zip(names, _chances(parts), _worse(parts), strict=True)
    made = []
    for name, chance, more in judged:
        runs, lifted, swapped, then_failed = by_name[name]
        made.append(Lifts(kind, name, runs, lifted, swapped, then_failed, chance, _suspect(chance, worse=more)))
    return made


def _suspect(chance: float | None, *, worse: bool) -> bool:
    return worse and chance is not None and chance < _SUSPECT


def _chances(parts: list[tuple[int, int]]) -> list[float | None]:
    """For each ``(all, bad)`` against the rest together: Fisher's p, corrected by Holm; None where there is no rest."""
    if len(parts) < 2:
        return [None] * len(parts)
    everything, bad = sum(count for count, _ in parts), sum(count for _, count in parts)
    plain = [fisher(wrong, count - wrong, bad - wrong, (everything - count) - (bad - wrong)) for count, wrong in parts]
    return list(holm(plain))


def _worse(parts: list[tuple[int, int]]) -> list[bool]:
    """Whether each has a larger share of bad than the rest together."""
    everything, bad = sum(count for count, _ in parts), sum(count for _, count in parts)
    return [wrong * (everything - count) > (bad - wrong) * count for count, wrong in parts]
