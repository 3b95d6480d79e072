"""The page: one HTML file that holds everything. Every value is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from station.config.report import Report as Settings
from station.yields.draw import FONT, pictures
from station.yields.findings import Undelivered, findings, side, verdict
from station.yields.report import Figures
from station.yields.words import Words

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_ROWS: Final = 25
_OUTCOMES: Final = ("PASS", "FAIL", "ERROR", "ABORTED", "PROVISIONED")


def load() -> None:
    """Load what makes the page: half a second that the database can use to count."""
    _environment()
    from matplotlib.backends import backend_svg  # noqa: F401, PLC0415 - as above


def html(figures: Figures, settings: Settings, words: Words, undelivered: Sequence[Undelivered] = ()) -> str:
    """The page as text. The same figures give the same text."""
    from markupsafe import Markup  # noqa: PLC0415 - slow to load

    drawn = {name: Markup(svg) for name, svg in pictures(figures, words).items()}  # noqa: S704 - our own SVG, escaped by matplotlib
    return (
        _environment()
        .get_template("page.html")
        .render(
            f=figures,
            w=words,
            t=words.say,
            pictures=drawn,
            verdict=verdict(figures, words),
            findings=findings(figures, words, undelivered),
            side=side,
            settings=settings,
            most=MOST_ROWS,
            apart=_apart(figures, words),
            font=FONT,
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - slow to load

    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(autoescape=True, undefined=StrictUndefined, loader=loader, trim_blocks=True, lstrip_blocks=True)


def _apart(figures: Figures, words: Words) -> list[tuple[str, int, str]]:
    """What ended in the window, by whether it counts; the runs of all rows but the second add up to all."""
    runs = figures.runs
    counted = runs.outcomes.get("PASS", 0) + runs.outcomes.get("FAIL", 0)
    rework = {"first": words.number(figures.rework.passed_first), "units": words.number(figures.rework.units)}
    rows: list[tuple[str, int, dict[str, str]]] = [("counted", counted, {}), ("unnamed", runs.unnamed_fails, {})]
    rows += [(name, runs.outcomes.get(name.upper(), 0), {}) for name in ("error", "aborted", "provisioned")]
    rows += [
        ("rework", sum(runs.rework.values()), rework),
        ("golden", sum(runs.golden.values()), {}),
        ("simulated", runs.simulated, {}),
    ]
    return [(words.say(f"apart_{name}"), count, words.say(f"apart_{name}_why", **said)) for name, count, said in rows]
