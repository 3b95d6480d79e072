"""The proof: the hash chain, the days' heads, restorations. What was on record before is chained as this ends."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from station.ledger.migrations.closing import close

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables; the caller then chains every row that no link covers (`station.ledger.store`)."""
    op.create_table(
        "chain",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("at", sa.Text, nullable=False),
        sa.Column("rows", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "heads",
        sa.Column("day", sa.Text, primary_key=True, nullable=False),
        sa.Column("station", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.Text, nullable=False),
        sa.Column("seal", sa.Text),
        sa.Column("signature", sa.LargeBinary),
    )
    op.create_table(
        "restorations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("restored_by", sa.Text, nullable=False),
        sa.Column("at", sa.Text, nullable=False),
    )
    close("chain", ("seq",))
    close("heads", ("day",))
    close("restorations", ("id",))
