"""From the settings to a report that lies in its folder and is on its way: what `station report` does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

from station.config.report import Report as Settings
from station.faults import Fault, FaultError
from station.ledger.anchors import Anchor, last_heads
from station.ledger.standing import Read
from station.model import NAME
from station.yields import delivery, files, page
from station.yields.findings import findings, verdict
from station.yields.printer import Printer
from station.yields.report import Figures, collect, snapshot
from station.yields.scope import Scope
from station.yields.window import window
from station.yields.words import Words

_CATCH_UP_DAYS: Final = 31


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
    """Makes reports of one record. ``read`` gives a transaction that sees one state of it; ``diary``: the station's.

    ``station`` is whose record it is: a station's name, or with ``line`` the line's.
    """

    read: Read
    settings: Settings
    station: str
    software: str
    language: str
    folder: Path
    diary: Path | None = None
    line: bool = False

    def due(self, wanted: Wanted, now: datetime) -> list[Wanted]:
        """What is to be made: what was asked for by its days, or else every day that is over and was not made yet.

        A station that was off for days makes their reports when it is on again, the oldest first; one that never made
        any begins with the last day. A day that is made and enlisted for its delivery is not made again, so that who
        has a part of it gets the rest of the same.
        """
        if not wanted.deliver or wanted.day or wanted.first or wanted.last:
            return [wanted]
        last = self._scope(wanted, now).window.last
        missing: list[Wanted] = []
        for back in range(_CATCH_UP_DAYS):
            one = replace(wanted, day=last - timedelta(days=back))
            if delivery.enlisted(self.folder / files.name_of(self._scope(one, now))):
                return missing[::-1]
            missing.append(one)
        return missing[:1]

    def make(self, wanted: Wanted, now: datetime) -> Made:
        """Count, draw, write; and, where asked and the window is over, put on disk who is to have it.

        Raises:
            FaultError: `REPORT_WINDOW`, `REPORT_UNWRITTEN`, or the record's `LEDGER_DOWN`; `REPORT_UNDELIVERED` where
                a report of the same name waits for its delivery: somebody may have a part of it.
        """
        scope = self._scope(wanted, now)
        words = Words(self.language, self.settings.zone)
        waiting = delivery.undelivered(self.folder, self.settings)
        if any(one.report == files.name_of(scope) for one in waiting):
            text = f"{files.name_of(scope)} is made, and waits for its delivery: station report deliver; or name --out"
            raise FaultError(Fault.REPORT_UNDELIVERED, text)
        formats = wanted.formats or self.settings.formats
        if {"html", "pdf"} & set(formats):
            threading.Thread(target=page.load, daemon=True).start()
        with ExitStack() as parts:
            printer = Printer() if "pdf" in formats else None
            if printer:
                parts.callback(printer.close)
            connection = parts.enter_context(snapshot(parts.enter_context(self.read())))
            heads = last_heads(connection)
            who = {"station": self.station, "software": self.software}
            figures = collect(connection, scope, self.settings, **who, now=now, diary=self.diary)
            place = files.write(
                connection, scope, figures, self.settings, words, formats, self.folder, waiting, printer
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
        return Scope(days, wanted.order, wanted.station, self.line)

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
