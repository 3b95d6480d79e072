"""A line of stations: PostgreSQL, to which each station pushes what it closed and from which it learns the rest."""

from station.ledger.line.server import LineServer
from station.ledger.line.sync import LineSync

__all__ = ["LineServer", "LineSync"]
