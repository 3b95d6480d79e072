"""The record of ceremonies: a row an act, beside the runs that its CA signed for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from station.ledger.schema import ceremonies
from station.ledger.store import Store


@dataclass(frozen=True, slots=True)
class CeremonyRow:
    """One act that is complete, or was undone. ``minutes_hash`` is hex SHA-256 of the minutes' JSON."""

    id: str
    act: str
    file_hash: str
    performed_by: str
    software: str
    minutes_hash: str
    seal: str
    ca: str
    began_at: datetime
    ended_at: datetime


def note_ceremony(path: Path, row: CeremonyRow, *, simulated: bool) -> None:
    """Put an act on record, once however often it is told.

    Raises:
        FaultError: `Fault.LEDGER_DOWN`; `Fault.SIMULATION_MIXED` where the ledger is of the other kind.
    """
    store = Store(path, simulated=simulated)
    try:
        with store.write() as connection:
            if not connection.execute(sa.select(ceremonies.c.id).where(ceremonies.c.id == row.id)).first():
                connection.execute(sa.insert(ceremonies).values(**asdict(row)))
    finally:
        store.dispose()


def ceremonies_on_record(path: Path, *, simulated: bool) -> list[CeremonyRow]:
    """Every act, in the order in which they ended. Raises as `note_ceremony`."""
    store = Store(path, simulated=simulated)
    try:
        with store.read() as connection:
            # Two may end in one second; then the one that was noted first.
            query = sa.select(ceremonies).order_by(ceremonies.c.ended_at, sa.literal_column("ceremonies.rowid"))
            rows = connection.execute(query)
            return [CeremonyRow(**row) for row in rows.mappings()]
    finally:
        store.dispose()
