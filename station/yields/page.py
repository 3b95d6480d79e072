"""The page: one HTML file that holds everything, and the PDF that is printed from it. Every value is escaped."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from station.config.report import Report as Settings
from station.faults import Fault, FaultError
from station.yields.draw import FONT, pictures
from station.yields.findings import Undelivered, findings, side, verdict
from station.yields.report import Figures
from station.yields.words import Words

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_ROWS: Final = 25
_OUTCOMES: Final = ("PASS", "FAIL", "ERROR", "ABORTED", "PROVISIONED")


def load(formats: Collection[str]) -> None:
    """Load what draws these formats: a second and a half that the database can use to count."""
    with suppress(OSError, ImportError):  # `pdf` says what is missing
        if {"html", "pdf"} & set(formats):
            _environment()
        if "pdf" in formats:
            import weasyprint  # noqa: F401, PLC0415 - as above


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


def pdf(page: str, file: Path) -> None:
    """Print the page to a PDF file; nothing is fetched from anywhere.

    Raises:
        FaultError: `Fault.REPORT_UNWRITTEN` where Pango is not installed.
    """
    # The same page gives the same bytes (https://reproducible-builds.org/specs/source-date-epoch/).
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    try:
        import weasyprint  # noqa: PLC0415 - slow to load
    except OSError as error:
        raise FaultError(
            Fault.REPORT_UNWRITTEN, f"the PDF needs Pango ({error}); apt-get install libpango-1.0-0 libpangoft2-1.0-0"
        ) from error
    weasyprint.HTML(string=page, url_fetcher=_refuse).write_pdf(file)


def _refuse(url: str, *_: Any, **__: Any) -> Any:
    raise ValueError(f"the page fetches nothing, and not {url[:80]}")


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
