"""What still waits for a CA: open orders built under it, and units that left without their first contact.

From the record alone, so that a station's SQLite and a line's PostgreSQL are asked in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from station.faults import Fault, FaultError
from station.ledger.schema import (
    admissions,
    certificates,
    closures,
    issued,
    ledger,
    order_closures,
    orders,
    outbox,
    uses,
)
from station.ledger.standing import PROVISIONED, Read


@dataclass(frozen=True, slots=True)
class Waiting:
    """``orders`` are open and built under the CA; ``units`` (certificate id to serial) ended PROVISIONED under it.

    ``others`` are open, and no board of them was built under it yet: no record tells which CA a station has now.
    """

    orders: tuple[str, ...]
    others: tuple[str, ...]
    units: dict[str, str]


def waiting_for(read: Read, authority: str, *, simulated: bool) -> Waiting:
    """Ask one ledger, without changing it.

    Args:
        read: opens it, as `station.ledger.readers` does.
        authority: the CA's identity, hex SHA-256 of its certificate.
        simulated: whether it should be a simulation's.

    Raises:
        FaultError: `Fault.LEDGER_DOWN`; `Fault.SIMULATION_MIXED` where it is a ledger of the other kind.
    """
    with read() as connection:
        if connection.execute(sa.select(ledger.c.simulated)).scalar() is not simulated:
            raise FaultError(Fault.SIMULATION_MIXED, "a ledger that the act names is of the other kind")
        built = _orders(connection, authority)
        others = tuple(number for number in _open(connection) if number not in built)
        return Waiting(built, others, _units(connection, authority))


def _orders(connection: sa.Connection, authority: str) -> tuple[str, ...]:
    query = (
        sa.select(admissions.c.order_number)
        .distinct()
        .join(uses, uses.c.run == admissions.c.run)
        .join(certificates, certificates.c.number == uses.c.number)
        .outerjoin(order_closures, order_closures.c.order_number == admissions.c.order_number)
        .where(certificates.c.authority == authority, order_closures.c.order_number.is_(None))
        .order_by(admissions.c.order_number)
    )
    return tuple(connection.execute(query).scalars())


def _open(connection: sa.Connection) -> list[str]:
    query = sa.select(orders.c.number).outerjoin(order_closures, order_closures.c.order_number == orders.c.number)
    return list(connection.scalars(query.where(order_closures.c.order_number.is_(None)).order_by(orders.c.number)))


def _units(connection: sa.Connection, authority: str) -> dict[str, str]:
    """Without what is out of service: a unit that was made again waits under its later certificate alone."""
    query = (
        sa.select(issued.c.certificate_id, certificates.c.serial)
        .join(certificates, certificates.c.number == issued.c.number)
        .join(uses, uses.c.number == issued.c.number)
        .join(closures, closures.c.run == uses.c.run)
        .outerjoin(outbox, outbox.c.number == issued.c.number)
        .where(
            certificates.c.authority == authority,
            closures.c.outcome == PROVISIONED,
            outbox.c.number.is_(None),
        )
    )
    return {str(row.certificate_id): str(row.serial) for row in connection.execute(query)}
