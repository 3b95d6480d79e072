"""The tables. A record is only ever added to; two working tables hold what is locked and live at this moment.

Every time is UTC, ISO 8601 with microseconds, as text: the same in SQLite, in PostgreSQL and to an auditor's eye.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()


class UtcTime(sa.TypeDecorator[datetime]):
    """An aware UTC time as ISO 8601 text, so that text order is time order."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        """To text."""
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 - as above
        """From text."""
        return None if value is None else datetime.fromisoformat(value)


def _text(name: str, *more: Any, null: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, *more, nullable=null, primary_key=key)


def _at(name: str = "at") -> sa.Column[datetime]:
    return sa.Column(name, UtcTime, nullable=False)


ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("simulated", sa.Boolean, nullable=False),
    _at("made_at"),
)
orders = sa.Table(
    "orders",
    metadata,
    _text("number", key=True),
    _text("product"),
    _text("kind"),
    sa.Column("quantity", sa.Integer, nullable=False),
    _text("reason"),
    _text("opened_by"),
    _at("opened_at"),
)
order_units = sa.Table(
    "order_units",
    metadata,
    _text("order_number", sa.ForeignKey("orders.number"), key=True),
    _text("serial", key=True),
    sa.Index("order_units_serial", "serial"),
)
order_closures = sa.Table(
    "order_closures",
    metadata,
    _text("order_number", sa.ForeignKey("orders.number"), key=True),
    _text("closed_by"),
    _at("closed_at"),
)
runs = sa.Table(
    "runs",
    metadata,
    _text("id", key=True),
    _text("slot"),
    _text("operator"),
    _text("product"),
    _text("station"),
    _text("software"),
    _text("config_hash"),
    _text("profile_hash"),
    _text("token"),
    sa.Column("simulated", sa.Boolean, nullable=False),
    _at("started_at"),
)
identified = sa.Table(
    "identified",
    metadata,
    _text("run", sa.ForeignKey("runs.id"), key=True),
    _text("serial"),
    _text("chip_id"),
    _text("model"),
    _text("firmware"),
    _at(),
    sa.Index("identified_serial", "serial"),
)
admissions = sa.Table(
    "admissions",
    metadata,
    _text("run", sa.ForeignKey("runs.id"), key=True),
    _text("order_number", sa.ForeignKey("orders.number")),
    _at(),
    sa.Index("admissions_order", "order_number"),
)
identities = sa.Table(
    "identities",
    metadata,
    _text("serial", key=True),
    sa.Column("chip_id", sa.Text, nullable=False, unique=True),
    _text("run", sa.ForeignKey("runs.id")),
    _at(),
)
steps = sa.Table(
    "steps",
    metadata,
    _text("run", sa.ForeignKey("runs.id"), key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    _text("step"),
    _at("started_at"),
    sa.Column("duration_ms", sa.Float, nullable=False),
    _text("fault", null=True),
)
certificates = sa.Table(
    "certificates",
    metadata,
    _text("number", key=True),
    _text("run", sa.ForeignKey("runs.id")),
    _text("serial"),
    _text("key_id"),
    _text("authority"),
    _text("profile_hash"),
    _at(),
    sa.Index("certificates_serial", "serial"),
)
uses = sa.Table(
    "uses",
    metadata,
    _text("run", sa.ForeignKey("runs.id"), key=True),
    _text("number", sa.ForeignKey("certificates.number"), key=True),
    _at(),
)
issued = sa.Table(
    "issued",
    metadata,
    _text("number", sa.ForeignKey("certificates.number"), key=True),
    _text("certificate_id"),
    sa.Column("der", sa.LargeBinary, nullable=False),
    _at("not_after"),
    _at(),
    sa.Index("issued_at", "at"),
    sa.Index("issued_not_after", "not_after"),
)
closures = sa.Table(
    "closures",
    metadata,
    _text("run", sa.ForeignKey("runs.id"), key=True),
    _text("outcome"),
    _text("fault", null=True),
    _text("detail"),
    _at(),
)
_FAULTY = sa.text("fault IS NOT NULL")
tally = sa.Table(
    "tally",
    metadata,
    _text("run", sa.ForeignKey("runs.id"), key=True),
    _at(),
    _at("started_at"),
    *(_text(name) for name in ("station", "slot", "operator", "product")),
    _text("order_number", null=True),
    _text("kind"),
    _text("serial", null=True),
    _text("outcome"),
    _text("fault", null=True),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("duration_ms", sa.Float, nullable=False),
    sa.Index("tally_at", "at"),
    sa.Index("tally_serial", "serial", "at", "run"),
    sa.Index("tally_order", "order_number", "serial", "outcome", "at"),
    sa.Index("tally_fault", "fault", "outcome", "at", sqlite_where=_FAULTY, postgresql_where=_FAULTY),
)
# Counted runs that were not their unit's first, by kind of order: few, so that a report need not ask of each run.
retests = sa.Table(
    "retests",
    metadata,
    _text("run", sa.ForeignKey("runs.id"), key=True),
    _at(),
    *(_text(name) for name in ("serial", "kind", "outcome", "station", "slot")),
    sa.Index("retests_serial", "serial"),
)
proofs = sa.Table("proofs", metadata, _text("run", sa.ForeignKey("runs.id"), key=True), _text("key"))
transcripts = sa.Table(
    "transcripts",
    metadata,
    _text("run", sa.ForeignKey("runs.id"), key=True),
    sa.Column("packed", sa.LargeBinary, nullable=False),
)
outbox = sa.Table(
    "outbox",
    metadata,
    _text("number", sa.ForeignKey("issued.number"), key=True),
    _text("run", sa.ForeignKey("runs.id")),
    _text("reason"),
    _at(),
    sa.Index("outbox_run", "run"),
)
outbox_attempts = sa.Table(
    "outbox_attempts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    _text("number", sa.ForeignKey("outbox.number")),
    _text("fault"),
    _text("detail"),
    _at(),
)
outbox_done = sa.Table(
    "outbox_done",
    metadata,
    _text("number", sa.ForeignKey("outbox.number"), key=True),
    _at(),
)
ceremonies = sa.Table(
    "ceremonies",
    metadata,
    _text("id", key=True),
    *(_text(name) for name in ("act", "file_hash", "performed_by", "software", "minutes_hash", "seal", "ca")),
    _at("began_at"),
    _at("ended_at"),
)

# The proof. Each link covers the rows that one transaction added (`station.ledger.chain`).
chain = sa.Table(
    "chain",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    _text("at"),
    _text("rows"),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
# The link that was last when a day was over, signed by the seal where the station has one.
heads = sa.Table(
    "heads",
    metadata,
    _text("day", key=True),
    _text("station"),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    _at(),
    _text("seal", null=True),
    sa.Column("signature", sa.LargeBinary),
)
# Each time a backup took the ledger's place: ``seq`` is the last link that it had.
restorations = sa.Table(
    "restorations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("seq", sa.Integer, nullable=False),
    _text("restored_by"),
    _at(),
)

# A line of stations. On PostgreSQL these hold every station's rows; here, what the last sync told this one.
leases = sa.Table(
    "leases",
    metadata,
    _text("id", key=True),
    _text("station"),
    _text("order_number", sa.ForeignKey("orders.number")),
    sa.Column("quantity", sa.Integer, nullable=False),
    _at(),
    sa.Index("leases_order", "order_number"),
)
passes = sa.Table(
    "passes",
    metadata,
    _text("run", key=True),
    _text("station"),
    _text("epoch"),
    sa.Column("seq", sa.Integer, nullable=False),
    *(_text(name) for name in ("serial", "chip_id", "key_id", "number", "order_number", "kind")),
    _at(),
    sa.Index("passes_serial", "serial"),
    sa.Index("passes_chip", "chip_id"),
    sa.Index("passes_key", "key_id"),
    sa.Index("passes_seq", "station", "epoch", "seq"),
)
clashes = sa.Table(
    "clashes",
    metadata,
    _text("id", key=True),
    *(_text(name) for name in ("kind", "value", "earlier_run", "earlier_station", "later_run", "later_station")),
    _text("number"),
    _at(),
)

# Working tables: the present, not the record. Their constraints are the rules, whoever writes.
live_runs = sa.Table(
    "live_runs",
    metadata,
    _text("run", sa.ForeignKey("runs.id"), key=True),
    sa.Column("serial", sa.Text, nullable=False, unique=True),
    sa.Column("chip_id", sa.Text, nullable=False, unique=True),
)
live_certificates = sa.Table(
    "live_certificates",
    metadata,
    _text("serial", key=True),
    sa.Column("key_id", sa.Text, nullable=False, unique=True),
    sa.Column("number", sa.Text, sa.ForeignKey("certificates.number"), nullable=False, unique=True),
)
# What the feed last told the provider of each certificate (`station.ledger.feed`).
live_feed = sa.Table(
    "live_feed",
    metadata,
    _text("number", sa.ForeignKey("issued.number"), key=True),
    _text("state"),
    sa.Column("seq", sa.Integer, nullable=False, unique=True),
    sa.Column("line", sa.LargeBinary, nullable=False),
    _at("expires_at"),
    sa.Column("sent", sa.Boolean, nullable=False),
    sa.Index("live_feed_state", "state"),
    sa.Index("live_feed_unsent", "sent", "seq"),
)
