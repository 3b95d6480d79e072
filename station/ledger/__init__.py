"""The append-only record: SQLite on the station."""

from station.ledger.outbox import Outbox
from station.ledger.record import CutRun, SqliteLedger

__all__ = ["CutRun", "Outbox", "SqliteLedger"]
