"""A line of stations: what a station leased, what passed elsewhere, which units clash.

On PostgreSQL the tables are every station's together. A serial that two stations tied to two chips must find room
there, for it is to be named: what is unique on one station is not so on the line.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from station.ledger.migrations.closing import close

revision = "0006"
down_revision = "0005"


def _text(name: str, *more: sa.ForeignKey, null: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, *more, nullable=null, primary_key=key)


def upgrade() -> None:
    """Make the tables; on PostgreSQL give three of the older ones keys that hold across stations."""
    op.create_table(
        "leases",
        _text("id", key=True),
        _text("station"),
        _text("order_number", sa.ForeignKey("orders.number")),
        sa.Column("quantity", sa.Integer, nullable=False),
        _text("at"),
    )
    op.create_index("leases_order", "leases", ["order_number"])
    op.create_table(
        "passes",
        _text("run", key=True),
        _text("station"),
        _text("epoch"),
        sa.Column("seq", sa.Integer, nullable=False),
        *(_text(name) for name in ("serial", "chip_id", "key_id", "number", "order_number", "kind", "at")),
    )
    op.create_index("passes_serial", "passes", ["serial"])
    op.create_index("passes_chip", "passes", ["chip_id"])
    op.create_index("passes_key", "passes", ["key_id"])
    op.create_index("passes_seq", "passes", ["station", "epoch", "seq"])
    names = ("kind", "value", "earlier_run", "earlier_station", "later_run", "later_station", "number", "at")
    op.create_table("clashes", _text("id", key=True), *(_text(name) for name in names))
    if op.get_bind().dialect.name == "sqlite":
        close("leases", ("id",))
        close("passes", ("run",))
        close("clashes", ("id",))
        return
    op.drop_constraint("identities_pkey", "identities")
    op.drop_constraint("identities_chip_id_key", "identities")
    op.create_primary_key("identities_pkey", "identities", ["run"])
    op.create_index("identities_serial", "identities", ["serial"])
    op.drop_constraint("outbox_attempts_pkey", "outbox_attempts")
    op.create_primary_key("outbox_attempts_pkey", "outbox_attempts", ["number", "id"])
    op.drop_constraint("heads_pkey", "heads")
    op.create_primary_key("heads_pkey", "heads", ["station", "day"])
