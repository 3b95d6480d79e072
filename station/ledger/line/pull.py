"""What a station learns from the line: orders, who passed elsewhere, clashes, and its blocks of the orders."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
import structlog

from station.faults import Fault, FaultError
from station.ledger import orders, schema
from station.ledger.line.server import LineServer
from station.ledger.store import Store
from station.model import OrderKind, WorkOrder

_ROWS_A_PULL: Final = 500
_line_passes = sa.table("line_passes", *(sa.column(column.name, column.type) for column in schema.passes.columns))
_sources = sa.table("line_sources", sa.column("station", sa.Text), sa.column("epoch", sa.Text))

log = structlog.get_logger()


def pull_orders(server: sa.Connection, store: Store) -> frozenset[str]:
    """Take over the orders that are open on the line, and close those that are closed there.

    Returns:
        The numbers under which the line knows another order than this station: nothing is leased of those.
    """
    # Of the open ones alone, there and here: all that there ever were are more than a statement takes parameters.
    closed = schema.order_closures
    still_open = sa.select(schema.orders).where(~sa.exists().where(closed.c.order_number == schema.orders.c.number))
    open_there = {row["number"]: dict(row) for row in server.execute(still_open).mappings()}
    with store.read() as connection:
        open_here = {row.number: row for row in connection.execute(still_open)}
        among = sa.select(schema.orders.c.number).where(schema.orders.c.number.in_(list(open_there)))
        known = set(connection.execute(among).scalars())
    fresh = [row for number, row in open_there.items() if number not in known]
    named = sa.select(schema.order_units).where(schema.order_units.c.order_number.in_([row["number"] for row in fresh]))
    units = [dict(row) for row in server.execute(named).mappings()] if fresh else []
    fresh = [row for row in fresh if _workable(row, units)]
    numbers = {row["number"] for row in fresh}
    units = [row for row in units if row["order_number"] in numbers]
    over = sa.select(closed).where(closed.c.order_number.in_(sorted(open_here)))
    endings = [dict(row) for row in server.execute(over).mappings()]
    if endings:
        _tell_closed(server, {row["order_number"]: row["closed_by"] for row in endings})
    twofold = _twofold(server, open_here)
    if not (fresh or endings):
        return twofold
    with store.write() as connection:
        for table, rows in ((schema.orders, fresh), (schema.order_units, units), (closed, endings)):
            new = [row for row in rows if not _there(connection, table, row)]
            if new:
                connection.execute(sa.insert(table), new)
    return twofold


def _workable(row: Mapping[str, Any], units: list[dict[str, Any]]) -> bool:
    """Whether it is an order by our own rules: a long lot may not be there whole yet, and a login may add anything."""
    serials = tuple(unit["serial"] for unit in units if unit["order_number"] == row["number"])
    try:
        WorkOrder(row["number"], row["product"], OrderKind(row["kind"]), row["quantity"], serials, row["reason"])
    except (FaultError, ValueError) as error:
        log.warning("an order of the line is left out", order=row["number"], why=str(error))
        return False
    return True


def _tell_closed(server: sa.Connection, by: Mapping[str, str]) -> None:
    """Whose name is on a closure a station may write as it likes; which station it was it may not."""
    acts = sa.text("SELECT order_number, station FROM line_acts WHERE act = 'closed' AND order_number = ANY(:numbers)")
    at = {row.order_number: row.station for row in server.execute(acts, {"numbers": list(by)})}
    for number, name in sorted(by.items()):
        log.warning("an order was closed on another station", order=number, station=at.get(number, "?"), by=name)


def _twofold(server: sa.Connection, open_here: Mapping[str, sa.Row[Any]]) -> frozenset[str]:
    there = sa.select(schema.orders).where(schema.orders.c.number.in_(sorted(open_here)))
    found = {
        row.number
        for row in server.execute(there)
        if (row.product, row.kind, row.quantity)
        != (open_here[row.number].product, open_here[row.number].kind, open_here[row.number].quantity)
    }
    for number in sorted(found):
        log.error("another station opened another order under this number", order=number)
    return frozenset(found)


def _there(connection: sa.Connection, table: sa.Table, row: dict[str, Any]) -> bool:
    keys = [column == row[column.name] for column in table.primary_key.columns]
    return connection.execute(sa.select(sa.literal(1)).select_from(table).where(*keys)).first() is not None


def pull_passes(server: sa.Connection, store: Store, station: str, epoch: str) -> int:
    """Learn who passed elsewhere since the last time; return how many were new.

    Each station's passes come in the order in which it pushed them, so one mark a station and epoch is enough.
    """
    learned = 0
    for other, its_epoch in server.execute(sa.select(_sources.c.station, _sources.c.epoch)).all():
        if (other, its_epoch) != (station, epoch):
            learned += _passes_of(server, store, other, its_epoch)
    return learned


def _passes_of(server: sa.Connection, store: Store, station: str, epoch: str) -> int:
    here, there, learned = schema.passes.c, _line_passes.c, 0
    with store.read() as connection:
        known = sa.select(here.seq, here.run).where(here.station == station, here.epoch == epoch)
        last = connection.execute(known.order_by(here.seq.desc(), here.run.desc()).limit(1)).first()
    mark = (last.seq, last.run) if last else (-1, "")
    while True:
        query = sa.select(_line_passes).where(
            there.station == station, there.epoch == epoch, sa.tuple_(there.seq, there.run) > mark
        )
        rows = server.execute(query.order_by(there.seq, there.run).limit(_ROWS_A_PULL)).mappings()
        found = [dict(row) for row in rows]
        if not found:
            return learned
        with store.write() as connection:
            new = [row for row in found if not _known(connection, row["run"])]
            if new:
                connection.execute(sa.insert(schema.passes), new)
        learned += len(new)
        mark = (found[-1]["seq"], found[-1]["run"])


def _known(connection: sa.Connection, run: str) -> bool:
    """Whether the run is this ledger's own, or was learned before."""
    return any(
        connection.execute(sa.select(sa.literal(1)).where(column == run)).first()
        for column in (schema.passes.c.run, schema.runs.c.id)
    )


def recall(server: sa.Connection, store: Store) -> None:
    """After a restore: let go out of service what was to go when the disk was lost, and is unknown here.

    The last of what the line knows of this station's past: from here on it may build again.
    """
    with store.read() as connection:
        if not orders.untold(connection):
            return
        known = set(connection.execute(sa.select(schema.outbox.c.number)).scalars())
    done = sa.exists().where(schema.outbox_done.c.number == schema.outbox.c.number)
    waits = [row for row in server.execute(sa.select(schema.outbox).where(~done)) if row.number not in known]
    lost = [(row, _lost(server, store, row.number, row.run)) for row in waits]
    with store.write() as connection:
        for row, rows in lost:
            _take_back(connection, rows)
            _retire(connection, row.number, row.run, row.reason)
        orders.note_told(connection)


def _lost(server: sa.Connection, store: Store, number: str, run: str) -> list[tuple[sa.Table, dict[str, Any]]]:
    """Of a certificate that was lost here with the disk, what the outbox needs: the line has it."""
    with store.read() as connection:
        if _there(connection, schema.issued, {"number": number}):
            return []
    made = sa.select(schema.certificates.c.run).where(schema.certificates.c.number == number)
    runs = sorted({run, *server.execute(made).scalars()})
    wanted = (
        (schema.runs, schema.runs.c.id.in_(runs)),
        (schema.closures, schema.closures.c.run.in_(runs)),
        (schema.certificates, schema.certificates.c.number == number),
        (schema.issued, schema.issued.c.number == number),
    )
    return [(table, dict(row)) for table, of in wanted for row in server.execute(sa.select(table).where(of)).mappings()]


def _take_back(connection: sa.Connection, lost: list[tuple[sa.Table, dict[str, Any]]]) -> None:
    live = schema.live_certificates
    for table, row in lost:
        if not _there(connection, table, row):
            connection.execute(sa.insert(table).values(**row))
            if table is schema.certificates:  # as when it was signed: no older one of its unit is live
                connection.execute(sa.delete(live).where(live.c.serial == row["serial"]))


def pull_clashes(server: sa.Connection, store: Store, station: str) -> list[dict[str, Any]]:
    """Learn of clashes, and take the certificate of this station's run out of service where that came later."""
    with store.read() as connection:
        seen = set(connection.execute(sa.select(schema.clashes.c.id)).scalars())
    found = [dict(row) for row in server.execute(sa.select(schema.clashes)).mappings()]
    new = [row for row in found if row["id"] not in seen]
    for row in new:
        mine = row["later_station"] == station
        lost = _lost(server, store, row["number"], row["later_run"]) if mine else []
        with store.write() as connection:
            connection.execute(sa.insert(schema.clashes).values(**row))
            if mine:
                _take_back(connection, lost)
                _retire(connection, row["number"], row["later_run"], "clash")
        log.error(
            "a unit clashes with another station's",
            what=row["kind"],
            value=row["value"],
            earlier=row["earlier_station"],
            later=row["later_station"],
        )
    return new


def _retire(connection: sa.Connection, number: str, run: str, reason: str) -> None:
    """As a run that did not pass would have its certificate retired; the outbox tells the cloud."""
    connection.execute(sa.delete(schema.live_certificates).where(schema.live_certificates.c.number == number))
    signed = connection.execute(sa.select(schema.issued.c.number).where(schema.issued.c.number == number)).first()
    waits = connection.execute(sa.select(schema.outbox.c.number).where(schema.outbox.c.number == number)).first()
    if signed and not waits:
        row = {"number": number, "run": run, "reason": reason, "at": datetime.now(UTC)}
        connection.execute(sa.insert(schema.outbox).values(**row))


def pull_leases(server: sa.Connection, store: Store, station: str) -> None:
    """Take over what the line has of this station's own leases and this ledger has not: a backup was restored here.

    Without them the station would build what it gave back after the backup, and another station had built since.
    """
    mine, closed = schema.leases.c, schema.order_closures
    with store.read() as connection:
        known = set(connection.execute(sa.select(mine.id)).scalars())
        over = sa.select(closed.c.order_number)
        numbers = connection.execute(sa.select(schema.orders.c.number).where(schema.orders.c.number.not_in(over)))
        open_here = list(numbers.scalars())
    there = sa.select(schema.leases).where(mine.station == station, mine.order_number.in_(open_here))
    lost = [dict(row) for row in server.execute(there).mappings() if row["id"] not in known]
    if lost:
        with store.write() as connection:
            connection.execute(sa.insert(schema.leases), lost)


def lease(server: LineServer, store: Store, station: str, block: int, but: frozenset[str] = frozenset()) -> None:
    """Hold a block of each open production order ahead of what is built, as far as the line has any left.

    Args:
        server: the line's.
        store: the station's.
        station: its name.
        block: how many units ahead.
        but: orders of which nothing is leased.

    The server gives and commits first, only then this ledger notes it. An answer that is lost is given again: the id
    of a lease counts this station's leases of the order that are on record here.
    """
    with store.read() as connection:
        wanted = [
            (found.order.number, _count(connection, found.order.number), orders.left_here(connection, found))
            for found in orders.progress(connection, only_open=True)
            if found.order.kind is OrderKind.PRODUCTION
            and found.order.number not in but
            and not _given_up(connection, found.order)
        ]
    for number, count, left in wanted:
        # Topped up when half is used: not a request for each unit.
        if left > block // 2:
            continue
        name = f"{station}/{number}/{count + 1}"
        ask = sa.text("SELECT quantity, at FROM line_lease(:name, :number, :want)")
        with server.transaction() as there:
            given = there.execute(ask, {"name": name, "number": number, "want": block - min(left, 0)}).one()
        if given.quantity is not None:
            with store.write() as connection:
                row = {"id": name, "station": station, "order_number": number, "quantity": given.quantity}
                connection.execute(sa.insert(schema.leases).values(**row, at=datetime.fromisoformat(given.at)))


def _given_up(connection: sa.Connection, order: WorkOrder) -> bool:
    """Whether the station gave its rest of the order back, and nobody wanted to build of it here since."""
    held = connection.execute(sa.select(schema.leases).where(schema.leases.c.order_number == order.number)).all()
    # By the count in its name: the server gives, this station gives back, and their clocks may be apart.
    last = max(held, key=lambda row: (int(row.id.split("/")[2]), row.quantity < 0), default=None)
    if last is None or last.quantity > 0:
        return False
    refused = (
        sa.select(sa.literal(1))
        .select_from(schema.closures.join(schema.runs, schema.runs.c.id == schema.closures.c.run))
        .where(
            schema.closures.c.fault == Fault.LEASE_SPENT.code,
            schema.closures.c.at > last.at,
            schema.runs.c.product == order.product,
        )
    )
    return connection.execute(refused.limit(1)).first() is None


def give_back(store: Store, station: str, number: str) -> int:
    """Give what is left here of an order back to the line; `station.ledger.line.push` tells the server.

    Written here first: from this moment on the station builds no more of it, whatever the network does. It asks for a
    share again once a unit was refused here for want of one.

    Returns:
        How many units; runs that are under way keep theirs.
    """
    with store.write() as connection:
        held = [found for found in orders.progress(connection, only_open=True) if found.order.number == number]
        left = orders.left_here(connection, held[0]) - orders.running(connection, number) if held else 0
        if left > 0:
            # Never the name of a share: the server may be giving the next one at this moment.
            name = f"{station}/{number}/{_count(connection, number) + 1}/back"
            row = {"id": name, "station": station, "order_number": number, "quantity": -left}
            connection.execute(sa.insert(schema.leases).values(**row, at=datetime.now(UTC)))
        return max(0, left)


def _count(connection: sa.Connection, number: str) -> int:
    query = sa.select(sa.func.count()).select_from(schema.leases).where(schema.leases.c.order_number == number)
    return connection.execute(query).scalar_one()
