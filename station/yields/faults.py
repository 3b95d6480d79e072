"""What went wrong: the Pareto of faults with examples, slot against slot, and boards that were lifted too early."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from station.faults import Fault
from station.ledger.schema import closures, retests, tally
from station.model import OrderKind, Outcome
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


def slots(connection: sa.Connection, scope: Scope) -> list[SlotYield]:
    """Each slot's first runs, and whether it fails more of them than the others do."""
    failed = tally.c.outcome == Outcome.FAIL.value
    first = first_runs(scope, OrderKind.PRODUCTION)
    place = (tally.c.station, tally.c.slot)
    query: Query = sa.select(*place, sa.func.count(), count_if(failed)).where(*first).group_by(*place)
    passed = retests.c.outcome == Outcome.PASS.value
    here = (retests.c.station == tally.c.station) & (retests.c.slot == tally.c.slot)
    # Of the few that failed by themselves: the index on faults finds them.
    after: Query = (
        sa.select(*place, count_if(retested(scope, passed, ~here)), count_if(retested(scope, passed, here)))
        .where(*first, failed, tally.c.fault.is_not(None))
        .group_by(*place)
    )
    then = {(station, slot): passes for station, slot, *passes in connection.execute(after)}
    rows: Any = [(*row, *then.get((row[0], row[1]), (0, 0))) for row in connection.execute(query)]
    found: list[tuple[str, str, int, int, int, int]] = sorted(rows, key=lambda row: (row[0], natural(row[1])))
    parts = [(row[2], row[3]) for row in found]
    judged = zip(found, _chances(parts), _worse(parts), strict=True)
    return [SlotYield(*row, chance, _suspect(chance, worse=more)) for row, chance, more in judged]


def lifts(connection: sa.Connection, scope: Scope) -> list[Lifts]:
    """Runs, lifted and swapped boards of each slot and of each operator, that nobody dodges a red lamp unseen."""
    lifted, swapped = (tally.c.fault == fault.code for fault in (Fault.LIFTED, Fault.SWAPPED))
    where = (tally.c.station + sa.literal("/") + tally.c.slot, tally.c.operator)
    work = scope.real(*_WORK)
    query: Query = sa.select(*where, sa.func.count(), count_if(lifted), count_if(swapped)).where(*work).group_by(*where)
    failed = next_counted(scope, OrderKind.PRODUCTION) == Outcome.FAIL.value
    after: Query = sa.select(*where, count_if(failed)).where(*work, lifted).group_by(*where)
    then = {(place, operator): count for place, operator, count in connection.execute(after)}
    rows = [(*row, then.get((row[0], row[1]), 0)) for row in connection.execute(query)]
    return [*_lifts("slot", [(row[0], *row[2:]) for row in rows]), *_lifts("operator", [row[1:] for row in rows])]


def _lifts(kind: str, parts_of: Iterable[Sequence[Any]]) -> list[Lifts]:
    by_name: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for name, *numbers in parts_of:
        by_name[name] = [sum(pair) for pair in zip(by_name[name], numbers, strict=True)]
    rows: Any = [(name, *by_name[name]) for name in sorted(by_name, key=natural)]
    found: list[tuple[str, int, int, int, int]] = rows
    parts = [(row[1], row[2]) for row in found]
    judged = zip(found, _chances(parts), _worse(parts), strict=True)
    return [Lifts(kind, *row, chance, _suspect(chance, worse=more)) for row, chance, more in judged]


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
