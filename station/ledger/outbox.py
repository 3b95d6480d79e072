"""Takes certificates out of service that must not live: durable, retried for ever, one never in another's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa
import structlog
from cryptography import x509

from station.faults import Fault, FaultError
from station.ledger.record import SqliteLedger
from station.ledger.schema import certificates, issued, outbox, outbox_attempts, outbox_done

_FIRST_S: Final = 1.0
_LONGEST_S: Final = 60.0
_IDLE_S: Final = 60.0
# An activator that asked before we said INACTIVE may say ACTIVE after it. None takes so long: Lambda ends it in 5 min.
_CONFIRM_S: Final = 600.0
_LATELY: Final = timedelta(days=7)  # what was done shortly before a weekend is confirmed after it

log = structlog.get_logger()


class Outbox(threading.Thread):
    """Calls ``retire`` for each waiting certificate with its CA's id, oldest first, and tells how many wait.

    What cannot be retired now is tried again after 1 s, then twice as long up to a minute. Each new fault of it is put
    on record; every attempt, in the log: a cloud that is away for a week must not fill the disk. It is woken when a
    run ends.

    Ten minutes after a certificate is out of service it is retired once more (`_CONFIRM_S`), after a restart too.
    """

    def __init__(
        self, ledger: SqliteLedger, retire: Callable[[x509.Certificate, str], None], tell: Callable[[int], None]
    ) -> None:
        super().__init__(name="outbox")
        self._store, self._retire, self._tell = ledger.store, retire, tell
        self._due: dict[str, float] = {}
        self._pause: dict[str, float] = {}
        self._fault: dict[str, Fault] = {}
        self._confirm_at: dict[str, float] | None = None
        self._woken = threading.Event()
        self._over = threading.Event()

    def wake(self) -> None:
        """Look again, now; how many wait is told before this returns, so that no result stands beside an old count."""
        with suppress(FaultError):  # the round itself will say what the ledger has
            self._tell(len(self._waiting()))
        self._woken.set()

    def stop(self) -> None:
        """End after the certificate at hand; what waits is tried at the next start."""
        self._over.set()
        self._woken.set()
        self.join()

    def run(self) -> None:
        """Work until `stop`."""
        while not self._over.is_set():
            self._woken.clear()
            try:
                wait_s = self._round()
            except FaultError as error:
                log.error("the outbox cannot read the ledger", fault=error.fault.code, detail=error.detail)  # noqa: TRY400 - the detail says it
                wait_s = _FIRST_S
            self._woken.wait(wait_s)

    def _round(self) -> float:
        """Try what is due; return the seconds until something is."""
        waiting = self._waiting()
        self._tell(len(waiting))
        for number, der, authority in waiting:
            if self._over.is_set():
                return 0.0
            if self._due.get(number, 0.0) <= time.monotonic():
                self._try(number, der, authority)
        left = [number for number, *_ in self._waiting()]
        self._tell(len(left))
        self._due = {number: self._due[number] for number in left if number in self._due}
        until_confirmed = self._confirm_one()
        return max(0.0, min([self._due.get(number, 0.0) - time.monotonic() for number in left] + [until_confirmed]))

    def _confirm_one(self) -> float:
        """Retire again what is due for it, one a second, for slots share AWS's quota; returns the next's seconds."""
        if self._confirm_at is None:
            with self._store.read() as connection:
                lately = done_since(connection, datetime.now(UTC) - _LATELY)
            self._confirm_at = dict.fromkeys(lately, time.monotonic() + _CONFIRM_S)
        number = min(self._confirm_at, key=self._confirm_at.__getitem__, default=None)
        if number is None or self._confirm_at[number] > time.monotonic():
            return min(_IDLE_S, self._confirm_at[number] - time.monotonic()) if number else _IDLE_S
        with self._store.read() as connection:
            found = certificate(connection, number)
        error = self._retired(*found)
        if error is None or error.fault is Fault.CA_NOT_ACCEPTING:  # of a CA that lets nobody in, nothing connects
            del self._confirm_at[number]
        else:
            self._confirm_at[number] = time.monotonic() + _LONGEST_S
            log.warning("not confirmed out of service", number=number, fault=error.fault.code, detail=error.detail)
        return _FIRST_S

    def _waiting(self) -> list[tuple[str, bytes, str]]:
        with self._store.read() as connection:
            return waiting(connection)

    def _try(self, number: str, der: bytes, authority: str) -> None:
        error = self._retired(der, authority)
        if error is not None:
            self._put_off(number, error)
            return
        with self._store.write() as connection:
            connection.execute(sa.insert(outbox_done).values(number=number, at=datetime.now(UTC)))
        self._pause.pop(number, None)
        self._fault.pop(number, None)
        if self._confirm_at is not None:
            self._confirm_at[number] = time.monotonic() + _CONFIRM_S
        log.info("a certificate is out of service", number=number)

    def _retired(self, der: bytes, authority: str) -> FaultError | None:
        """Retire it; returns what is against it."""
        try:
            self._retire(x509.load_der_x509_certificate(der), authority)
        except FaultError as error:
            return error
        except Exception as error:  # a thread's top: one certificate must not stop the others
            log.exception("unexpected")
            return FaultError(Fault.UNEXPECTED, type(error).__name__)
        return None

    def _put_off(self, number: str, error: FaultError) -> None:
        pause = min(self._pause.get(number, _FIRST_S / 2) * 2, _LONGEST_S)
        self._pause[number], self._due[number] = pause, time.monotonic() + pause
        log.warning("a certificate is still in service", number=number, fault=error.fault.code, detail=error.detail)
        if self._fault.get(number) is error.fault:
            return
        with self._store.write() as connection:
            connection.execute(
                sa.insert(outbox_attempts).values(
                    number=number, fault=error.fault.code, detail=error.detail, at=datetime.now(UTC)
                )
            )
        self._fault[number] = error.fault


def waiting(connection: sa.Connection) -> list[tuple[str, bytes, str]]:
    """The certificates that are still in service and must not be, oldest first: number, DER, its CA's id."""
    query = (
        sa.select(outbox.c.number, issued.c.der, certificates.c.authority)
        .join(issued, issued.c.number == outbox.c.number)
        .join(certificates, certificates.c.number == outbox.c.number)
        .outerjoin(outbox_done, outbox_done.c.number == outbox.c.number)
        .where(outbox_done.c.number.is_(None))
        .order_by(outbox.c.at)
    )
    return [tuple(row) for row in connection.execute(query)]


def done_since(connection: sa.Connection, moment: datetime) -> list[str]:
    """The numbers of the certificates that were taken out of service since."""
    return list(connection.scalars(sa.select(outbox_done.c.number).where(outbox_done.c.at >= moment)))


def certificate(connection: sa.Connection, number: str) -> tuple[bytes, str]:
    """A certificate that was made: its DER, and its CA's id."""
    query = sa.select(issued.c.der, certificates.c.authority).join(
        certificates, certificates.c.number == issued.c.number
    )
    return tuple(connection.execute(query.where(issued.c.number == number)).one())
