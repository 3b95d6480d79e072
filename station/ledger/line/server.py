"""The connection to the line's PostgreSQL. Whatever the network does, each use of it ends by its deadline."""

from __future__ import annotations

import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa

from station.faults import Fault, FaultError

if TYPE_CHECKING:
    from station.config.line import LineSettings

# SQLSTATE classes (appendix A of PostgreSQL's manual) that no waiting cures: authorization, no such database, no right
# or no such table, a row that the server does not take.
_SETUP: Final = ("22", "23", "28", "3D", "3F", "42")
_REFUSED: Final = ("authentication failed", "does not exist", "no pg_hba.conf entry", "certificate", "SSL")


class LineServer:
    """Transactions on the line's database, one at a time, from one thread.

    libpq has no deadline of its own for an answer, and a cut network says nothing. So a timer shuts the socket down
    when the time is over, which ends the call at once wherever it waits.
    """

    def __init__(self, settings: LineSettings, password: str, user: str | None = None) -> None:
        self._where = f"{settings.host}:{settings.port}"
        self._deadline_s = settings.deadline_s
        self._libpq = _libpq(settings, password, user or settings.user)
        self._handle: socket.socket | None = None
        self._engine = sa.create_engine("postgresql+psycopg://", creator=self._connect, pool_size=1, max_overflow=0)

    @contextmanager
    def transaction(self, deadline_s: float | None = None) -> Iterator[sa.Connection]:
        """One transaction, committed when this returns.

        Raises:
            FaultError: `Fault.LINE_AWAY` where the server does not answer in time, and it is not known then whether it
                committed; `Fault.LINE_SETUP` where it refuses, and nothing of it is committed.
        """
        try:
            with (
                self._ended(deadline_s or self._deadline_s),
                self._engine.connect() as connection,
                connection.begin(),
            ):
                if deadline_s is not None:
                    _allow(connection, deadline_s)
                yield connection
        except (sa.exc.SQLAlchemyError, psycopg.Error, OSError) as error:
            self.close()
            raise self._fault(error) from error

    def close(self) -> None:
        """Give the connection back."""
        self._engine.dispose()
        self._forget()

    def _forget(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _connect(self) -> psycopg.Connection[Any]:
        # Its own timeout is libpq's; from here on, SQLAlchemy's first questions included, the timer's.
        connection = psycopg.connect(**self._libpq)
        # The pool makes a new connection by itself for one that it found dead, and tells nobody.
        self._forget()
        # A second name for the socket: this one is ours to shut down, whatever libpq does to its own.
        self._handle = socket.socket(fileno=os.dup(connection.fileno()))
        return connection

    @contextmanager
    def _ended(self, deadline_s: float) -> Iterator[None]:
        """Shut the socket down when the time is over."""

        def end() -> None:
            if self._handle is not None:
                with suppress(OSError):
                    self._handle.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(deadline_s, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _fault(self, error: Exception) -> FaultError:
        cause: Any = getattr(error, "orig", None) or error
        state = getattr(cause, "sqlstate", None) or ""
        said = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        refused = state[:2] in _SETUP or (not state and any(word in str(cause) for word in _REFUSED))
        fault = Fault.LINE_SETUP if refused else Fault.LINE_AWAY
        return FaultError(fault, f"{self._where}: {state} {self._plainly(said)}".replace("  ", " "))

    def _plainly(self, said: str) -> str:
        """What libpq says of TLS, for whoever sets the line up."""
        if "SSL error: " in said:
            reason, roots = said.rpartition("SSL error: ")[2], self._libpq.get("sslrootcert")
            return f"no TLS with it: {reason}; is its certificate in date, and under line.server_roots, {roots}?"
        if "server does not support SSL" in said:
            return "the server does not speak TLS; its owner sets ssl = on there"
        if "does not match host name" in said:
            return f"{said.removeprefix('connection failed: ')}; see line.host"
        return said


def _allow(connection: sa.Connection, seconds: float) -> None:
    """For this transaction the server waits as long as we do: a report's counts take long, and drawing them too."""
    for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
        connection.exec_driver_sql(f"SET LOCAL {name} = {int(seconds * 1000)}")


def _libpq(settings: LineSettings, password: str, user: str) -> dict[str, Any]:
    """Libpq's parameters (section 34.1.2 of PostgreSQL's manual); times there are in seconds or milliseconds."""
    ms = int(settings.deadline_s * 1000)
    found: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "dbname": settings.database,
        "user": user,
        "password": password,
        "application_name": "station",
        "connect_timeout": max(2, math.ceil(settings.deadline_s)),
        "tcp_user_timeout": ms,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        # A station that vanished in a transaction must not hold an order's lock.
        "options": f"-c statement_timeout={ms} -c idle_in_transaction_session_timeout={ms} -c lock_timeout={ms}",
        "gssencmode": "disable",
    }
    if settings.is_here:
        return {**found, "sslmode": "prefer"}
    return {**found, "sslmode": "verify-full", "sslrootcert": str(settings.server_roots)}
