"""Pushes the station's record to the line: link by link, in order, each once, from where the server left off.

A link is what one transaction of the ledger added, so order and completeness need no bookkeeping here: the server's
own last link says what it has. Rows and links are committed together there, and a row that it has is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from station.faults import Fault, FaultError
from station.ledger import chain, schema
from station.ledger.store import Store
from station.model import Outcome

_LINKS_A_PUSH: Final = 500
_ROWS_A_PUSH: Final = 5000
# What the server has of its own or finds itself, what it told the station, and the CA's acts, which are no station's.
NOT_PUSHED: Final = frozenset({"ledger", "passes", "clashes", "restorations", "ceremonies", "retests"})
PUSHED: Final = [
    table
    for table in schema.metadata.sorted_tables
    if table.name in chain.record_tables() and table.name not in NOT_PUSHED
]

links = sa.table(
    "line_links",
    sa.column("station", sa.Text),
    sa.column("epoch", sa.Text),
    sa.column("seq", sa.BigInteger),
    sa.column("at", sa.Text),
    sa.column("rows", sa.Text),
    sa.column("hash", sa.LargeBinary),
)


@dataclass(frozen=True, slots=True)
class Portion:
    """Some links that follow one another, and the rows that they cover, by table.

    A long lot is several links, its units before its order: ``orders`` are those of the units.
    """

    links: list[chain.Link]
    rows: dict[str, list[dict[str, Any]]]
    orders: list[dict[str, Any]]


class Pusher:
    """Knows how far the server is; one thread's."""

    def __init__(self, store: Store, station: str) -> None:
        self._store, self._station = store, station
        self._done: int | None = None
        self._marks: dict[str, int] = {}
        self.epoch = ""

    def begin(self, server: sa.Connection) -> None:
        """Ask the server how far it is, and whether what it has is this ledger's own past.

        Raises:
            FaultError: `Fault.LINE_FORKED` where it is another past: this ledger was rolled back, or made anew.
        """
        with self._store.read() as connection:
            self.epoch, done = reached(connection, server, self._station)
            if done != self._done:
                self._done, self._marks = done, _marks(connection, done)

    def backlog(self) -> int:
        """Links that the server does not have yet, by what `begin` learned."""
        with self._store.read() as connection:
            tip = chain.tip(connection)
        return (tip.seq if tip else 0) - (self._done or 0)

    def next(self) -> Portion | None:
        """What to push next; None where the server has everything."""
        with self._store.read() as connection:
            taken: list[chain.Link] = []
            counts: dict[str, int] = {}
            query = sa.select(schema.chain).where(schema.chain.c.seq > self._done).order_by(schema.chain.c.seq)
            for row in connection.execute(query.limit(_LINKS_A_PUSH)):
                link = chain.Link(*row)
                taken.append(link)
                for name, count in link.counts():
                    counts[name] = counts.get(name, 0) + count
                if sum(counts.values()) >= _ROWS_A_PUSH:
                    break
            if not taken:
                return None
            rows = {name: self._rows(connection, name, count) for name, count in counts.items()}
            numbers = {row["order_number"] for row in rows.get("order_units", [])}
            of = sa.select(schema.orders).where(schema.orders.c.number.in_(sorted(numbers)))
            return Portion(taken, rows, [dict(row) for row in connection.execute(of).mappings()])

    def _rows(self, connection: sa.Connection, name: str, count: int) -> list[dict[str, Any]]:
        rowid = sa.literal_column("rowid", sa.Integer)
        mark = self._marks.get(name, 0)
        query = sa.select(schema.metadata.tables[name]).where(rowid > mark, rowid <= mark + count).order_by(rowid)
        return [dict(row) for row in connection.execute(query).mappings()]

    def push(self, server: sa.Connection, portion: Portion) -> None:
        """Add a portion within the caller's transaction on the server; `pushed` once that is committed."""
        if portion.orders:
            server.execute(postgresql.insert(schema.orders).on_conflict_do_nothing(), portion.orders)
        for table in PUSHED:
            rows = portion.rows.get(table.name, [])
            if table.name == "leases":
                rows = [row for row in rows if row["quantity"] < 0]
            if rows:
                server.execute(postgresql.insert(table).on_conflict_do_nothing(), rows)
        if closed := [row["run"] for row in portion.rows.get("tally", [])]:
            server.execute(_passes(), {"closed": closed, "epoch": self.epoch, "seq": portion.links[-1].seq})
        server.execute(
            postgresql.insert(links).on_conflict_do_nothing(),
            [
                {
                    "station": self._station,
                    "epoch": self.epoch,
                    "seq": link.seq,
                    "at": link.at,
                    "rows": link.rows,
                    "hash": link.hash,
                }
                for link in portion.links
            ],
        )

    def pushed(self, portion: Portion) -> None:
        """The server has committed it."""
        self._done = portion.links[-1].seq
        for name, rows in portion.rows.items():
            self._marks[name] = self._marks.get(name, 0) + len(rows)


def reached(here: sa.Connection, server: sa.Connection, station: str) -> tuple[str, int]:
    """The epoch of the ledger ``here``, and the last link of it that the server has; 0 where it has none.

    Raises:
        FaultError: `Fault.LINE_FORKED` where what the server has is another past.
    """
    restored = here.execute(sa.select(schema.restorations).order_by(schema.restorations.c.id.desc())).all()
    epochs = [*(row.at.isoformat(timespec="microseconds") for row in restored), ""]
    epoch = epochs[0]
    mine = sa.select(links.c.seq, links.c.hash).where(links.c.station == station).order_by(links.c.seq.desc()).limit(1)
    last = server.execute(mine.where(links.c.epoch == epoch)).first()
    # Else what was pushed before the backup was made: by the epochs that this ledger came through, and no other of this
    # station's, each up to the link where the next one left it.
    for row, before in zip(restored, epochs[1:], strict=True):
        if last is None:
            last = server.execute(mine.where(links.c.epoch == before, links.c.seq <= row.seq)).first()
    if last is None:
        return epoch, 0
    known = here.execute(sa.select(schema.chain.c.hash).where(schema.chain.c.seq == last.seq)).scalar()
    if known is None or bytes(known) != bytes(last.hash):
        how = "was rolled back" if known is None else "was made anew"
        text = f"link {last.seq} of {station} is on the line's server, and not here: the ledger {how}"
        raise FaultError(Fault.LINE_FORKED, text)
    return epoch, last.seq


def _marks(connection: sa.Connection, until: int) -> dict[str, int]:
    """How many rows of each table the links up to ``until`` cover."""
    marks: dict[str, int] = {}
    for name, count in _counted(connection, until):
        marks[name] = marks.get(name, 0) + count
    return marks


def _counted(connection: sa.Connection, until: int) -> Iterator[tuple[str, int]]:
    """Grouped by SQLite first: a year has millions of links, and few kinds of them."""
    query = sa.select(schema.chain.c.rows, sa.func.count()).where(schema.chain.c.seq <= until)
    for text, times in connection.execute(query.group_by(schema.chain.c.rows)):
        for name, count in chain.Link(0, "", text, b"").counts():
            yield name, count * times


def _passes() -> sa.TextClause:
    """Of the runs that a portion closed those that made a good unit, for the other stations' admission."""
    return sa.text(
        "INSERT INTO passes (run, station, epoch, seq, serial, chip_id, key_id, number, order_number, kind, at)"
        " SELECT t.run, t.station, :epoch, :seq, i.serial, i.chip_id, c.key_id, c.number, t.order_number, t.kind, t.at"
        " FROM tally t JOIN identified i ON i.run = t.run JOIN uses u ON u.run = t.run"
        " JOIN certificates c ON c.number = u.number"
        " WHERE t.run = ANY(:closed) AND t.outcome = ANY(:made) AND t.kind <> 'golden'"
        " ON CONFLICT (run) DO NOTHING"
    ).bindparams(
        sa.bindparam("closed", type_=postgresql.ARRAY(sa.Text)),
        sa.bindparam("made", [outcome.value for outcome in Outcome if outcome.made], postgresql.ARRAY(sa.Text)),
    )
