"""Work orders: which unit may be built under which, and what is left of each. Within the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from station.faults import Fault, FaultError
from station.ledger.schema import (
    admissions,
    closures,
    identified,
    leases,
    live_runs,
    order_closures,
    order_units,
    orders,
    passes,
    restorations,
    tally,
)
from station.model import OrderKind, Outcome, Run, Unit, WorkOrder

# What fills an order: the units that leave the line with their certificate.
MADE = tuple(outcome.value for outcome in Outcome if outcome.made)


@dataclass(frozen=True, slots=True)
class OrderProgress:
    """A work order, and how far it is: ``passed`` counts units, not runs."""

    order: WorkOrder
    passed: int
    opened_by: str
    opened_at: datetime
    closed_at: datetime | None

    @property
    def left(self) -> int:
        """Units that may still pass."""
        return max(0, self.order.quantity - self.passed)


def add(connection: sa.Connection, order: WorkOrder, by: str) -> None:
    """Open an order. Raises `Fault.ORDER_INVALID` where its number was used before."""
    if connection.execute(sa.select(orders.c.number).where(orders.c.number == order.number)).first():
        raise FaultError(Fault.ORDER_INVALID, f"there is an order {order.number} already; a number is used once")
    if len(set(order.serials)) != len(order.serials):
        raise FaultError(Fault.ORDER_INVALID, f"order {order.number} names a serial twice")
    connection.execute(
        sa.insert(orders).values(
            number=order.number,
            product=order.product,
            kind=order.kind.value,
            quantity=order.quantity,
            reason=order.reason,
            opened_by=by,
            opened_at=datetime.now(UTC),
        )
    )
    if order.serials:
        rows = [{"order_number": order.number, "serial": serial} for serial in order.serials]
        connection.execute(sa.insert(order_units), rows)


def close(connection: sa.Connection, number: str, by: str) -> None:
    """Close an order. Raises `Fault.NO_ORDER` where there is none, `Fault.ORDER_INVALID` where it is closed."""
    if not connection.execute(sa.select(orders.c.number).where(orders.c.number == number)).first():
        raise FaultError(Fault.NO_ORDER, f"there is no order {number}")
    if connection.execute(sa.select(order_closures).where(order_closures.c.order_number == number)).first():
        raise FaultError(Fault.ORDER_INVALID, f"order {number} is closed already")
    connection.execute(sa.insert(order_closures).values(order_number=number, closed_by=by, closed_at=datetime.now(UTC)))


def progress(connection: sa.Connection, *, only_open: bool = False, product: str | None = None) -> list[OrderProgress]:
    """The orders, oldest first."""
    passed = (
        sa.select(sa.func.count(sa.distinct(tally.c.serial)))
        .where(tally.c.order_number == orders.c.number, tally.c.outcome.in_(MADE))
        .scalar_subquery()
    )
    query = (
        sa.select(orders, order_closures.c.closed_at, passed.label("passed"))
        .outerjoin(order_closures, order_closures.c.order_number == orders.c.number)
        .order_by(orders.c.opened_at, orders.c.number)
    )
    if only_open:
        query = query.where(order_closures.c.order_number.is_(None))
    if product is not None:
        query = query.where(orders.c.product == product)
    return [_progress(connection, row) for row in connection.execute(query)]


def _progress(connection: sa.Connection, row: sa.Row[tuple[object, ...]]) -> OrderProgress:
    found = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for it
    kind = OrderKind(found["kind"])
    serials: tuple[str, ...] = ()
    if kind is not OrderKind.PRODUCTION:
        named = sa.select(order_units.c.serial).where(order_units.c.order_number == found["number"])
        serials = tuple(connection.execute(named.order_by(order_units.c.serial)).scalars())
    order = WorkOrder(found["number"], found["product"], kind, found["quantity"], serials, found["reason"])
    return OrderProgress(order, found["passed"], found["opened_by"], found["opened_at"], found["closed_at"])


def next_open(connection: sa.Connection, *, in_line: bool = False) -> WorkOrder | None:
    """The oldest open order with units left to build; a golden one only where there is no other.

    In a line those of which this station holds a share come first.
    """
    left = progress(connection, only_open=True)
    if in_line:
        left.sort(key=lambda found: not _leased_left(connection, found))
    work = [found.order for found in left if found.order.kind is not OrderKind.GOLDEN and found.left]
    golden = [found.order for found in left if found.order.kind is OrderKind.GOLDEN]
    return next(iter([*work, *golden]), None)


def left_here(connection: sa.Connection, found: OrderProgress) -> int:
    """What this station may still pass of its share of an order; negative where it had passed more before its share.

    A unit that it passed before a backup was restored counts too: the line knows of it (`station.ledger.line.pull`).
    Until the line told, nothing is left.
    """
    number = found.order.number
    share = sa.select(sa.func.coalesce(sa.func.sum(leases.c.quantity), 0)).where(leases.c.order_number == number)
    mine = sa.select(leases.c.station).where(leases.c.order_number == number)
    lost = sa.select(sa.func.count(sa.distinct(passes.c.serial))).where(
        passes.c.order_number == number, passes.c.station.in_(mine)
    )
    leased: int = connection.execute(share).scalar_one()
    before: int = connection.execute(lost).scalar_one()
    left = leased - before - found.passed
    return min(0, left) if untold(connection) else left


def untold(connection: sa.Connection) -> bool:
    """Whether a backup was restored here, or a record begun, and the line did not tell since what that lost."""
    told: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    return _restored(connection) > told


def note_told(connection: sa.Connection) -> None:
    """The line told everything that it knows of this station's past.

    SQLite keeps the number in the file's header, within the transaction, and a backup takes it along: an older one has
    an older number.
    """
    connection.exec_driver_sql(f"PRAGMA user_version = {_restored(connection)}")


def _restored(connection: sa.Connection) -> int:
    newest: int | None = connection.execute(sa.select(sa.func.max(restorations.c.id))).scalar()
    return newest or 0


def left_by_order(connection: sa.Connection) -> tuple[tuple[str, int], ...]:
    """For each open production order that is not done, the units that this station may still pass by itself."""
    return tuple(
        (found.order.number, max(0, min(left_here(connection, found), found.left)))
        for found in progress(connection, only_open=True)
        if found.order.kind is OrderKind.PRODUCTION and found.left
    )


def _leased_left(connection: sa.Connection, found: OrderProgress) -> bool:
    return found.order.kind is not OrderKind.PRODUCTION or left_here(connection, found) > 0


def admitting(connection: sa.Connection, run: Run, unit: Unit, *, in_line: bool = False) -> WorkOrder:
    """The open order that ``unit`` is built under.

    Raises:
        FaultError: `NO_ORDER`, `ORDER_FULL`, `ALREADY_PASSED` or `NEVER_PASSED`; in a line `LEASE_SPENT` too.
    """
    candidates = progress(connection, only_open=True, product=run.product.name)
    # The order that the slot saw comes first; a lot that names this very unit comes before all.
    candidates.sort(key=lambda found: found.order.number != run.order.number)
    for found in candidates:
        if unit.serial in found.order.serials and _still_wanted(connection, found, unit):
            return found.order
    production = [found for found in candidates if found.order.kind is OrderKind.PRODUCTION]
    if not production:
        raise FaultError(Fault.NO_ORDER, f"no open order for {run.product.name} admits {unit.serial}")
    if _passed(connection, unit.serial):
        raise FaultError(Fault.ALREADY_PASSED, f"{unit.serial} has passed before{_where(connection, unit.serial)}")
    open_ones = []
    for found in production:
        busy = running(connection, found.order.number, but=run.id)
        if found.passed + busy < found.order.quantity:
            if not in_line or left_here(connection, found) > busy:
                return found.order
            open_ones.append(found.order.number)
    if open_ones:
        if untold(connection):
            lost = "a backup was restored here: nothing is built until the line has told what that lost"
            raise FaultError(Fault.LEASE_SPENT, lost)
        raise FaultError(Fault.LEASE_SPENT, f"this station's share of {', '.join(open_ones)} is built")
    numbers = ", ".join(found.order.number for found in production)
    raise FaultError(Fault.ORDER_FULL, f"all units of {numbers} have passed or are running")


def _still_wanted(connection: sa.Connection, found: OrderProgress, unit: Unit) -> bool:
    if found.order.kind is OrderKind.GOLDEN:
        return True
    if not _passed(connection, unit.serial):
        raise FaultError(Fault.NEVER_PASSED, f"{unit.serial} has never passed; order {found.order.number} is rework")
    return not _passed(connection, unit.serial, under=found.order.number)


def _passed(connection: sa.Connection, serial: str, under: str | None = None) -> bool:
    """Whether the unit has passed here or elsewhere, in a production or rework order or in the one named."""
    query = (
        sa.select(sa.literal(1))
        .select_from(identified)
        .join(admissions, admissions.c.run == identified.c.run)
        .join(closures, closures.c.run == identified.c.run)
        .join(orders, orders.c.number == admissions.c.order_number)
        .where(
            identified.c.serial == serial,
            closures.c.outcome.in_(MADE),
            orders.c.kind != OrderKind.GOLDEN.value,
        )
    )
    elsewhere = sa.select(sa.literal(1)).where(passes.c.serial == serial)
    if under is not None:
        query = query.where(orders.c.number == under)
        elsewhere = elsewhere.where(passes.c.order_number == under)
    return any(connection.execute(one.limit(1)).first() for one in (query, elsewhere))


def _where(connection: sa.Connection, serial: str) -> str:
    """At which other station a unit passed, for the one who asks why it is refused."""
    found = sa.select(passes.c.station).where(passes.c.serial == serial).order_by(passes.c.at.desc()).limit(1)
    station = connection.execute(found).scalar()
    return f" at {station}" if station else ""


def running(connection: sa.Connection, number: str, *, but: str = "") -> int:
    """How many runs are under an order at this moment, except one."""
    query = (
        sa.select(sa.func.count())
        .select_from(live_runs)
        .join(admissions, admissions.c.run == live_runs.c.run)
        .where(admissions.c.order_number == number, live_runs.c.run != but)
    )
    return connection.execute(query).scalar_one()
