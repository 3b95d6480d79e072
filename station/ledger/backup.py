"""Online backup and restore of the station's ledger, through SQLite's own backup API."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from station import disk
from station.faults import Fault, FaultError
from station.ledger import digest, export, identity, schema, verify
from station.ledger.store import Store

_PAGES_A_STEP: Final = 256  # 1 MiB at a time: the line writes in between
_PAUSE_S: Final = 0.005


def backup(ledger: Path, target: Path, progress: Callable[[int, int], None] = lambda _done, _of: None) -> None:
    """Copy the ledger to a new file while the line runs; the copy is one moment's, complete, and on the disk.

    Beside it lies its SHA-256 (``NAME.sha256``, as sha256sum(1) writes it): with that, `verify` finds a change of any
    byte, also of one that is in no row.

    Raises:
        FaultError: `Fault.LEDGER_DOWN` where the ledger cannot be read, or the file exists or cannot be written.
    """
    if target.exists():
        raise FaultError(Fault.LEDGER_DOWN, f"{target} is there already; a backup never overwrites another file")
    if not ledger.is_file():
        raise FaultError(Fault.LEDGER_DOWN, f"there is no ledger {ledger}")
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640))
        with closing(verify.opened(ledger)) as source, closing(sqlite3.connect(partial)) as copy:
            source.execute("BEGIN")  # one view for the whole copy: a write in between must not start it anew
            source.execute("SELECT 1 FROM ledger").fetchone()
            source.backup(
                copy, pages=_PAGES_A_STEP, progress=lambda _, left, of: progress(of - left, of), sleep=_PAUSE_S
            )
            # A copy in WAL mode would want two more files beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
        disk.sync(partial)
        digest.lay(target, partial)
        partial.rename(target)
        disk.sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise FaultError(Fault.LEDGER_DOWN, f"{target} cannot be made from {ledger}: {error}") from error


def restore(source: Path, state: Path, archives: Path, by: str, station: str) -> Path | None:
    """Put a verified backup in the ledger's place; return where the replaced ledger is kept, None if there was none.

    The restored ledger says so on a row of its own: what it lost since the backup stays a visible gap. Archives of what
    it lost are put aside, for its own go on from the backup.

    Args:
        source: the backup.
        state: the station's state folder.
        archives: the station's folder of archives.
        by: who is on record for it.
        station: this station's name; its last run in the backup is of the same.

    Raises:
        FaultError: `Fault.ALREADY_RUNNING` while a station holds the folder; `Fault.RESTORE_REFUSED` where the backup
            does not verify, or is another station's; `Fault.LEDGER_DOWN` where a file cannot be read or written.
    """
    with _alone(state):
        verdict = verify.ledger_file(source)
        if verdict.findings:
            first = verdict.findings[0]
            raise FaultError(Fault.RESTORE_REFUSED, f"{source} does not verify: {first.where}: {first.what}")
        if verdict.station not in {"", station}:
            raise FaultError(Fault.RESTORE_REFUSED, f"{source} is of station {verdict.station}, this is {station}")
        ledger = state / "ledger.sqlite"
        fresh = state / "ledger.sqlite.restoring"
        _removed(fresh)
        backup(source, fresh)
        digest.beside(fresh).unlink()  # it is written on
        with closing(sqlite3.connect(fresh)) as connection:
            simulated = bool(connection.execute("SELECT simulated FROM ledger").fetchone()[0])
        _say_so(fresh, verdict.links, by, simulated=simulated)
        export.set_aside(fresh, archives, f"before-{_moment()}")
        return _exchange(fresh, ledger)


def begin(state: Path, archives: Path, by: str, *, simulated: bool) -> None:
    """Begin a new record where the station's is gone and no backup is left; archives of the old one are kept aside.

    The new ledger says so on its first row but one, for ever; a line's server takes it as after a restore.

    Raises:
        FaultError: `Fault.RESTORE_REFUSED` where the ledger is there; `Fault.ALREADY_RUNNING`, `Fault.LEDGER_DOWN` as
            `restore`.
    """
    with _alone(state):
        ledger = state / "ledger.sqlite"
        if not _gone(ledger, simulated=simulated):
            raise FaultError(Fault.RESTORE_REFUSED, f"{ledger} is there, and is this station's; nothing is begun anew")
        fresh = state / "ledger.sqlite.restoring"
        _removed(fresh)
        _say_so(fresh, 0, by, simulated=simulated)
        export.set_aside(fresh, archives, f"before-{_moment()}")
        _exchange(fresh, ledger)


def _gone(ledger: Path, *, simulated: bool) -> bool:
    try:
        Store(ledger, simulated=simulated).dispose()
    except FaultError as error:
        if error.fault is Fault.LEDGER_GONE:
            return True
        raise
    return False


def _removed(fresh: Path) -> None:
    """What a restore left that was cut short."""
    for file in (fresh, fresh.with_name(f"{fresh.name}-wal"), fresh.with_name(f"{fresh.name}-shm")):
        file.unlink(missing_ok=True)
    for file in (identity.mark_of(fresh), digest.beside(fresh)):
        file.unlink(missing_ok=True)


def _say_so(fresh: Path, links: int, by: str, *, simulated: bool) -> None:
    store = Store(fresh, simulated=simulated)
    try:
        with store.write() as connection:
            row = {"seq": links, "restored_by": by, "at": datetime.now(UTC)}
            connection.execute(sa.insert(schema.restorations).values(**row))
    finally:
        store.dispose()


def _moment() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"


def _exchange(fresh: Path, ledger: Path) -> Path | None:
    """Keep the old ledger under another name, then put the fresh one in its place. Never is there none."""
    kept = None
    try:
        if ledger.exists():
            kept = ledger.with_name(f"ledger.sqlite.replaced-{_moment()}")
            for ending in ("-wal", ""):
                part = ledger.with_name(ledger.name + ending)
                if part.exists():
                    kept.with_name(kept.name + ending).hardlink_to(part)
            disk.sync(ledger.parent)
        # The old one's -wal must not be read into the fresh one.
        for ending in ("-wal", "-shm"):
            ledger.with_name(ledger.name + ending).unlink(missing_ok=True)
        fresh.replace(ledger)
        identity.mark_of(fresh).replace(identity.mark_of(ledger))
        disk.sync(ledger.parent)
    except OSError as error:
        raise FaultError(Fault.LEDGER_DOWN, f"{fresh} cannot take the place of {ledger}: {error.strerror}") from error
    return kept


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the lock that a running station holds (`station.daemon`)."""
    try:
        handle = (state / "station.lock").open("a")
    except OSError as error:
        raise FaultError(Fault.LEDGER_DOWN, f"the state folder {state} cannot be written: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FaultError(
                Fault.ALREADY_RUNNING, f"the station of {state} runs; stop it first: systemctl stop station"
            ) from error
        yield
