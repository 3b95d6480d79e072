"""A month that is known: plain facts in a list, and the same put on record in a ledger, straight into its tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import sqlalchemy as sa

from station.ledger import SqliteLedger, tally
from station.ledger.schema import metadata

Rows: TypeAlias = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class OrderFact:
    """An order as it is opened."""

    number: str
    kind: str = "production"
    quantity: int = 1000
    serials: tuple[str, ...] = ()
    opened_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    closed_at: datetime | None = None
    product: str = "sensor-b"


@dataclass(frozen=True)
class RunFact:
    """One closed run. ``order`` is None where it was never admitted, ``serial`` where it never said who it is.

    ``supersedes`` is the run whose certificate went out of service for this one's. Not ``revoked``: what this run put
    into the outbox is in there still.
    """

    id: str
    serial: str | None
    ended_at: datetime
    outcome: str
    fault: str | None = None
    order: str | None = "WO-1"
    kind: str = "production"
    slot: str = "1"
    station: str = "line-1"
    operator: str = "linh"
    took_s: float = 20.0
    simulated: bool = False
    detail: str = ""
    steps: tuple[tuple[str, float, str | None], ...] = field(default=())
    certified: bool = False
    life_days: int = 7300
    supersedes: str | None = None
    revoked: bool = True
    product: str = "sensor-b"

    @property
    def started_at(self) -> datetime:
        return self.ended_at - timedelta(seconds=self.took_s)

    @property
    def signed_at(self) -> datetime:
        return self.started_at + timedelta(milliseconds=sum(ms for _, ms, _ in self.steps))

    @property
    def not_after(self) -> datetime:
        return self.signed_at + timedelta(days=self.life_days)


def put(ledger: SqliteLedger, order_facts: Iterable[OrderFact], run_facts: Iterable[RunFact]) -> None:
    """Put the facts on record, as the line would have left them."""
    with ledger.store.write() as connection:
        fill(connection, order_facts, run_facts)


def fill(connection: sa.Connection, order_facts: Iterable[OrderFact], run_facts: Iterable[RunFact]) -> None:
    """The same within a transaction of SQLite or PostgreSQL."""
    rows: Rows = defaultdict(list)
    for order in order_facts:
        _order(rows, order)
    for run in run_facts:
        _run(rows, run)
    for table in metadata.sorted_tables:
        if values := rows.pop(table.name, None):
            connection.execute(sa.insert(table), values)
    tally.add_missing(connection)
    tally.add_missing_retests(connection)


def _order(rows: Rows, order: OrderFact) -> None:
    facts = {"product": order.product, "kind": order.kind, "quantity": order.quantity, "reason": ""}
    rows["orders"].append({"number": order.number, "opened_by": "linh", "opened_at": order.opened_at, **facts})
    rows["order_units"] += [{"order_number": order.number, "serial": serial} for serial in order.serials]
    if order.closed_at:
        rows["order_closures"].append({"order_number": order.number, "closed_by": "linh", "closed_at": order.closed_at})


def _run(rows: Rows, run: RunFact) -> None:
    facts = {"software": "0.1.0", "config_hash": "c", "profile_hash": "p", "token": "t"}
    names = ("slot", "operator", "product", "station", "simulated", "started_at")
    rows["runs"].append({"id": run.id, **facts, **{name: getattr(run, name) for name in names}})
    mine: dict[str, Any] = {"run": run.id, "at": run.started_at}
    if run.serial is not None:
        rows["identified"].append(
            {**mine, "serial": run.serial, "chip_id": f"C-{run.serial}", "model": "m", "firmware": "1"}
        )
    if run.order is not None:
        rows["admissions"].append({**mine, "order_number": run.order})
    at = run.started_at
    for position, (step, ms, fault) in enumerate(run.steps):
        took = {"started_at": at, "duration_ms": ms}
        rows["steps"].append({"run": run.id, "position": position, "step": step, "fault": fault, **took})
        at += timedelta(milliseconds=ms)
    if run.certified:
        _certificate(rows, run)
    if run.supersedes:
        _out(rows, run, run.supersedes, "superseded")
    end = {"run": run.id, "outcome": run.outcome, "at": run.ended_at}
    rows["closures"].append({**end, "fault": run.fault, "detail": run.detail})


def _certificate(rows: Rows, run: RunFact) -> None:
    """Signed in this run; taken out of service where the run did not pass."""
    made = {"number": run.id, "run": run.id, "at": run.signed_at}
    rows["certificates"].append(
        {**made, "serial": run.serial, "key_id": run.id, "authority": "ca", "profile_hash": "p"}
    )
    rows["uses"].append(made)
    life = {"certificate_id": run.id, "der": b"", "not_after": run.not_after}
    rows["issued"].append({"number": run.id, "at": run.signed_at, **life})
    if run.outcome not in {"PASS", "PROVISIONED"}:
        _out(rows, run, run.id, run.outcome)


def _out(rows: Rows, run: RunFact, number: str, reason: str) -> None:
    rows["outbox"].append({"number": number, "run": run.id, "reason": reason, "at": run.ended_at})
    if run.revoked:
        rows["outbox_done"].append({"number": number, "at": run.ended_at})
