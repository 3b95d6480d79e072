"""Whether the working tables are what the record says; they are no rows of the chain, so each is computed anew.

`live_feed` may lag behind the record, for a station that is off tells nothing. So each of its rows must be of a moment
that the record had, and its line must say the same. What the record cannot know is whether that line lies on the shelf
(``sent``), and who sealed it: a reader of the feed verifies the seal.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from station.model import Outcome

_KEEPS: Final = [outcome.value for outcome in Outcome if outcome.made]  # they leave the certificate in service
_MADE: Final = ", ".join(f"'{outcome}'" for outcome in _KEEPS)
# What lives, by the record: the newest certificate of each serial, unless a run that used it ended otherwise than
# well, or something else put it in the outbox.
_LIVE: Final = f"""
SELECT serial, key_id, number FROM certificates AS c
WHERE NOT EXISTS (SELECT 1 FROM certificates AS n WHERE n.serial = c.serial AND n.rowid > c.rowid)
AND NOT EXISTS (SELECT 1 FROM uses JOIN closures USING (run) WHERE uses.number = c.number AND outcome NOT IN ({_MADE}))
AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.number = c.number)
"""  # noqa: S608 - our own names
_LOCKED: Final = """
SELECT run, serial, chip_id FROM admissions JOIN identified USING (run)
WHERE NOT EXISTS (SELECT 1 FROM closures WHERE closures.run = admissions.run)
"""
# Each state that the feed can have told, by what must then be on record. It permits a run that VERIFY let through.
_ENDED: Final = "EXISTS (SELECT 1 FROM uses JOIN closures USING (run) WHERE uses.number = f.number AND outcome {})"
_VERIFIED: Final = """
EXISTS (SELECT 1 FROM uses JOIN steps USING (run) WHERE uses.number = f.number AND step = 'verify' AND fault IS NULL)
"""
_TOLD: Final = f"""
SELECT f.number, f.state, f.seq, f.line, issued.certificate_id, CASE f.state
    WHEN 'connecting' THEN {_VERIFIED}
    WHEN 'provisioned' THEN {_ENDED.format("= 'PROVISIONED'")}
    WHEN 'passed' THEN {_ENDED.format("= 'PASS'")}
    WHEN 'working' THEN {_VERIFIED} OR {_ENDED.format("= 'PROVISIONED'")}
    WHEN 'out' THEN {_ENDED.format(f"NOT IN ({_MADE})")} OR EXISTS (SELECT 1 FROM outbox WHERE number = f.number)
    ELSE 0 END
FROM live_feed AS f LEFT JOIN issued ON issued.number = f.number ORDER BY f.seq
"""  # noqa: S608 - our own names


def differing(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """What is wrong and in which row, of a ledger's file as `station.ledger.verify.opened` opens it.

    A ledger of an older schema may have no `live_feed` yet.
    """
    for table, columns, query in (
        ("live_certificates", "serial, key_id, number", _LIVE),
        ("live_runs", "run, serial, chip_id", _LOCKED),
    ):
        right = {tuple(row) for row in connection.execute(query)}
        found = {tuple(row) for row in connection.execute(f"SELECT {columns} FROM {table}")}  # noqa: S608 - our own names
        for row in sorted(right ^ found, key=str):
            yield "is missing" if row in right else "does not follow from the record", f"{table} {row[0]}"
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'live_feed'").fetchone():
        yield from _told(connection)


def _told(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    for number, state, seq, line, certificate, follows in connection.execute(_TOLD):
        if not follows:
            yield "does not follow from the record", f"live_feed {number}"
        elif _said(line) != (state, seq, certificate):
            yield "has a line that says something else", f"live_feed {number}"


def _said(line: Any) -> tuple[Any, ...] | None:
    """State, number and certificate as the line's body has them; None where it is no line (`station.feed.lines`)."""
    try:
        body = json.loads(json.loads(line)["body"])
        return body["state"], body["seq"], body["certificate"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
