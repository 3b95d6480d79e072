"""A report on disk: a folder a report, whole or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import sqlalchemy as sa

from station import disk
from station.config.report import Report as Settings
from station.faults import Fault, FaultError
from station.yields.findings import Undelivered
from station.yields.openhtf import records
from station.yields.page import html
from station.yields.printer import Printer
from station.yields.records import units, write_units
from station.yields.report import Figures
from station.yields.scope import Scope
from station.yields.words import Words

STATE = "delivery.json"  # what `station.yields.delivery` keeps beside the report


def name_of(scope: Scope) -> str:
    """The folder's and the files' name: days, and what else the report is confined to."""
    window = scope.window
    parts = [window.first.isoformat()]
    if window.last != window.first:
        parts.append(window.last.isoformat())
    parts += ["line"] if scope.line else []
    # Orders and stations are of an alphabet that is safe in a path (`station.model.NAME`).
    parts += [f"order-{scope.order}"] if scope.order else []
    parts += [f"station-{scope.station}"] if scope.station else []
    return "_".join(parts)


def write(  # noqa: PLR0917 - plain values, each by name
    connection: sa.Connection,
    scope: Scope,
    figures: Figures,
    settings: Settings,
    words: Words,
    formats: Sequence[str],
    folder: Path,
    undelivered: Sequence[Undelivered] = (),
    printer: Printer | None = None,
) -> Path:
    """Write the report into a folder of its own in ``folder``, replacing an older one of the same name; return it.

    ``printer`` makes the PDF, where there is to be one.

    Raises:
        FaultError: `Fault.REPORT_UNWRITTEN`; what was there before is there still.
    """
    name = name_of(scope)
    made = folder / f".{name}.making"
    try:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        stem = made / f"yield-{figures.station}-{name}"
        if printer or "html" in formats:
            page = html(figures, settings, words, undelivered)
            if "html" in formats:
                with _text(stem.with_name(f"{stem.name}.html")) as file:
                    file.write(page)
            if printer:
                printer.begin(page, stem.with_name(f"{stem.name}.pdf"))
        if {"csv", "json"} & set(formats):
            with ExitStack() as opened:
                table, document = (
                    opened.enter_context(_text(stem.with_name(f"{stem.name}.{form}"))) if form in formats else None
                    for form in ("csv", "json")
                )
                write_units(units(connection, scope), figures, table, document)
        if "openhtf" in formats:
            (made / "openhtf").mkdir()
            for file_name, record in records(connection, scope):
                (made / "openhtf" / file_name).write_text(json.dumps(record), encoding="utf-8")
        if printer:
            printer.end()
        return _put(made, folder / name)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise FaultError(Fault.REPORT_UNWRITTEN, f"{folder}: {error.strerror or error}") from error


def _text(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", newline="")


def _put(made: Path, place: Path) -> Path:
    """Everything to the disk, then into its place; what was delivered of an older one stays known."""
    with suppress(FileNotFoundError):
        shutil.copy2(place / STATE, made / STATE)
    for file in (made, *made.rglob("*")):
        disk.sync(file)
    old = made.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        place.rename(old)
    made.rename(place)
    disk.sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)
    return place
