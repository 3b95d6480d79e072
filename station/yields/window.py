"""The time that a report is about: whole days by the factory's wall clock, as moments in UTC.

A day begins at ``day_starts`` and is called by the date on which it does. Both ends are made from the wall clock, each
by itself, so that a day in which the clocks change has its 23 or 25 hours, and days meet without a gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from station.config.report import Report, Shift
from station.faults import Fault, FaultError

_HOUR = timedelta(hours=1)
_MAX_DAYS = 400


@dataclass(frozen=True, slots=True)
class Span:
    """From one moment up to, and without, another; both aware, in UTC."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """How long it is; nothing where the end is not after the start."""
        return max(0.0, (self.end - self.start).total_seconds())

    def within(self, other: Span) -> Span:
        """The part of this that lies in another; of no length where there is none."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.end, other.end)))


@dataclass(frozen=True, slots=True)
class Window:
    """The days ``first`` to ``last``, both included."""

    first: date
    last: date
    zone: ZoneInfo
    day_starts: time

    @property
    def span(self) -> Span:
        """From the first day's start to the last day's end."""
        return Span(self._starts(self.first), self._starts(self.last + timedelta(days=1)))

    @property
    def days(self) -> list[date]:
        """Every day, by its date."""
        return [self.first + timedelta(days=index) for index in range((self.last - self.first).days + 1)]

    def day(self, day: date) -> Span:
        """One day's moments."""
        return Span(self._starts(day), self._starts(day + timedelta(days=1)))

    def before(self, count: int) -> Window:
        """The ``count`` days that end with this window's last."""
        return Window(self.last - timedelta(days=count - 1), self.last, self.zone, self.day_starts)

    def hours(self) -> list[Span]:
        """Hours that begin with the window; by duration, so that a day of 25 has 25."""
        span = self.span
        count = -int(-span.seconds // 3600)
        return [Span(span.start + _HOUR * i, span.start + _HOUR * (i + 1)).within(span) for i in range(count)]

    def shift(self, shift: Shift) -> list[Span]:
        """The hours of one shift that lie in the window; it may have begun on the day before."""
        starts, ends = time.fromisoformat(shift.starts), time.fromisoformat(shift.ends)
        over = timedelta(days=1 if ends <= starts else 0)
        days = (self.first + timedelta(days=index) for index in range(-1, (self.last - self.first).days + 2))
        found = (Span(self._at(day, starts), self._at(day + over, ends)).within(self.span) for day in days)
        return [span for span in found if span.seconds > 0]

    def local(self, moment: datetime) -> datetime:
        """A moment by the factory's wall clock."""
        return moment.astimezone(self.zone)

    def _starts(self, day: date) -> datetime:
        return self._at(day, self.day_starts)

    def _at(self, day: date, clock: time) -> datetime:
        # A wall time that does not exist (clocks forward) is read by the offset before it, one that comes twice (clocks
        # back) as its first: zoneinfo's fold=0. Ends and starts are read alike, so nothing falls between.
        return datetime.combine(day, clock, tzinfo=self.zone).astimezone(UTC)


def window(
    settings: Report, now: datetime, *, day: date | None = None, first: date | None = None, last: date | None = None
) -> Window:
    """The window that was asked for: one day, from-to, or else the last day that is over.

    Raises:
        FaultError: `Fault.REPORT_WINDOW` where the days are in the wrong order, or more than 400.
    """
    starts = time.fromisoformat(settings.day_starts)
    today = now.astimezone(settings.zone).date()
    # By the moment, not by the clock: in the night of a change it shows some times twice, and some never.
    if now < Window(today, today, settings.zone, starts).span.start:
        today -= timedelta(days=1)
    if first is not None or last is not None:
        found = (first or last or today, last or today)
    else:
        found = (day or today - timedelta(days=1),) * 2
    if not date(2000, 1, 1) <= found[0] <= found[1] <= date(2200, 1, 1):
        raise FaultError(Fault.REPORT_WINDOW, f"from {found[0]} to {found[1]} is no span of days")
    if (found[1] - found[0]).days >= _MAX_DAYS:
        raise FaultError(Fault.REPORT_WINDOW, f"from {found[0]} to {found[1]} is more than {_MAX_DAYS} days")
    return Window(*found, settings.zone, starts)


def joined(spans: list[Span]) -> list[Span]:
    """The same time in as few spans as it takes, in order."""
    whole: list[Span] = []
    for span in sorted((one for one in spans if one.seconds > 0), key=lambda one: one.start):
        if whole and span.start <= whole[-1].end:
            whole[-1] = Span(whole[-1].start, max(whole[-1].end, span.end))
        else:
            whole.append(span)
    return whole


def common(left: list[Span], right: list[Span]) -> list[Span]:
    """The time that is in both; each list is in order and without overlaps."""
    return [part for part in _crossings(left, right) if part.seconds > 0]


def _crossings(left: list[Span], right: list[Span]) -> Iterator[Span]:
    i = j = 0
    while i < len(left) and j < len(right):
        yield left[i].within(right[j])
        if left[i].end <= right[j].end:
            i += 1
        else:
            j += 1


def without(spans: list[Span], taken: list[Span]) -> list[Span]:
    """The time of the first that is not in the second; each list is in order and without overlaps."""
    left: list[Span] = []
    for span in spans:
        start = span.start
        for hole in taken:
            if hole.end <= start or hole.start >= span.end:
                continue
            left.append(Span(start, hole.start))
            start = max(start, hole.end)
        left.append(Span(start, span.end))
    return [one for one in left if one.seconds > 0]


def seconds(spans: list[Span]) -> float:
    """How long they are together."""
    return sum(span.seconds for span in spans)
