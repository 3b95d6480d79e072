"""The station's own troubles, from its diary: the line stood, slots were out of service, the station was off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from station.config.report import Report as Settings
from station.diary import Told, Trouble, What, read
from station.yields.scope import Scope, natural
from station.yields.window import Span, common, joined, seconds

_MOST = 1000
_ORDER = [What.LINE, What.OFF, What.SLOT, What.LAMP, What.REFUSED]


@dataclass(frozen=True, slots=True)
class Downtime:
    """One kind of trouble at one place: how often, and how long within the window and within its shifts.

    ``seconds`` is None for what is a moment, ``planned_s`` also where the settings name no shift.
    """

    what: What
    place: str
    fault: str
    times: int
    seconds: float | None
    planned_s: float | None


@dataclass(frozen=True, slots=True)
class Troubles:
    """What the diary says of the window, by beginnings. ``since`` is its own beginning (None: there is none)."""

    since: datetime | None
    unreadable: int
    downtime: list[Downtime]
    events: list[Trouble]

    def stood(self, until: datetime) -> list[Span]:
        """When the whole line stood."""
        return joined([_span(one, until) for one in self.events if one.what is What.LINE])


def troubles(diary: Path, scope: Scope, settings: Settings, now: datetime) -> Troubles:
    """Read the diary for the window; of more than 1000 events the longest are told, and all are counted.

    One that cannot be read at all is told as one unreadable line: it must not keep the report from being made.
    """
    span = scope.window.span
    until = min(span.end, now)
    try:
        told = read(diary, span.start, span.end, now)
    except OSError:
        told = Told([], None, 1)
    planned = joined([part for shift in settings.shifts for part in scope.window.shift(shift)])
    kinds: dict[tuple[What, str, str], list[Trouble]] = defaultdict(list)
    for one in told.troubles:
        kinds[one.what, "" if one.what is What.REFUSED else one.place, one.fault].append(one)
    downtime = [_downtime(*kind, found, Span(span.start, until), planned) for kind, found in kinds.items()]
    downtime.sort(key=lambda one: (_ORDER.index(one.what), -(one.seconds or 0), -one.times, natural(one.place)))
    longest = sorted(told.troubles, key=lambda one: -_span(one, until).seconds)[:_MOST]
    events = sorted(longest, key=lambda one: (one.began, one.what, one.place))
    return Troubles(told.since, told.unreadable, downtime, events)


def _span(one: Trouble, until: datetime) -> Span:
    return Span(one.began, one.ended or until)


def _downtime(  # noqa: PLR0917 - what a row says, in its order
    what: What, place: str, fault: str, found: Sequence[Trouble], window: Span, planned: list[Span]
) -> Downtime:
    if what is What.REFUSED:
        return Downtime(what, place, fault, len(found), None, None)
    down = joined([_span(one, window.end).within(window) for one in found])
    worked = seconds(common(down, planned)) if planned else None
    return Downtime(what, place, fault, len(found), seconds(down), worked)
