"""The tally: one narrow row a closed run, and the indexes by which a report reads no more than its days."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from station.ledger.tally import add_missing

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table, fill it from what is on record, then close it to changes."""
    named = ("at", "started_at", "station", "slot", "operator", "product")
    op.create_table(
        "tally",
        sa.Column("run", sa.Text, sa.ForeignKey("runs.id"), primary_key=True, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in named),
        sa.Column("order_number", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("serial", sa.Text),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("fault", sa.Text),
        sa.Column("simulated", sa.Boolean, nullable=False),
        sa.Column("duration_ms", sa.Float, nullable=False),
    )
    op.create_index("tally_at", "tally", ["at"])
    op.create_index("tally_serial", "tally", ["serial", "at"])
    op.create_index("tally_order", "tally", ["order_number", "outcome", "at"])
    op.create_index("order_units_serial", "order_units", ["serial"])
    op.create_index("issued_at", "issued", ["at"])
    op.create_index("issued_not_after", "issued", ["not_after"])
    add_missing(op.get_bind())
    if op.get_bind().dialect.name == "sqlite":
        _close()


def _close() -> None:
    """As the base closes its tables: no update, no delete, no INSERT OR REPLACE."""
    refuse = "BEGIN SELECT RAISE(ABORT, 'the record tally is append-only'); END"
    op.execute(f"CREATE TRIGGER tally_no_update BEFORE UPDATE ON tally {refuse}")
    op.execute(f"CREATE TRIGGER tally_no_delete BEFORE DELETE ON tally {refuse}")
    same = "WHEN EXISTS (SELECT 1 FROM tally WHERE run = NEW.run)"
    op.execute(f"CREATE TRIGGER tally_no_replace BEFORE INSERT ON tally {same} {refuse}")
