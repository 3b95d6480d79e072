"""The statistics: small, exact, and without a numerical library, which would cost a nightly job 60 MB to load.

Sources: R. A. Fisher 1935 (exact test, two-sided by the sum of all tables no likelier than the one seen, as R and SciPy
do); S. Holm 1979 (step-down); W. A. Shewhart 1931 (p-chart, three sigma; Western Electric's rule of eight on one side).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, sqrt
from typing import Final

_ALIKE: Final = 1e-7  # tables as likely as the one seen, but for rounding
_NOTHING: Final = 1e-17
_RUN_OF: Final = 8


def fisher(bad: int, good: int, bad_elsewhere: int, good_elsewhere: int) -> float:
    """The two-sided p of a table of two by two: how often chance alone parts the bad so unevenly, or more."""
    here, elsewhere, bads = bad + good, bad_elsewhere + good_elsewhere, bad + bad_elsewhere
    if not here or not elsewhere:
        return 1.0
    whole = _ways(here + elsewhere, bads)

    def chance(count: int) -> float:
        return _ways(here, count) + _ways(elsewhere, bads - count) - whole

    # The chances rise to the likeliest table and fall after it: those no likelier than the one seen are two tails, of
    # which only the beginnings weigh anything. A year's slot has 50,000 runs: too many tables to add one by one.
    lowest, highest = max(0, bads - elsewhere), min(here, bads)
    likeliest = (here + 1) * (bads + 1) // (here + elsewhere + 2)
    seen = chance(bad) + _ALIKE
    if chance(likeliest) <= seen:
        return 1.0
    left = lowest + bisect_right(range(lowest, likeliest), seen, key=chance) - 1
    right = likeliest + bisect_left(range(likeliest, highest + 1), -seen, key=lambda count: -chance(count))
    return min(1.0, _tail(map(chance, range(left, lowest - 1, -1))) + _tail(map(chance, range(right, highest + 1))))


def _tail(chances: Iterable[float]) -> float:
    """The sum of chances, given as logarithms and falling, as far as it is one."""
    whole = 0.0
    for one in map(exp, chances):
        whole += one
        if one <= whole * _NOTHING:
            break
    return whole


def _ways(of: int, count: int) -> float:
    """The logarithm of the number of ways to choose."""
    return lgamma(of + 1) - lgamma(count + 1) - lgamma(of - count + 1)


def holm(chances: Sequence[float]) -> list[float]:
    """Each p corrected for how many were looked at, so that eight slots do not find a bad one by luck."""
    ordered = sorted(range(len(chances)), key=chances.__getitem__)
    corrected, highest = [0.0] * len(chances), 0.0
    for rank, index in enumerate(ordered):
        highest = max(highest, min(1.0, chances[index] * (len(chances) - rank)))
        corrected[index] = highest
    return corrected


def percentile(counts: Mapping[int, int], share: float) -> int | None:
    """The nearest-rank percentile of values that are given with how often each came; None of nothing."""
    wanted, seen = share * sum(counts.values()), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return None


@dataclass(frozen=True, slots=True)
class Limits:
    """One day's control limits of a p-chart, and what rule its point breaks: "above", "below", "run" or none."""

    lower: float
    upper: float
    broken: str | None


def p_chart(days: Sequence[tuple[int, int]]) -> tuple[float, list[Limits]]:
    """The centre line, and the limits of each day of ``(units, units that failed)``; a day without units has none."""
    units = sum(count for count, _ in days)
    centre = sum(failed for _, failed in days) / units if units else 0.0
    sides = list(_runs(days, centre))
    return centre, [_limits(count, failed, centre, side) for (count, failed), side in zip(days, sides, strict=True)]


def _limits(count: int, failed: int, centre: float, run: int) -> Limits:
    if not count:
        return Limits(0.0, 1.0, None)
    width = 3 * sqrt(centre * (1 - centre) / count)
    lower, upper, share = max(0.0, centre - width), min(1.0, centre + width), failed / count
    broken = "above" if share > upper else "below" if share < lower else "run" if abs(run) >= _RUN_OF else None
    return Limits(lower, upper, broken)


def _runs(days: Sequence[tuple[int, int]], centre: float) -> Iterator[int]:
    """How many days, this one included, lie on one side of the centre in a row; below counts down."""
    run = 0
    for count, failed in days:
        if count:
            share = failed / count
            if share > centre:
                run = max(run, 0) + 1
            elif share < centre:
                run = min(run, 0) - 1
            else:
                run = 0
        yield run if count else 0


def wilson(count: int, of: int) -> tuple[float, float]:
    """The range in which a share truly lies, in 95 of 100 cases (E. B. Wilson 1927): right for few and for none too."""
    if not of:
        return 0.0, 1.0
    z, share = 1.96, count / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    width = z / (1 + z * z / of) * sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, middle - width), min(1.0, middle + width)
