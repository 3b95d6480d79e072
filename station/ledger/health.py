"""Looks at a ledger without touching it: for the doctor, beside a daemon at work or before there is one."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from station.faults import Fault, FaultError
from station.ledger import identity, orders, schema
from station.ledger.outbox import waiting

_STEPS: Final = 20_000  # SQLite's virtual machine steps between two looks at the clock


@dataclass(frozen=True, slots=True)
class Health:
    """What was found. ``whole`` is False where the time was too short to read all of the file."""

    bytes: int
    whole: bool
    outbox: int
    left: tuple[tuple[str, int], ...]


def examine(path: Path, *, simulated: bool, limit_s: float) -> Health | None:
    """Check the file's integrity for at most ``limit_s`` and read what waits; None where there is no ledger yet.

    Raises:
        FaultError: `Fault.LEDGER_DOWN` where it is damaged or unreadable; `Fault.SIMULATION_MIXED`;
            `Fault.LEDGER_GONE` where there was one.
    """
    identity.refuse_gone(path)
    if not path.exists():
        return None
    try:
        whole = _checked(path, limit_s)
        engine = sa.create_engine(f"sqlite+pysqlite:///file:{path}?mode=ro&uri=true")
        try:
            with engine.connect() as connection:
                if connection.execute(sa.select(schema.ledger.c.simulated)).scalar() is not simulated:
                    raise FaultError(Fault.SIMULATION_MIXED, f"{path} is the other kind's ledger; take another folder")
                left = tuple((one.order.number, one.left) for one in orders.progress(connection, only_open=True))
                return Health(path.stat().st_size, whole, len(waiting(connection)), left)
        finally:
            engine.dispose()
    except (sqlite3.Error, sa.exc.SQLAlchemyError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        raise FaultError(Fault.LEDGER_DOWN, f"{path}: {cause}; keep the file, restore the backup beside it") from error


def _checked(path: Path, limit_s: float) -> bool:
    """Whether every page was read. Raises `Fault.LEDGER_DOWN` for the first damage (sqlite.org/pragma quick_check)."""
    deadline = time.monotonic() + limit_s
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=limit_s)
    try:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname == "SQLITE_INTERRUPT":
            return False
        raise
    finally:
        connection.close()
    if said != "ok":
        raise FaultError(Fault.LEDGER_DOWN, f"{path} is damaged ({said}); keep it, restore the backup beside it")
    return True
