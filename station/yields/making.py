"""From the settings to a report that lies in its folder and is on its way: what `station report` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from station.config.report import Report as Settings
from station.faults import Fault, FaultError
from station.ledger.anchors import Anchor, last_heads
from station.ledger.standing import Read
from station.model import NAME
from station.yields import delivery, files
from station.yields.findings import Undelivered, findings, verdict
from station.yields.report import Figures, collect, snapshot
from station.yields.scope import Scope
from station.yields.window import window
from station.yields.words import Words


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for. With no day at all, the last day that is over."""

    day: date | None = None
    first: date | None = None
    last: date | None = None
    order: str | None = None
    station: str | None = None
    formats: tuple[str, ...] = ()
    deliver: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A report that is on disk."""

    folder: Path
    figures: Figures
    sentence: str


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes reports of one record. ``read`` gives a transaction that sees one state of it; ``diary``: the station's."""

    read: Read
    settings: Settings
    station: str
    software: str
    language: str
    folder: Path
    diary: Path | None = None

    def make(self, wanted: Wanted, now: datetime) -> Made:
        """Count, draw, write; and, where asked and the window is over, put on disk who is to have it.

        Raises:
            FaultError: `REPORT_WINDOW`, `REPORT_UNWRITTEN`, or the record's `LEDGER_DOWN`.
        """
        scope = self._scope(wanted, now)
        words = Words(self.language, self.settings.zone)
        waiting = delivery.undelivered(self.folder, self.settings)
        formats = wanted.formats or self.settings.formats
        with self.read() as raw, snapshot(raw) as connection:
            heads = last_heads(connection)
            who = {"station": self.station, "software": self.software}
            figures = collect(connection, scope, self.settings, **who, now=now, diary=self.diary)
            place = files.write(
                connection, scope, figures, self.settings, words, formats, self.folder, self._others(waiting, scope)
            )
        said = verdict(figures, words)
        if wanted.deliver and figures.over:
            delivery.enlist(place, self.settings, *self._letter(figures, words, heads))
        return Made(place, figures, said.text)

    def deliver(self, tell: Callable[[str], None]) -> None:
        """Send everything that waits.

        Raises:
            FaultError: `REPORT_UNDELIVERED` where something waits still; `REPORT_UNWRITTEN`.
        """
        left = delivery.deliver(self.folder, self.settings, tell)
        if left:
            first = left[0]
            more = f", and {len(left) - 1} more" if len(left) > 1 else ""
            raise FaultError(Fault.REPORT_UNDELIVERED, f"{first.report} to {first.where}: {first.why}{more}")

    def _scope(self, wanted: Wanted, now: datetime) -> Scope:
        for what, name in (("order", wanted.order), ("station", wanted.station)):
            if name is not None and not NAME.fullmatch(name):
                raise FaultError(Fault.REPORT_WINDOW, f"no {what} is called {name!r}")
        days = window(self.settings, now, day=wanted.day, first=wanted.first, last=wanted.last)
        return Scope(days, wanted.order, wanted.station)

    def _others(self, waiting: Sequence[Undelivered], scope: Scope) -> list[Undelivered]:
        """A report does not say of itself that it is not delivered yet."""
        return [one for one in waiting if one.report != files.name_of(scope)]

    def _letter(self, figures: Figures, words: Words, heads: Sequence[Anchor]) -> tuple[str, str]:
        """Subject and text: the verdict, what stands out, and the anchors, which leave the machine with it."""
        said = verdict(figures, words)
        days = words.days(figures.first, figures.last)
        subject = words.say("mail_subject", verdict=said.text.rstrip("."), station=figures.station, day=days)
        lines = [f"{said.text} {said.more}", "", *(f"- {one}" for one in findings(figures, words)), ""]
        lines += [words.say("mail_body", station=figures.station, day=days), ""]
        if heads:
            lines += [words.say("mail_anchors"), "", *(head.text for head in heads)]
        return subject, "\n".join(lines)
