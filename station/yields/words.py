"""Figures as people read them, in the station's language: decimal commas and days as Vietnam writes them, or points."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from station.config.messages import Messages, report_texts
from station.faults import Fault

_NONE = "\u2013"
_JOIN = "\u00a0"  # a number and its unit stay on one line
_SWAP = str.maketrans(",.", ".,")


@dataclass(frozen=True, slots=True)
class Words:
    """One language, and the clock on the wall."""

    language: str
    zone: ZoneInfo

    def say(self, key: str, **values: object) -> str:
        """A text of the report, with what stands in its braces."""
        return report_texts(self.language)[key].format(**values)

    def number(self, value: float, digits: int = 0) -> str:
        """1,204 or 1.204."""
        text = f"{value:,.{digits}f}"
        return text.translate(_SWAP) if self.language == "vi" else text

    def percent(self, share: float | None, digits: int = 1) -> str:
        """97.4 %; a dash for none. What is not quite all is never rounded up to it, nor what is not nothing down."""
        if share is None:
            return _NONE
        shown = round(share * 100, digits)
        if shown in {0, 100} and share not in {0, 1}:
            least = 10**-digits
            sign, shown = ("< ", least) if share < least / 100 else ("> ", 100 - least)
            return f"{sign}{self.number(shown, digits)}{_JOIN}%"
        return f"{self.number(shown, digits)}{_JOIN}%"

    def chance(self, value: float | None) -> str:
        """A p with as many digits as it bears."""
        if value is None:
            return _NONE
        if value < 0.0001:
            return self.say("p_tiny")
        return self.number(value, 4 if value < 0.01 else 2)

    def seconds(self, value: float | None) -> str:
        """A length of time: 0.82 s, 12.4 s, 5 min, 7.2 h."""
        if value is None:
            return _NONE
        if value < 100:
            return f"{self.number(value, 2 if value < 10 else 1)}{_JOIN}s"
        if value < 6000:
            return f"{self.number(value / 60, 0 if value >= 600 else 1)}{_JOIN}min"
        return f"{self.number(value / 3600, 1)}{_JOIN}h"

    def day(self, day: date) -> str:
        """A date, as the country writes it."""
        return day.strftime("%d/%m/%Y") if self.language == "vi" else day.isoformat()

    def short_day(self, day: date) -> str:
        """A date without its year, for a picture's axis."""
        return f"{day:%d/%m}" if self.language == "vi" else f"{day:%d %b}"

    def days(self, first: date, last: date) -> str:
        """One date, or from-to."""
        return self.day(first) if first == last else f"{self.day(first)} {_NONE} {self.day(last)}"

    def moment(self, moment: datetime) -> str:
        """A moment by the wall clock, to the minute."""
        return f"{self.day(moment.astimezone(self.zone).date())} {self.clock(moment)}"

    def clock(self, moment: datetime) -> str:
        """A moment of a day that is told elsewhere."""
        return f"{moment.astimezone(self.zone):%H:%M}"

    def outcome(self, name: str) -> str:
        """An outcome's word on the lamp's page."""
        return Messages.load(self.language).words.get(name, name)

    def step(self, name: str | None) -> str:
        """A step's word; the whole run's for none."""
        if name is None:
            return self.say("whole_run")
        return Messages.load(self.language).words.get(name, name)

    def fault(self, code: str | None) -> str:
        """A fault's title; nothing for a code that this software does not know."""
        try:
            return Messages.load(self.language).title(Fault(code))
        except (ValueError, KeyError):
            return ""
