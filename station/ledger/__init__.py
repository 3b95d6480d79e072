"""The append-only record: SQLite on the station."""

from station.ledger.ceremonies import CeremonyRow, ceremonies_on_record, note_ceremony
from station.ledger.outbox import Outbox
from station.ledger.record import CutRun, SqliteLedger

__all__ = [
    "CeremonyRow",
    "CutRun",
    "Outbox",
    "SqliteLedger",
    "ceremonies_on_record",
    "note_ceremony",
]
