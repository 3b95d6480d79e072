"""How a certificate stands now, from the record alone: the same on the station's SQLite and on a line's PostgreSQL.

Whatever takes a certificate out of service (its run did not pass, a later one superseded it) writes the outbox in the
same transaction. So one that is not in the outbox is its unit's own, and the runs that used it say how far it came. No
time is compared: a clock may have been set back in between. No working table is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from cryptography import x509
from cryptography.x509.oid import NameOID

from station.faults import Fault, FaultError
from station.ledger.schema import certificates, closures, issued, outbox, steps, uses
from station.model import Outcome, Standing, StandingState, Step

PROVISIONED: Final = Outcome.PROVISIONED.value
_AT_ONCE: Final = 500

Read = Callable[[], AbstractContextManager[sa.Connection]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A certificate with its standing, and what reconciling needs beside it."""

    number: str
    serial: str
    der: bytes
    standing: Standing


class LedgerRegister:
    """`interfaces.Register` over any ledger that ``read`` opens."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def standing(self, certificate_id: str) -> Standing | None:
        """How the certificate stands; None where no run ever made it."""
        with self._read() as connection:
            return standing(connection, certificate_id)


def standing(connection: sa.Connection, certificate_id: str) -> Standing | None:
    """How one certificate stands; None where the record does not know it."""
    row = connection.execute(_issued().where(issued.c.certificate_id == certificate_id)).mappings().first()
    return None if row is None else _recorded(connection, [row])[0].standing


def all_recorded(connection: sa.Connection, authority: str) -> Iterator[Recorded]:
    """Every certificate that was ever signed under one CA, in the order of their numbers."""
    after = ""
    while True:
        query = _issued().where(certificates.c.authority == authority, issued.c.number > after)
        rows = connection.execute(query.order_by(issued.c.number).limit(_AT_ONCE)).mappings().all()
        if not rows:
            return
        yield from _recorded(connection, rows)
        after = rows[-1]["number"]


def all_ids(connection: sa.Connection, authority: str) -> set[str]:
    """The ids of every certificate that was ever signed under one CA."""
    query = sa.select(issued.c.certificate_id).join(certificates, certificates.c.number == issued.c.number)
    return set(connection.scalars(query.where(certificates.c.authority == authority)))


def recorded(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[Recorded]:
    """The signed certificates that ``which`` picks, by columns of `issued` and `certificates`."""
    return _recorded(connection, connection.execute(_issued().where(which)).mappings().all())


def _issued() -> sa.Select[Any]:
    return (
        sa.select(
            issued.c.number,
            issued.c.certificate_id,
            issued.c.der,
            certificates.c.serial,
            certificates.c.authority,
            outbox.c.reason,
        )
        .join(certificates, certificates.c.number == issued.c.number)
        .outerjoin(outbox, outbox.c.number == issued.c.number)
    )


def _recorded(connection: sa.Connection, rows: Iterable[Any]) -> list[Recorded]:
    """The rows of `_issued` with what the runs that used them came to."""
    rows = list(rows)
    used: dict[str, list[tuple[str, str | None]]] = {row["number"]: [] for row in rows}
    query = (
        sa.select(uses.c.number, uses.c.run, closures.c.outcome)
        .outerjoin(closures, closures.c.run == uses.c.run)
        .where(uses.c.number.in_(used))
    )
    for number, run, outcome in connection.execute(query):
        used[number].append((run, outcome))
    return [
        Recorded(
            row["number"],
            row["serial"],
            row["der"],
            Standing(
                row["certificate_id"],
                row["authority"],
                _thing(row["der"], row["certificate_id"]),
                StandingState.OUT if row["reason"] is not None else _state(connection, used[row["number"]]),
            ),
        )
        for row in rows
    ]


def _state(connection: sa.Connection, used: list[tuple[str, str | None]]) -> StandingState:
    at_work = [run for run, outcome in used if outcome is None]
    if at_work:
        done = connection.execute(sa.select(steps.c.step, steps.c.fault).where(steps.c.run == at_work[0])).all()
        faults = dict(done)
        connecting = Step.VERIFY.value in faults and Step.CONNECT.value not in faults and not any(faults.values())
        return StandingState.CONNECTING if connecting else StandingState.WORKING
    outcomes = {outcome for _, outcome in used}
    if Outcome.PASS.value in outcomes:
        return StandingState.PASSED
    return StandingState.PROVISIONED if PROVISIONED in outcomes else StandingState.OUT


def _thing(der: bytes, certificate_id: str) -> str:
    """The client id: the common name that the certificate was issued to."""
    try:
        names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError as error:
        raise FaultError(Fault.LEDGER_DOWN, f"certificate {certificate_id} on record is no certificate") from error
    return str(names[0].value) if names else ""
