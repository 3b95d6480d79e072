"""Ledgers opened to be read and never written: another process's SQLite file, a line's PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from station.faults import Fault, FaultError
from station.ledger.standing import Read

_MAX_URL: Final = 2_048


@contextmanager
def ledger_reader(path: Path) -> Iterator[Read]:
    """The ledger of a station on this machine, at work or not."""
    if not path.exists():
        raise FaultError(Fault.LEDGER_DOWN, f"there is no ledger {path}")
    with _reader(sa.create_engine(f"sqlite+pysqlite:///file:{path}?mode=ro&uri=true"), str(path)) as read:
        yield read


@contextmanager
def line_reader(url_file: Path) -> Iterator[Read]:
    """A line's database, by the one line of ``url_file``; nothing of it is ever told, for it holds a password.

    Raises:
        FaultError: `Fault.CONFIG` where others may read the file, its line is no URL, or the driver is not installed.
    """
    url = _secret(url_file)
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, isolation_level="REPEATABLE READ")
    except (sa.exc.SQLAlchemyError, ImportError):
        raise FaultError(
            Fault.CONFIG, "the database URL should be postgresql+psycopg://..., and its driver installed"
        ) from None
    with _reader(engine, "the line's database") as read:
        yield read


def _secret(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as opened:
            if os.fstat(opened.fileno()).st_mode & 0o077:
                raise FaultError(Fault.CONFIG, f"others may read {file}; next: chown and chmod 0600 {file}")
            return opened.readline(_MAX_URL).strip()
    except (OSError, UnicodeDecodeError):
        raise FaultError(Fault.CONFIG, f"{file} cannot be read") from None  # the exception may hold the line


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
