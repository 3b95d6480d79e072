"""Takes certificates out of service that must not live: durable, retried for ever, one never in another's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
import structlog
from cryptography import x509

from station.faults import Fault, FaultError
from station.ledger.record import SqliteLedger
from station.ledger.schema import issued, outbox, outbox_attempts, outbox_done

_FIRST_S: Final = 1.0
_LONGEST_S: Final = 60.0
_IDLE_S: Final = 60.0

log = structlog.get_logger()


class Outbox(threading.Thread):
    """Calls ``retire`` for each waiting certificate, oldest first, and tells how many wait.

    What cannot be retired now is tried again after 1 s, then twice as long up to a minute. Each new fault of it is put
    on record; every attempt, in the log: a cloud that is away for a week must not fill the disk. It is woken when a
    run ends.
    """

    def __init__(
        self, ledger: SqliteLedger, retire: Callable[[x509.Certificate], None], tell: Callable[[int], None]
    ) -> None:
        super().__init__(name="outbox")
        self._store, self._retire, self._tell = ledger.store, retire, tell
        self._due: dict[str, float] = {}
        self._pause: dict[str, float] = {}
        self._fault: dict[str, Fault] = {}
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
        for number, der in waiting:
            if self._over.is_set():
                return 0.0
            if self._due.get(number, 0.0) <= time.monotonic():
                self._try(number, der)
        left = [number for number, _ in self._waiting()]
        self._tell(len(left))
        self._due = {number: self._due[number] for number in left if number in self._due}
        return max(0.0, min([self._due.get(number, 0.0) - time.monotonic() for number in left], default=_IDLE_S))

    def _waiting(self) -> list[tuple[str, bytes]]:
        with self._store.read() as connection:
            return waiting(connection)

    def _try(self, number: str, der: bytes) -> None:
        try:
            self._retire(x509.load_der_x509_certificate(der))
        except FaultError as error:
            self._put_off(number, error)
            return
        except Exception as error:  # a thread's top: one certificate must not stop the others
            log.exception("unexpected")
            self._put_off(number, FaultError(Fault.UNEXPECTED, type(error).__name__))
            return
        with self._store.write() as connection:
            connection.execute(sa.insert(outbox_done).values(number=number, at=datetime.now(UTC)))
        self._pause.pop(number, None)
        self._fault.pop(number, None)
        log.info("a certificate is out of service", number=number)

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


def waiting(connection: sa.Connection) -> list[tuple[str, bytes]]:
    """The certificates that are still in service and must not be, oldest first: number and DER."""
    query = (
        sa.select(outbox.c.number, issued.c.der)
        .join(issued, issued.c.number == outbox.c.number)
        .outerjoin(outbox_done, outbox_done.c.number == outbox.c.number)
        .where(outbox_done.c.number.is_(None))
        .order_by(outbox.c.at)
    )
    return [(number, der) for number, der in connection.execute(query)]
