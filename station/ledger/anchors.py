"""Anchors: what leaves the machine so that nobody who holds it can make the past anew.

An anchor names one link by its number and hash. It is text that survives a mail, a printout and a form field.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa

from station.faults import Fault, FaultError
from station.ledger import chain, schema
from station.ledger.store import Store
from station.model import NAME

_FIRST: Final = "station ledger anchor 1"
_FORM: Final = re.compile(
    rf"^[> \t]*{_FIRST}\r?\n"
    r"[> \t]*station: (?P<station>[^\s]{1,64})\r?\n"
    r"[> \t]*day: (?P<day>\d{4}-\d\d-\d\d)\r?\n"
    r"[> \t]*link: (?P<seq>\d{1,18})\r?\n"
    r"[> \t]*hash: (?P<hash>[0-9a-f]{64})\r?\n"
    r"[> \t]*at: (?P<at>[0-9T:.+-]{20,40})"
    r"(?:\r?\n[> \t]*seal: (?P<seal>[0-9a-f]{64})\r?\n[> \t]*signature: (?P<signature>[A-Za-z0-9+/=]{16,1024}))?",
    re.MULTILINE,
)
_MAX_TEXT: Final = 4 * 1024 * 1024
_MAX_MAIL: Final = 64 * 1024 * 1024  # with the report's PDF in it


@dataclass(frozen=True, slots=True)
class Anchor:
    """One link, by number and hash (hex), as it was when ``day`` was over; ``source`` says where we have it from."""

    station: str
    day: str
    seq: int
    hash: str
    at: str
    seal: str | None = None
    signature: bytes | None = None
    source: str = "anchor"

    @classmethod
    def of(cls, row: Mapping[str, Any], source: str) -> Self:
        """From a row of ``heads``, as SQLite or as SQLAlchemy gives it."""
        at = row["at"].isoformat(timespec="microseconds") if isinstance(row["at"], datetime) else row["at"]
        return cls(
            row["station"], row["day"], row["seq"], bytes(row["hash"]).hex(), at, row["seal"], row["signature"], source
        )

    @property
    def message(self) -> bytes:
        """What the seal signs."""
        return (
            f"{_FIRST}\nstation: {self.station}\nday: {self.day}\nlink: {self.seq}\nhash: {self.hash}\nat: {self.at}\n"
        ).encode()

    @property
    def text(self) -> str:
        """What is mailed, stored and printed; `parse` reads it back."""
        if self.signature is None:
            return self.message.decode()
        return self.message.decode() + f"seal: {self.seal}\nsignature: {base64.b64encode(self.signature).decode()}\n"


def parse(text: str, source: str) -> list[Anchor]:
    """Every anchor in a text, which may be a whole mail, quoted or not.

    Raises:
        FaultError: `Fault.ANCHOR_INVALID` where there is none, or one that cannot be.
    """
    found = []
    for match in _FORM.finditer(text[:_MAX_TEXT]):
        if not NAME.fullmatch(match["station"]):
            raise FaultError(Fault.ANCHOR_INVALID, f"{source}: {match['station']!r} is no station's name")
        try:
            signature = base64.b64decode(match["signature"], validate=True) if match["signature"] else None
        except ValueError as error:
            raise FaultError(Fault.ANCHOR_INVALID, f"{source}: the signature is not base64: {error}") from error
        found.append(
            Anchor(
                match["station"],
                match["day"],
                int(match["seq"]),
                match["hash"],
                match["at"],
                match["seal"],
                signature,
                source,
            )
        )
    if not found:
        raise FaultError(Fault.ANCHOR_INVALID, f"{source}: there is no anchor in it; it begins with {_FIRST!r}")
    return found


def of_file(path: Path) -> list[Anchor]:
    """Every anchor in a file: plain text, or a mail as it was saved, where a part may be quoted-printable or base64.

    Raises:
        OSError: it cannot be read.
        FaultError: as `parse`.
    """
    with path.open("rb") as file:
        raw = file.read(_MAX_MAIL)
    text = raw.decode("utf-8", "replace")
    if _FORM.search(text):
        return parse(text, str(path))
    parts = [part for part in message_from_bytes(raw).walk() if part.get_content_maintype() == "text"]
    packed = [part.get_payload(decode=True) for part in parts]
    return parse("\n".join(one.decode("utf-8", "replace") for one in packed if isinstance(one, bytes)), str(path))


def add_head(
    store: Store, station: str, day: str, sign: Callable[[bytes], bytes] | None = None, seal: str | None = None
) -> Anchor | None:
    """Put the head of a day that is over on record, signed where there is a seal; return it.

    The link is the last one at this moment. None where nothing is on record. A day that has a head keeps it.

    Raises:
        FaultError: `Fault.LEDGER_DOWN`; any that ``sign`` raises, and nothing is on record then.
    """
    with store.read() as connection:
        known = connection.execute(sa.select(schema.heads).where(schema.heads.c.day == day)).mappings().first()
        last = chain.tip(connection)
    if known is not None:
        return Anchor.of(dict(known), "heads")
    if last is None:
        return None
    at = datetime.now(UTC)
    bare = Anchor(station, day, last.seq, last.hash.hex(), at.isoformat(timespec="microseconds"), source="heads")
    # Signed before the transaction: a token takes its time, and slots must not wait for it.
    signature = sign(bare.message) if sign else None
    row = {
        "day": day,
        "station": station,
        "seq": last.seq,
        "hash": last.hash,
        "at": at,
        "seal": seal if sign else None,
        "signature": signature,
    }
    with store.write() as connection:
        connection.execute(sa.insert(schema.heads).values(**row))
    return Anchor.of(row, "heads")


def newest_heads(store: Store, count: int) -> list[Anchor]:
    """The last days' heads on record, the oldest of them first."""
    query = sa.select(schema.heads).order_by(schema.heads.c.seq.desc(), schema.heads.c.day.desc()).limit(count)
    with store.read() as connection:
        rows = connection.execute(query).mappings().all()
    return [Anchor.of(dict(row), "heads") for row in reversed(rows)]


def last_heads(connection: sa.Connection) -> list[Anchor]:
    """The newest head of each station on record, by its name: what the report's mail carries, as `Anchor.text`."""
    newest: dict[str, Anchor] = {}
    for row in connection.execute(sa.select(schema.heads).order_by(schema.heads.c.day)).mappings():
        newest[row["station"]] = Anchor.of(dict(row), "heads")
    return [newest[station] for station in sorted(newest)]
