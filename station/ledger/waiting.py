"""What still waits for a CA: open orders built under it, and units that left without their first contact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from station.faults import Fault, FaultError
from station.ledger.schema import (
    admissions,
    certificates,
    closures,
    issued,
    ledger,
    live_certificates,
    order_closures,
    uses,
)
from station.model import Outcome


@dataclass(frozen=True, slots=True)
class Waiting:
    """``orders`` are open and built under the CA; ``units`` (serial to certificate id) ended PROVISIONED under it."""

    orders: tuple[str, ...]
    units: dict[str, str]


def waiting_for(path: Path, authority: str, *, simulated: bool) -> Waiting:
    """Ask one station's ledger, without changing it.

    Args:
        path: the ledger's file.
        authority: the CA's identity, hex SHA-256 of its certificate.
        simulated: whether it should be a simulation's.

    Raises:
        FaultError: `Fault.LEDGER_DOWN`; `Fault.SIMULATION_MIXED` where it is a ledger of the other kind.
    """
    if not path.is_file():
        raise FaultError(Fault.LEDGER_DOWN, f"there is no ledger {path}; check `ledgers`")
    engine = sa.create_engine(f"sqlite+pysqlite:///file:{path}?mode=ro&uri=true", connect_args={"timeout": 5.0})
    try:
        with engine.connect() as connection:
            if connection.execute(sa.select(ledger.c.simulated)).scalar() is not simulated:
                raise FaultError(Fault.SIMULATION_MIXED, f"{path} is a ledger of the other kind")
            return Waiting(_orders(connection, authority), _units(connection, authority))
    except sa.exc.SQLAlchemyError as error:
        raise FaultError(Fault.LEDGER_DOWN, f"{path} cannot be read: {getattr(error, 'orig', error)}") from error
    finally:
        engine.dispose()


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


def _units(connection: sa.Connection, authority: str) -> dict[str, str]:
    """Of each unit its live certificate alone: one that was made again waits under its later certificate."""
    query = (
        sa.select(live_certificates.c.serial, issued.c.certificate_id)
        .join(certificates, certificates.c.number == live_certificates.c.number)
        .join(issued, issued.c.number == live_certificates.c.number)
        .join(uses, uses.c.number == live_certificates.c.number)
        .join(closures, closures.c.run == uses.c.run)
        .where(certificates.c.authority == authority, closures.c.outcome == Outcome.PROVISIONED.value)
    )
    return {row[0]: row[1] for row in connection.execute(query)}
