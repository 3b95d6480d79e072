"""What stands at the end of the window: orders and how far they are; certificates, and those that need somebody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from station.config.report import Report
from station.ledger.schema import (
    certificates,
    issued,
    leases,
    ledger,
    order_closures,
    orders,
    outbox,
    outbox_done,
    runs,
    tally,
    uses,
)
from station.yields.scope import DONE, Condition, Query, Scope, count_if

_MOST_ORDERS = 200


@dataclass(frozen=True, slots=True)
class OrderStand:
    """One order that was open or worked on in the window. Counts are of units, up to the window's end."""

    number: str
    product: str
    kind: str
    quantity: int
    passed: int
    passed_now: int
    opened_at: datetime
    closed_at: datetime | None

    @property
    def share(self) -> float:
        """How far it is, 0 to 1."""
        return min(1.0, self.passed / self.quantity)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates of the window's runs; and, whatever the window, those to revoke and those that expire.

    ``signed`` were made in the window; ``passed`` went out with a unit that was done; ``orphaned`` are of runs that did
    not pass and ``superseded`` were replaced. ``waiting`` are still to be taken out of service now.
    """

    signed: int
    passed: int
    orphaned: int
    superseded: int
    waiting: int
    oldest_waiting: datetime | None
    expired: int
    expiring: int
    expiring_days: int


def order_stands(connection: sa.Connection, scope: Scope) -> list[OrderStand]:
    """The orders that were open in the window or had a run in it, oldest first, at most 200."""
    span = scope.window.span
    mine = tally.c.order_number == orders.c.number
    passes = [mine, tally.c.outcome.in_(DONE), tally.c.at < span.end]
    until_now, in_window = _units(passes), _units([*passes, tally.c.at >= span.start])
    open_then = order_closures.c.closed_at.is_(None) | (order_closures.c.closed_at >= span.start)
    worked_on = orders.c.number.in_(sa.select(tally.c.order_number).where(*scope.rows()))
    query: Query = (
        sa.select(
            *(orders.c[name] for name in ("number", "product", "kind", "quantity")),
            until_now,
            in_window,
            orders.c.opened_at,
            order_closures.c.closed_at,
        )
        .outerjoin(order_closures, order_closures.c.order_number == orders.c.number)
        .where(orders.c.opened_at < span.end, open_then | worked_on)
        .order_by(orders.c.opened_at, orders.c.number)
        .limit(_MOST_ORDERS)
    )
    if scope.order is not None:
        query = query.where(orders.c.number == scope.order)
    return [OrderStand(*row) for row in connection.execute(query)]


def orders_shared(connection: sa.Connection, scope: Scope) -> bool:
    """Whether other stations build these orders too, and their units are not in this record."""
    return not scope.line and connection.execute(sa.select(leases.c.id).limit(1)).first() is not None


def _units(conditions: list[Condition]) -> sa.ScalarSelect[int]:
    """How many different serials. As rows that are counted, for so the index on the order gives them in their order."""
    serials = sa.select(tally.c.serial).where(*conditions, tally.c.serial.is_not(None)).distinct()
    return sa.select(sa.func.count()).select_from(serials.correlate(orders).subquery()).scalar_subquery()


def certificate_stands(connection: sa.Connection, scope: Scope, settings: Report, now: datetime) -> Certificates:
    """Count the certificates. Simulated runs have none that count."""
    real = [tally.c.simulated.is_(sa.false()), *scope.rows()]
    numbers = sa.select(uses.c.number).select_from(tally).join(uses, uses.c.run == tally.c.run)
    # One that a later run used again counts once. PostgreSQL joins in parallel, which it does not DISTINCT.
    used = numbers.where(*real, tally.c.outcome.in_(DONE))
    passed = sa.select(sa.func.count()).select_from(certificates).where(certificates.c.number.in_(used))
    superseded = outbox.c.reason == "superseded"
    ended = (
        sa.select(sa.func.count(), count_if(superseded))
        .select_from(tally)
        .join(outbox, outbox.c.run == tally.c.run)
        .where(*real)
    )
    taken_out, replaced = connection.execute(ended).one()
    waits = (
        sa.select(sa.func.count(), sa.func.min(outbox.c.at))
        .outerjoin(outbox_done, outbox_done.c.number == outbox.c.number)
        .where(outbox_done.c.number.is_(None))
    )
    waiting, oldest = connection.execute(waits).one()
    soon = now + timedelta(days=settings.expiring_days)
    return Certificates(
        signed=_signed(connection, scope),
        passed=connection.execute(passed).scalar_one(),
        orphaned=taken_out - replaced,
        superseded=replaced,
        waiting=waiting,
        oldest_waiting=oldest,
        expired=_ending(connection, now - timedelta(days=settings.expiring_days), now),
        expiring=_ending(connection, now, soon),
        expiring_days=settings.expiring_days,
    )


def _signed(connection: sa.Connection, scope: Scope) -> int:
    span = scope.window.span
    # A record is a simulation's or it is not (`Fault.SIMULATION_MIXED`), so no certificate need be asked for its run.
    made: Query = sa.select(sa.func.count()).where(
        issued.c.at >= span.start, issued.c.at < span.end, ~sa.exists().where(ledger.c.simulated.is_(sa.true()))
    )
    if scope.station is not None or scope.order is not None:
        made = made.join(certificates, certificates.c.number == issued.c.number)
        made = made.join(runs, runs.c.id == certificates.c.run)
    if scope.station is not None:
        made = made.where(runs.c.station == scope.station)
    if scope.order is not None:
        made = made.where(sa.exists().where(tally.c.run == runs.c.id, tally.c.order_number == scope.order))
    found: int = connection.execute(made).scalar_one()
    return found


def _ending(connection: sa.Connection, since: datetime, until: datetime) -> int:
    """Certificates in service that end in that time."""
    query: Query = (
        sa.select(sa.func.count())
        .select_from(issued)
        .outerjoin(outbox, outbox.c.number == issued.c.number)
        .where(issued.c.not_after >= since, issued.c.not_after < until, outbox.c.number.is_(None))
    )
    found: int = connection.execute(query).scalar_one()
    return found
