"""Whether a ledger is as the station wrote it, by the ledger alone or against what left the machine (anchors).

Three things are looked at: SQLite's own structure (a damaged page), the schema (a guard that was taken away), and the
chain, whose every link is computed anew from the rows that it covers. The working tables are held against the record
too (`station.ledger.working`). A byte that may differ without any of this being said is in no row of the record: free
space of a page, a counter in the file's header, a seal's signature in the feed. A backup's digest finds that as well.

What comes after the last anchor cannot be proved: who holds the machine, and nobody else, can make it anew. It says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from station.faults import Fault, FaultError, printable
from station.ledger import chain, digest, schema, working
from station.ledger.anchors import Anchor
from station.ledger.store import HEAD, migrate

_MOST: Final = 100  # findings; a ledger with more of them is none
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was written; ``link`` is None where it is of no link."""

    what: str
    where: str
    link: int | None = None


@dataclass(slots=True)
class Verdict:
    """What `ledger_file` or `station.ledger.export.verify_export` found; whole where there is no finding.

    ``first`` is its first link's number, ``before`` the hash before that, ``links`` its last link's number. ``heads``
    are those of days in the file itself; ``sealed`` of them `sealed_by` has found signed.
    """

    station: str = ""
    first: int = 1
    before: str = chain.START.hex()
    links: int = 0
    runs: int = 0
    hash: str = ""
    at: str = ""
    anchor: Anchor | None = None
    heads: list[Anchor] = field(default_factory=list)
    sealed: int = 0
    schema: str = field(default="", compare=False)  # of a ledger's file; an export has none
    findings: list[Finding] = field(default_factory=list)

    @property
    def unproved(self) -> int:
        """Links after the newest anchor that fits: nothing outside of the machine vouches for them."""
        return self.links - (self.anchor.seq if self.anchor else 0)

    def found(self, what: str, where: str, link: int | None = None) -> None:
        """Note a finding, up to a bound."""
        if len(self.findings) < _MOST:
            self.findings.append(Finding(printable(what, 300), printable(where, 200), link))

    def follow(self, later: Verdict, name: str) -> None:
        """Take the part of the record that should come next; ``name`` is its file's."""
        if (later.first, later.before) != (self.links + 1, self.hash or chain.START.hex()):
            what = f"begins at link {later.first}, and does not follow on link {self.links} of the one before"
            self.found(f"{what}: one is missing, or is not the station's", name)
        for one in later.findings:
            self.found(one.what, f"{name}: {one.where}", one.link)
        self.station, self.links, self.hash, self.at = later.station, later.links, later.hash, later.at
        self.runs += later.runs
        self.heads += later.heads
        self.anchor = later.anchor or self.anchor


class Checker:
    """Takes links in order and holds each against the one before and against anchors."""

    def __init__(self, verdict: Verdict, anchors: Iterable[Anchor], before: bytes = chain.START) -> None:
        self._verdict, self._tip = verdict, before
        self._anchors = sorted(anchors, key=lambda anchor: anchor.seq)

    def take(self, seq: int, at: str, stored: bytes, rows: list[chain.Row]) -> None:
        """The next link, with the rows that are there for it now."""
        expected = self._verdict.links + 1
        if seq != expected:
            self._verdict.found(f"link {expected} is missing; link {seq} follows", "chain", expected)
        computed = chain.link_hash(self._tip, chain.body(seq, at, rows))
        if computed != stored:
            names = ", ".join(dict.fromkeys(row_name(*row) for row in rows)) or "no row"
            self._verdict.found(f"was changed after it was written on {at}", names, seq)
        # What is stored leads on, so that one edit is named once and not in every link behind it.
        self._tip = stored
        self._verdict.links, self._verdict.at, self._verdict.hash = seq, at, stored.hex()
        self._verdict.heads += _heads(rows)
        for anchor in self._anchors:
            if anchor.seq == seq:
                self._hold(anchor)

    def _hold(self, anchor: Anchor) -> None:
        if anchor.hash == self._tip.hex():
            self._verdict.anchor = anchor
        else:
            self._verdict.found(
                f"is not what was anchored on {anchor.day}: the chain up to it was made anew", anchor.source, anchor.seq
            )

    def hold_last(self, anchors: Iterable[Anchor]) -> None:
        """Hold the last link against the head that an archive carries of it."""
        for anchor in anchors:
            if (anchor.seq, anchor.hash) != (self._verdict.links, self._tip.hex()):
                self._verdict.found(f"is of link {anchor.seq}, not of the last one here", anchor.source, anchor.seq)

    def end(self, *, whole: bool = True) -> None:
        """After the last link: name every anchor that the chain, where it is the ``whole`` one, does not reach."""
        for anchor in self._anchors:
            if whole and anchor.seq > self._verdict.links:
                self._verdict.found(
                    f"the ledger ends at link {self._verdict.links}, but link {anchor.seq} was anchored on"
                    f" {anchor.day}: it was rolled back",
                    anchor.source,
                    anchor.seq,
                )
            if self._verdict.station and anchor.station != self._verdict.station:
                self._verdict.found(f"is of station {anchor.station}, not {self._verdict.station}", anchor.source)


def _heads(rows: Iterable[chain.Row]) -> Iterator[Anchor]:
    """The heads among a ledger's rows, or an export's, where bytes are marked hex (`chain.plain`)."""
    for name, row in rows:
        if name == "heads":
            plain = {key: bytes.fromhex(it["hex"]) if isinstance(it, dict) else it for key, it in row.items()}
            if isinstance(plain.get("hash"), bytes):  # else it is damaged, and named as changed
                yield Anchor.of({"seal": None, "signature": None, **plain}, f"heads {row['day']}")


def sealed_by(verdict: Verdict, own: str, check: Callable[[bytes, bytes], None]) -> None:
    """Hold each head that names the seal ``own`` against its signature; a wrong one is a finding.

    A head of another seal, or of none, is only not counted: the station may have had another then, or none.

    Args:
        verdict: of the file; its ``sealed`` is counted here.
        own: the seal's id.
        check: takes message and signature, and raises `FaultError` where the seal did not sign that.
    """
    for head in verdict.heads:
        if head.seal != own:
            continue
        try:
            check(head.message, head.signature or b"")
        except FaultError:
            verdict.found(f"does not carry the signature of seal {own[:16]}", head.source)
        else:
            verdict.sealed += 1


def row_name(table: str, row: dict[str, Any]) -> str:
    """A row by its table and primary key, as findings name it."""
    known = schema.metadata.tables.get(table)
    keys = [column.name for column in known.primary_key.columns] if known is not None else []
    return f"{table} " + "/".join(str(row.get(key, "?")) for key in keys)


def ledger_file(path: Path, anchors: Iterable[Anchor] = (), progress: Progress = lambda _done, _of: None) -> Verdict:
    """Verify a ledger's file; it may be the station's own while the line runs, or a copy on any machine.

    Args:
        path: the file. With a ``-wal`` file beside it that is read too, else the file is taken as it is.
        anchors: what left the machine earlier.
        progress: is told links done and links in all.

    Raises:
        FaultError: `Fault.LEDGER_DOWN` where there is no file that can be read. What is wrong inside is a finding.
    """
    if not path.is_file():
        raise FaultError(Fault.LEDGER_DOWN, f"there is no ledger {path}")
    verdict = Verdict()
    _bytes(path, verdict)
    try:
        with closing(opened(path)) as connection:
            connection.execute("BEGIN")
            _structure(connection, verdict)
            if _schema(connection, verdict):
                _links(connection, verdict, anchors, progress)
                for what, where in working.differing(connection):
                    verdict.found(what, where)
                _facts(connection, verdict)
    except (sqlite3.Error, ValueError, TypeError) as error:
        verdict.found(f"the file is damaged: {error}", path.name)
    return verdict


def _bytes(path: Path, verdict: Verdict) -> None:
    """A backup is as it was written, byte for byte; a ledger at work has no digest beside it."""
    try:
        if digest.differs(path):
            verdict.found(f"has another SHA-256 than {digest.beside(path).name} says", path.name)
    except OSError as error:
        raise FaultError(Fault.LEDGER_DOWN, f"{path} or its digest cannot be read: {error.strerror}") from error


def opened(path: Path) -> sqlite3.Connection:
    """A ledger's file to read, the station's own or a copy; rows come by name."""
    # A copy without its -wal must be readable in a folder that is not: immutable needs no file beside it.
    beside = path.with_name(path.name + "-wal").exists()
    name = str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(f"file:{name}?{'mode=ro' if beside else 'immutable=1'}", uri=True)
    connection.isolation_level = None
    # Damaged text is to be named, not to end the search.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    connection.row_factory = sqlite3.Row
    return connection


def _structure(connection: sqlite3.Connection, verdict: Verdict) -> None:
    for (said,) in connection.execute("PRAGMA integrity_check(20)").fetchall():
        if said != "ok":
            verdict.found(f"SQLite finds: {said}", "file")
    for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchmany(20):
        verdict.found(f"names a row of {parent} that is not there", f"{table} row {rowid}")


_SCHEMA: Final = "SELECT type || ' ' || name, tbl_name, sql FROM sqlite_master"


_CHAINED: Final = 3  # the first schema with a chain
_VERSIONS: Final = {f"{number:04}" for number in range(_CHAINED, int(HEAD) + 1)}


@cache
def _right_schema(version: str) -> dict[str, tuple[str, ...]]:
    """What the migrations up to ``version`` make of an empty file."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    try:
        with engine.begin() as connection:
            migrate(connection, version)
            return {name: tuple(more) for name, *more in connection.exec_driver_sql(_SCHEMA)}
    finally:
        engine.dispose()


def _schema(connection: sqlite3.Connection, verdict: Verdict) -> bool:
    """Compare with what the migrations make; return whether the chain can be read by it.

    An older ledger is verified as it is: a backup from before an update is the station's as any other.
    """
    found = {name: tuple(more) for name, *more in connection.execute(_SCHEMA)}
    version = HEAD
    if "table alembic_version" in found:
        said = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
        if len(said) != 1 or said[0] not in _VERSIONS:
            verdict.found(f"is of schema {said}; this software verifies {min(_VERSIONS)} to {HEAD}", "alembic_version")
            return False
        version = said[0]
    verdict.schema = version
    right = _right_schema(version)
    for name in sorted(right.keys() | found.keys()):
        if right.get(name) != found.get(name):
            how = "is missing" if name not in found else "was added" if name not in right else "was changed"
            verdict.found(f"{how}: the schema is not the station's", name)
    return all(name in found for name in right if name.startswith("table "))


class _Cursor:
    """The rows of one table in the order in which they were written."""

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self._table, self._mark = table, 0
        self._rows = connection.cursor()
        self._rows.execute(f"SELECT rowid AS rowid_, * FROM {table} ORDER BY rowid")  # noqa: S608 - our own names
        self._next: sqlite3.Row | None = self._rows.fetchone()

    def take(self, count: int, into: list[chain.Row]) -> list[int]:
        """Add the next ``count`` rows; return the rowids among them that are not there."""
        missing = []
        for _ in range(count):
            self._mark += 1
            if self._next is None or self._next["rowid_"] != self._mark:
                missing.append(self._mark)
                continue
            into.append(self._row(self._next))
            self._next = self._rows.fetchone()
        return missing

    def _row(self, row: sqlite3.Row) -> chain.Row:
        return self._table, {key: row[key] for key in row.keys() if key != "rowid_"}  # noqa: SIM118 - a Row iterates over values

    def left(self) -> Iterator[chain.Row]:
        """What no link has taken."""
        while self._next is not None:
            yield self._row(self._next)
            self._next = self._rows.fetchone()


def links(
    connection: sqlite3.Connection, until: int, verdict: Verdict | None = None
) -> Iterator[tuple[chain.Link, list[chain.Row]]]:
    """Each link up to ``until`` with the rows that are there for it now; findings go to ``verdict``.

    Raises:
        ValueError: where a link or a row is not what it was and there is no verdict to say so in.
    """
    said = verdict or Verdict()
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    cursors = {name: _Cursor(connection, name) for name in chain.record_tables() if name in there}
    query = "SELECT seq, at, rows, hash FROM chain WHERE seq <= ? ORDER BY seq"
    for stored in connection.execute(query, (until,)):
        link = chain.Link(*stored)
        rows: list[chain.Row] = []
        for name, count in _counts(link, cursors.keys(), said):
            for mark in cursors[name].take(count, rows):
                said.found(f"row {mark} is missing", name, link.seq)
        if verdict is None and said.findings:
            raise ValueError(f"{said.findings[0].where}: {said.findings[0].what}")
        yield link, rows
    if verdict is not None:
        for cursor in cursors.values():
            for row in cursor.left():
                verdict.found("is in no link: it was added by something else than the station", row_name(*row))


def _links(connection: sqlite3.Connection, verdict: Verdict, anchors: Iterable[Anchor], progress: Progress) -> None:
    station = connection.execute("SELECT station FROM runs ORDER BY rowid DESC LIMIT 1").fetchone()
    verdict.station = station["station"] if station else ""
    checker = Checker(verdict, anchors)
    every = connection.execute("SELECT max(seq) FROM chain").fetchone()[0] or 0
    for link, rows in links(connection, every, verdict):
        checker.take(link.seq, link.at, link.hash, rows)
        if link.seq % 1000 == 0:
            progress(link.seq, every)
    progress(every, every)
    checker.end()


def _counts(link: chain.Link, known: Container[str], verdict: Verdict) -> list[tuple[str, int]]:
    try:
        counts = link.counts()
    except (ValueError, AttributeError):
        counts = []
    if not counts or any(name not in known or not 0 < count <= 1_000_000 for name, count in counts):
        verdict.found(f"says nothing sensible about its rows: {link.rows}", "chain", link.seq)
        return []
    return counts


def _facts(connection: sqlite3.Connection, verdict: Verdict) -> None:
    verdict.runs = connection.execute("SELECT count(*) FROM closures").fetchone()[0]


def heads(path: Path) -> list[Anchor]:
    """The heads that a ledger holds of itself; proof of nothing by themselves, but signed where there is a seal.

    Raises:
        FaultError: `Fault.LEDGER_DOWN` where it cannot be read.
    """
    try:
        with closing(opened(path)) as connection:
            rows = connection.execute(str(sa.select(schema.heads).order_by(schema.heads.c.seq))).fetchall()
            return [Anchor.of(dict(row), "heads") for row in rows]
    except (sqlite3.Error, ValueError, TypeError, AttributeError) as error:
        raise FaultError(Fault.LEDGER_DOWN, f"{path}: the heads cannot be read: {error}") from error
