"""Exports and archives: the whole record, link by link, as JSON Lines that anybody can verify without the station.

The first line says what it is, each further one is a link with the very text that was hashed, the last says where it
ends. An archive is an export of the links since the archive before, gzipped and closed by the day's signed head.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

from station import disk
from station.faults import Fault, FaultError
from station.ledger import chain, verify
from station.ledger.anchors import Anchor, parse

FORMAT: Final = "station ledger export 1"
_MAX_LINE: Final = 64 * 1024 * 1024
_ARCHIVE: Final = re.compile(r"\d{4}-\d\d-\d\d\.jsonl\.gz")


@dataclass(frozen=True, slots=True)
class Written:
    """What an export holds."""

    path: Path
    first: int
    last: int


def export(
    ledger: Path,
    target: Path,
    *,
    first: int = 1,
    head: Anchor | None = None,
    progress: verify.Progress = lambda _done, _of: None,
) -> Written:
    """Write the links from ``first`` (to the head's, where there is one) to a new file; ``.gz`` is compressed.

    The file is complete or not there: it gets its name last.

    Raises:
        FaultError: `Fault.LEDGER_DOWN` where the ledger cannot be read or the file not be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        with closing(verify.opened(ledger)) as connection, _new_file(partial) as out:
            connection.execute("BEGIN")
            last = _write(connection, out, first, head, progress)
        disk.sync(partial)
        partial.chmod(0o440)
        partial.rename(target)
        disk.sync(target.parent)
    except (OSError, sqlite3.Error, ValueError, TypeError) as error:
        partial.unlink(missing_ok=True)
        raise FaultError(Fault.LEDGER_DOWN, f"{target} cannot be written from {ledger}: {error}") from error
    return Written(target, first, last)


def _write(
    connection: sqlite3.Connection, out: IO[str], first: int, head: Anchor | None, progress: verify.Progress
) -> int:
    until = head.seq if head else connection.execute("SELECT max(seq) FROM chain").fetchone()[0] or 0
    before = connection.execute("SELECT hash FROM chain WHERE seq = ?", (first - 1,)).fetchone()
    tip = bytes(before["hash"]) if before else chain.START
    station = connection.execute("SELECT station FROM runs ORDER BY rowid DESC LIMIT 1").fetchone()
    out.write(
        chain.canonical(
            {"format": FORMAT, "station": station["station"] if station else "", "first": first, "before": tip.hex()}
        )
        + "\n"
    )
    last = first - 1
    for link, rows in verify.links(connection, until):
        if link.seq >= first:
            said = chain.body(link.seq, link.at, rows)
            out.write(chain.canonical({"link": said, "hash": link.hash.hex()}) + "\n")
            last, tip = link.seq, link.hash
        if link.seq % 1000 == 0:
            progress(link.seq, until)
    progress(until, until)
    out.write(chain.canonical({"end": last, "hash": tip.hex(), "head": head.text if head else None}) + "\n")
    return last


def archive(ledger: Path, folder: Path, head: Anchor) -> Written | None:
    """Close the days up to ``head`` into an archive of their own, which begins where the last one ended.

    Nothing leaves the ledger: admission needs every unit that ever passed. None where the day is archived already.

    Raises:
        FaultError: `Fault.LEDGER_DOWN` where it cannot be written; `Fault.LEDGER_CHANGED` where the last archive is
            not as it was written.
    """
    target = folder / f"{head.day}.jsonl.gz"
    if target.exists():
        return None
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        older = sorted(path for path in folder.iterdir() if _ARCHIVE.fullmatch(path.name) and path.name < target.name)
    except OSError as error:
        raise FaultError(Fault.LEDGER_DOWN, f"the archive folder {folder} cannot be used: {error.strerror}") from error
    first = 1
    if older:
        verdict = verify_export(older[-1])
        if verdict.findings:
            raise FaultError(Fault.LEDGER_CHANGED, f"{older[-1]}: {verdict.findings[0].what}")
        if _hash_of(ledger, verdict.links) != verdict.hash:
            raise FaultError(
                Fault.LEDGER_CHANGED, f"{ledger} has another link {verdict.links} than {older[-1]}, or none"
            )
        first = verdict.links + 1
    return export(ledger, target, first=first, head=head)


def _hash_of(ledger: Path, seq: int) -> str:
    try:
        with closing(verify.opened(ledger)) as connection:
            found = connection.execute("SELECT hash FROM chain WHERE seq = ?", (seq,)).fetchone()
    except sqlite3.Error as error:
        raise FaultError(Fault.LEDGER_DOWN, f"{ledger} cannot be read: {error}") from error
    return bytes(found["hash"]).hex() if found else ""


def set_aside(ledger: Path, folder: Path, name: str) -> None:
    """Move archives that are not of this ledger's past into a folder ``name`` within: they stay evidence.

    The ledger goes on from the newest that is.

    Raises:
        FaultError: `Fault.LEDGER_DOWN` where one cannot be read or moved.
    """
    try:
        files = sorted(path for path in folder.iterdir() if _ARCHIVE.fullmatch(path.name)) if folder.exists() else []
        for path in reversed(files):
            verdict = verify_export(path)
            if not verdict.findings and _hash_of(ledger, verdict.links) == verdict.hash:
                return
            aside = folder / name
            aside.mkdir(mode=0o750, exist_ok=True)
            path.rename(aside / path.name)
            disk.sync(aside)
            disk.sync(folder)
    except OSError as error:
        raise FaultError(Fault.LEDGER_DOWN, f"{folder}: archives cannot be put aside: {error.strerror}") from error


def verify_archives(
    folder: Path, anchors: Iterable[Anchor] = (), progress: verify.Progress = lambda _done, _of: None
) -> verify.Verdict:
    """Verify every archive of a folder, and that each begins where the one before ended: the whole record to the last.

    Args:
        folder: of archives, as the station names them.
        anchors: what left the machine earlier.
        progress: is told archives done, and in all.

    Raises:
        FaultError: `Fault.LEDGER_DOWN` where there is none, or one cannot be read. What is wrong is a finding.
    """
    try:
        files = sorted(path for path in folder.iterdir() if _ARCHIVE.fullmatch(path.name))
    except OSError as error:
        raise FaultError(Fault.LEDGER_DOWN, f"{folder} cannot be read: {error.strerror}") from error
    if not files:
        raise FaultError(Fault.LEDGER_DOWN, f"no archive is in {folder}; they are called as 2026-11-24.jsonl.gz")
    held = list(anchors)
    whole = verify.Verdict()
    for done, path in enumerate(files, 1):
        whole.follow(_verified(path, held, lambda _done, _of: None, last=path == files[-1]), path.name)
        progress(done, len(files))
    return whole


def verify_export(
    path: Path, anchors: Iterable[Anchor] = (), progress: verify.Progress = lambda _done, _of: None
) -> verify.Verdict:
    """Verify an export or archive by itself: every byte of it counts. An archive may end before the newest anchor.

    Args:
        path: the file; ``.gz`` is unpacked.
        anchors: what left the machine earlier.
        progress: is told bytes of the file done, and in all.

    Raises:
        FaultError: `Fault.LEDGER_DOWN` where it cannot be read. What is wrong inside is a finding.
    """
    return _verified(path, anchors, progress, last=False)


def _verified(path: Path, anchors: Iterable[Anchor], progress: verify.Progress, *, last: bool) -> verify.Verdict:
    verdict = verify.Verdict()
    try:
        with path.open("rb") as file, _unpacked(path, file) as lines:
            whole = os.fstat(file.fileno()).st_size
            _check(lines, verdict, anchors, lambda: progress(file.tell(), whole), last=last)
            progress(whole, whole)
    except OSError as error:
        # gzip raises a plain OSError for a bad checksum; a file that cannot be opened has a number.
        if error.errno is not None:
            raise FaultError(Fault.LEDGER_DOWN, f"{path} cannot be read: {error.strerror}") from error
        verdict.found(f"the file is damaged: {error}", path.name)
    except (EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        verdict.found(f"the file is damaged: {error}", path.name)
    return verdict


def _check(
    lines: IO[str], verdict: verify.Verdict, anchors: Iterable[Anchor], tell: Callable[[], None], *, last: bool
) -> None:
    header = _line(lines)
    if header.get("format") != FORMAT:
        raise ValueError(f"it does not begin with {FORMAT!r}")
    verdict.station, verdict.first, verdict.before = str(header["station"]), int(header["first"]), header["before"]
    verdict.links = verdict.first - 1
    checker = verify.Checker(verdict, anchors, bytes.fromhex(verdict.before))
    of = verdict.station
    while "end" not in (said := _line(lines)):
        link = said["link"]
        rows = [(name, row) for name, row in link["rows"]]
        verdict.runs += sum(name == "closures" for name, _ in rows)
        of = next((row.get("station") for name, row in reversed(rows) if name == "runs"), of)
        checker.take(link["seq"], link["at"], bytes.fromhex(said["hash"]), rows)
        if link["seq"] % 1000 == 0:
            tell()
    if said["end"] != verdict.links:
        verdict.found(f"ends at link {verdict.links}, but says {said['end']}", "end")
    if said["hash"] != (verdict.hash or header["before"]):
        verdict.found("ends with another hash than its last link's", "end")
    if lines.read(1):
        verdict.found("goes on after its end", "end")
    if of != verdict.station:
        verdict.found(f"says it is of station {verdict.station}, its last run is of {of}", "header")
    if said["head"]:
        own = parse(said["head"], "the archive's own head")
        checker.hold_last(own)
        verdict.heads += own
    checker.end(whole=last or not said["head"])


def _line(lines: IO[str]) -> dict[str, Any]:
    text = lines.readline(_MAX_LINE)
    if not text.endswith("\n"):
        raise ValueError("it ends in the middle")
    said: dict[str, Any] = json.loads(text)
    # Only the one form: not even a space may differ.
    if chain.canonical(said) + "\n" != text:
        raise ValueError(f"a line is not in its one form: {text[:60]!r}")
    return said


def _new_file(path: Path) -> IO[str]:
    """A text file to write, gzipped where its name says so."""
    if path.name.endswith(".gz.partial"):
        return gzip.open(path, "wt", encoding="ascii", newline="\n")
    return path.open("w", encoding="ascii", newline="\n")


def _unpacked(path: Path, file: BinaryIO) -> IO[str]:
    """The text of an open file, gunzipped where its name says so."""
    if path.name.endswith(".gz"):
        return gzip.open(file, "rt", encoding="ascii", newline="\n")
    return io.TextIOWrapper(file, encoding="ascii", newline="\n")
