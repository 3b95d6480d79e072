"""The base: orders, runs, certificates, the outbox; append-only by triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from station.ledger.migrations.closing import close

revision = "0001"
down_revision = None


def _text(
    name: str, *more: sa.ForeignKey, null: bool = False, key: bool = False, unique: bool = False
) -> sa.Column[str]:
    return sa.Column(name, sa.Text, *more, nullable=null, primary_key=key, unique=unique or None)


def _of(target: str) -> sa.ForeignKey:
    return sa.ForeignKey(target)


def upgrade() -> None:
    """Make every table, then close the record's to changes."""
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("simulated", sa.Boolean, nullable=False),
        _text("made_at"),
    )
    op.create_table(
        "orders",
        _text("number", key=True),
        _text("product"),
        _text("kind"),
        sa.Column("quantity", sa.Integer, nullable=False),
        _text("reason"),
        _text("opened_by"),
        _text("opened_at"),
    )
    op.create_table("order_units", _text("order_number", _of("orders.number"), key=True), _text("serial", key=True))
    op.create_table(
        "order_closures", _text("order_number", _of("orders.number"), key=True), _text("closed_by"), _text("closed_at")
    )
    _make_runs()
    _make_certificates()
    op.create_table(
        "live_runs",
        _text("run", _of("runs.id"), key=True),
        _text("serial", unique=True),
        _text("chip_id", unique=True),
    )
    op.create_table(
        "live_certificates",
        _text("serial", key=True),
        _text("key_id", unique=True),
        _text("number", _of("certificates.number"), unique=True),
    )
    for table, keys in _RECORD.items():
        close(table, *keys)


def _make_runs() -> None:
    names = ("slot", "operator", "product", "station", "software", "config_hash", "profile_hash", "token")
    op.create_table(
        "runs",
        _text("id", key=True),
        *(_text(name) for name in names),
        sa.Column("simulated", sa.Boolean, nullable=False),
        _text("started_at"),
    )
    op.create_table(
        "identified",
        _text("run", _of("runs.id"), key=True),
        *(_text(name) for name in ("serial", "chip_id", "model", "firmware", "at")),
    )
    op.create_index("identified_serial", "identified", ["serial"])
    op.create_table(
        "admissions",
        _text("run", _of("runs.id"), key=True),
        _text("order_number", _of("orders.number")),
        _text("at"),
    )
    op.create_index("admissions_order", "admissions", ["order_number"])
    op.create_table(
        "identities",
        _text("serial", key=True),
        _text("chip_id", unique=True),
        _text("run", _of("runs.id")),
        _text("at"),
    )
    op.create_table(
        "steps",
        _text("run", _of("runs.id"), key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        _text("step"),
        _text("started_at"),
        sa.Column("duration_ms", sa.Float, nullable=False),
        _text("fault", null=True),
    )
    op.create_table(
        "closures",
        _text("run", _of("runs.id"), key=True),
        _text("outcome"),
        _text("fault", null=True),
        _text("detail"),
        _text("at"),
    )


def _make_certificates() -> None:
    op.create_table(
        "certificates",
        _text("number", key=True),
        _text("run", _of("runs.id")),
        *(_text(name) for name in ("serial", "key_id", "authority", "profile_hash", "at")),
    )
    op.create_index("certificates_serial", "certificates", ["serial"])
    op.create_table(
        "uses",
        _text("run", _of("runs.id"), key=True),
        _text("number", _of("certificates.number"), key=True),
        _text("at"),
    )
    op.create_table(
        "issued",
        _text("number", _of("certificates.number"), key=True),
        _text("certificate_id"),
        sa.Column("der", sa.LargeBinary, nullable=False),
        _text("not_after"),
        _text("at"),
    )
    op.create_table(
        "outbox",
        _text("number", _of("issued.number"), key=True),
        _text("run", _of("runs.id")),
        _text("reason"),
        _text("at"),
    )
    op.create_table(
        "outbox_attempts",
        sa.Column("id", sa.Integer, primary_key=True),
        _text("number", _of("outbox.number")),
        *(_text(name) for name in ("fault", "detail", "at")),
    )
    op.create_table("outbox_done", _text("number", _of("outbox.number"), key=True), _text("at"))


# Each record's keys: its primary key, and what else is unique.
_RECORD: dict[str, tuple[tuple[str, ...], ...]] = {
    "ledger": (("id",),),
    "orders": (("number",),),
    "order_units": (("order_number", "serial"),),
    "order_closures": (("order_number",),),
    "runs": (("id",),),
    "identified": (("run",),),
    "admissions": (("run",),),
    "identities": (("serial",), ("chip_id",)),
    "steps": (("run", "position"),),
    "certificates": (("number",),),
    "uses": (("run", "number"),),
    "issued": (("number",),),
    "closures": (("run",),),
    "outbox": (("number",),),
    "outbox_attempts": (("id",),),
    "outbox_done": (("number",),),
}
