"""The database itself: one SQLite file, opened so that what is committed is on the disk, and its errors as faults."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from station.faults import Fault, FaultError
from station.ledger import chain, identity, schema

HEAD: Final = "0008"
_BUSY_S: Final = 5.0
_QUEUE_S: Final = 15.0
_IMMEDIATE: Final = {"begin": "BEGIN IMMEDIATE"}

# The name of what SQLite or the kernel says (sqlite.org/rescode.html, errno(3)), and what to do about it.
_ADVICE: Final = {
    "SQLITE_FULL": "the disk is full; free some space",
    "ENOSPC": "the disk is full; free some space",
    "SQLITE_READONLY": "the file is read-only; check its owner and the mount",
    "SQLITE_CANTOPEN": "the file cannot be opened; check the folder and its owner",
    "EACCES": "the station may not open the file; check the folder and its owner",
    "EROFS": "the file system is read-only; see `dmesg`",
    "ENOENT": "there is no such folder; check `state` in station.yaml",
    "SQLITE_NOTADB": "the file is no ledger; restore it from the backup, never delete it",
    "SQLITE_CORRUPT": "the file is damaged; keep it, and restore the backup beside it",
    "SQLITE_BUSY": "another program holds the file; find it with `fuser`",
    "SQLITE_IOERR": "the disk has errors, or is full; see `dmesg` and `df`",
    "SQLITE_CONSTRAINT": "the record would have been changed or broken; this is a mistake in the software",
}


class Store:
    """Transactions on the ledger's file. Safe from any thread: each has a connection of its own.

    Writers queue on a lock of ours, for SQLite lets them wait by polling: of eight, the unluckiest waited 1.2 s
    instead of 0.1 s. Other processes are still kept apart by SQLite's own lock.
    """

    def __init__(self, path: Path, *, simulated: bool) -> None:
        self.path = path
        self._turn = threading.Lock()
        with self._translated():
            identity.refuse_gone(path)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
            self._file = _file_id(path)
        self._log: tuple[int, int] | None = None
        self._marked = 0
        self._engine = sa.create_engine(
            sa.URL.create("sqlite+pysqlite", database=str(path)), connect_args={"timeout": _BUSY_S}
        )
        sa.event.listen(self._engine, "connect", _set_up)
        sa.event.listen(self._engine, "begin", _begin)
        with ExitStack() as unless_open:
            unless_open.callback(self.dispose)
            self._migrate()
            self._refuse_mixing(simulated=simulated)
            self._refuse_another()
            unless_open.pop_all()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction, alone from its first statement; chained, and on disk when this returns.

        Raises:
            FaultError: `Fault.LEDGER_DOWN` where the database does not take it; nothing of it is written then.
        """
        with self._alone() as connection:
            before = chain.marks(connection)
            yield connection
            chain.extend(connection, before)

    @contextmanager
    def _alone(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer is in."""
        if not self._turn.acquire(timeout=_QUEUE_S):
            raise FaultError(Fault.LEDGER_DOWN, f"{self.path}: the disk does not answer; see `dmesg`")
        try:
            self._still_there()
            with (
                self._translated(),
                self._engine.connect().execution_options(**_IMMEDIATE) as connection,
                connection.begin(),
            ):
                yield connection
            self._still_there()
            self._same_log()
        finally:
            self._turn.release()

    def _still_there(self) -> None:
        """A file that was removed takes writes for as long as it is open, and nobody ever reads them again."""
        with self._translated():
            if _file_id(self.path) != self._file:
                said = f"{self.path} was removed or replaced under the station"
                raise FaultError(Fault.LEDGER_GONE, f"{said}; stop it, then: station ledger restore FILE")

    def _same_log(self) -> None:
        """SQLite's log, removed under us, takes writes too, which end with the process: so into the file with them."""
        log = self.path.with_name(f"{self.path.name}-wal")
        with self._translated():
            found = _file_id(log)
            if self._log is None:  # the first write since the file was opened
                self._log = found
            if found == self._log:
                return
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
        raise FaultError(Fault.LEDGER_GONE, f"{log} was removed under the station; nothing is lost; start it again")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view; it stops no writer."""
        with self._translated(), self._engine.connect() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        self._log = None  # SQLite removes it with the last connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
            cause = getattr(error, "orig", None) or error
            name = _name(cause)
            said = cause.strerror if isinstance(cause, OSError) else cause
            advice = next((do for known, do in _ADVICE.items() if name.startswith(known)), "see the log")
            raise FaultError(Fault.LEDGER_DOWN, f"{self.path}: {said}; {advice}") from error

    def _migrate(self) -> None:
        """Bring the schema up to date and chain what is not yet, in one transaction."""
        with self._alone() as connection:
            found = self._version(connection)
            if found == HEAD:
                return
            if found is not None and found > HEAD:
                raise FaultError(
                    Fault.LEDGER_DOWN,
                    f"{self.path} is of schema {found}, this software knows {HEAD}: install the newer software again",
                )
            before = chain.marks_before_migration(connection)
            migrate(connection)
            chain.extend(connection, before)

    def _version(self, connection: sa.Connection) -> str | None:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        version: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return version

    def _refuse_mixing(self, *, simulated: bool) -> None:
        with self.write() as connection:
            made_in = connection.execute(sa.select(schema.ledger.c.simulated)).scalar()
            if made_in is None:
                connection.execute(
                    sa.insert(schema.ledger).values(id=1, simulated=simulated, made_at=datetime.now(UTC))
                )
            elif made_in is not simulated:
                kinds = {True: "a simulation's", False: "a production line's"}
                raise FaultError(
                    Fault.SIMULATION_MIXED,
                    f"{self.path} is {kinds[made_in]} ledger, this is {kinds[simulated]} station; take another folder",
                )

    def _refuse_another(self) -> None:
        with self.read() as connection:
            identity.hold(self.path, lambda seq: chain.hash_of(connection, seq))

    def mark(self) -> None:
        """Note beside the file how far the record is, so that no older copy takes its place unseen.

        Raises:
            FaultError: `Fault.LEDGER_DOWN` where the disk does not take it.
        """
        with self.read() as connection:
            last = chain.tip(connection)
            if last is not None and last.seq != self._marked:
                identity.write(self.path, {1: chain.hash_of(connection, 1), last.seq: last.hash})
                self._marked = last.seq


def _file_id(path: Path) -> tuple[int, int] | None:
    """What tells one file from another of its name; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def migrate(connection: sa.Connection, version: str = "head") -> None:
    """Bring the schema of any ledger, SQLite or PostgreSQL, up to ``version`` within the caller's transaction."""
    from alembic import command  # noqa: PLC0415 - only loaded where there is something to do
    from alembic.config import Config  # noqa: PLC0415 - as above

    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    settings.attributes["connection"] = connection
    command.upgrade(settings, version)


def _name(cause: BaseException) -> str:
    """``SQLITE_FULL``, ``ENOSPC``; extended codes of SQLite begin with the plain one's name."""
    if isinstance(cause, OSError):
        return errno.errorcode.get(cause.errno or 0, "")
    return str(getattr(cause, "sqlite_errorname", ""))


def _set_up(connection: Any, _record: object) -> None:
    # Transactions are begun by us: pysqlite's own would begin them late.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
