"""Ledgers opened to be read and never written: another process's SQLite file, a line's PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from station.faults import Fault, FaultError
from station.ledger.standing import Read


@contextmanager
def ledger_reader(path: Path) -> Iterator[Read]:
    """The ledger of a station on this machine, at work or not."""
    if not path.exists():
        raise FaultError(Fault.LEDGER_DOWN, f"there is no ledger {path}")
    with _reader(sa.create_engine(f"sqlite+pysqlite:///file:{path}?mode=ro&uri=true"), str(path)) as read:
        yield read


@contextmanager
def line_reader(url: str) -> Iterator[Read]:
    """A line's database, by its URL; nothing of the URL is ever told, for it holds a password.

    Raises:
        FaultError: `Fault.CONFIG` where the URL is none, or its driver is not installed.
    """
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, isolation_level="REPEATABLE READ")
    except (sa.exc.SQLAlchemyError, ImportError):
        raise FaultError(
            Fault.CONFIG, "the database URL should be postgresql+psycopg://..., and its driver installed"
        ) from None
    with _reader(engine, "the line's database") as read:
        yield read


@contextmanager
def _reader(engine: sa.Engine, name: str) -> Iterator[Read]:
    @contextmanager
    def read() -> Iterator[sa.Connection]:
        try:
            with engine.connect() as connection, connection.begin():
                yield connection
        except sa.exc.SQLAlchemyError as error:
            cause = type(getattr(error, "orig", None) or error).__name__
            raise FaultError(Fault.LEDGER_DOWN, f"{name} cannot be read: {cause}") from None

    try:
        yield read
    finally:
        engine.dispose()
