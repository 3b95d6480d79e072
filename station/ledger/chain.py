"""The hash chain over the record: each transaction that adds rows adds a link over them, or nothing of it is written.

A link's hash covers the hash before it, its number, its time and every row that is new since, in one canonical form
(`body`). So nobody can edit, drop, add or reorder a row without either breaking a hash or making anew every hash
after it; and the latter differs from the anchors that left the machine (`station.ledger.heads`).

Rows are told apart by SQLite's rowid, which counts up without a gap in a table that nothing is deleted from. What is
NULL is left out of the canonical form: a later migration may add a column that may be NULL without touching the past.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from station.ledger import schema

START: Final = bytes(32)
_ROWS_A_LINK: Final = 1000  # an order of 10,000 serials, or a migration, must not need one huge link

Row = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Link:
    """One link as it is stored: ``rows`` says how many rows of which table it covers."""

    seq: int
    at: str
    rows: str
    hash: bytes

    def counts(self) -> list[tuple[str, int]]:
        """Table and number of rows, in the order in which they were hashed.

        Raises:
            ValueError: where the text is not what `extend` writes.
        """
        pairs = [part.split(":") for part in self.rows.split(" ")]
        counts = {name: int(count) for name, count in pairs}
        if _counted(counts) != self.rows:  # the hash covers the rows, not the form in which they are counted
            raise ValueError(self.rows)
        return list(counts.items())


def record_tables() -> list[str]:
    """The tables of the record, by name; not the working tables, nor the chain itself."""
    return sorted(name for name in schema.metadata.tables if name != "chain" and not name.startswith("live_"))


def plain(value: Any) -> Any:
    """A value of SQLite as JSON holds it: bytes in hex and marked, so that they are no text."""
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def canonical(value: object) -> str:
    """JSON in the one form that is hashed and exported: ASCII, keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def body(seq: int, at: str, rows: Iterable[Row]) -> dict[str, Any]:
    """What a link says, as JSON holds it; the hash is over `canonical` of it."""
    return {
        "seq": seq,
        "at": at,
        "rows": [[name, {key: plain(value) for key, value in row.items() if value is not None}] for name, row in rows],
    }


def link_hash(before: bytes, said: Mapping[str, Any]) -> bytes:
    """SHA-256 over the hash before (32 bytes) and the canonical form of what the link says."""
    return hashlib.sha256(before + canonical(said).encode()).digest()


_MARKS: Final = "SELECT " + ", ".join(f"(SELECT max(rowid) FROM {name})" for name in record_tables())  # noqa: S608 - our own names


def marks(connection: sa.Connection) -> dict[str, int]:
    """The last rowid of each table of the record."""
    found = connection.exec_driver_sql(_MARKS).one()
    return {name: mark or 0 for name, mark in zip(record_tables(), found, strict=True)}


def marks_before_migration(connection: sa.Connection) -> dict[str, int]:
    """As `marks`, of an older schema; nothing counts as chained where there is no chain yet."""
    tables = set(sa.inspect(connection).get_table_names())
    if "chain" not in tables:
        return {}
    return {
        name: connection.exec_driver_sql(f"SELECT max(rowid) FROM {name}").scalar() or 0  # noqa: S608 - our own names
        for name in record_tables()
        if name in tables
    }


def extend(connection: sa.Connection, before: Mapping[str, int]) -> None:
    """Chain every row that is newer than ``before``, within the caller's transaction."""
    after = marks(connection)
    if all(before.get(name, 0) == mark for name, mark in after.items()):
        return
    last = connection.exec_driver_sql("SELECT seq, hash FROM chain ORDER BY seq DESC LIMIT 1").first()
    seq, tip = (last[0], last[1]) if last else (0, START)
    for rows in _portions(_new_rows(connection, before, after)):
        seq += 1
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        tip = link_hash(tip, body(seq, at, rows))
        counts: dict[str, int] = {}
        for name, _ in rows:
            counts[name] = counts.get(name, 0) + 1
        row = (seq, at, _counted(counts), tip)
        connection.exec_driver_sql("INSERT INTO chain (seq, at, rows, hash) VALUES (?, ?, ?, ?)", row)


def _counted(counts: Mapping[str, int]) -> str:
    return " ".join(f"{name}:{count}" for name, count in counts.items())


def _new_rows(connection: sa.Connection, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[Row]:
    for name, mark in after.items():
        if mark > before.get(name, 0):
            found = connection.exec_driver_sql(
                f"SELECT * FROM {name} WHERE rowid > ? ORDER BY rowid",  # noqa: S608 - our own names
                (before.get(name, 0),),
            )
            for row in found.mappings():
                yield name, dict(row)


def _portions(rows: Iterable[Row]) -> Iterator[list[Row]]:
    portion: list[Row] = []
    for row in rows:
        portion.append(row)
        if len(portion) == _ROWS_A_LINK:
            yield portion
            portion = []
    if portion:
        yield portion


def hash_of(connection: sa.Connection, seq: int) -> bytes | None:
    """A link's hash, by its number."""
    found = connection.exec_driver_sql("SELECT hash FROM chain WHERE seq = ?", (seq,)).first()
    return bytes(found[0]) if found else None


def tip(connection: sa.Connection) -> Link | None:
    """The last link; None where nothing is on record."""
    found = connection.exec_driver_sql("SELECT seq, at, rows, hash FROM chain ORDER BY seq DESC LIMIT 1").first()
    return Link(*found) if found else None
