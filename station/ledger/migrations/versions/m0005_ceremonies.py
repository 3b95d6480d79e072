"""Ceremonies: a row an act, beside the runs that its CA signed for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from station.ledger.migrations.closing import close

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table, then close it to changes."""
    names = ("act", "file_hash", "performed_by", "software", "minutes_hash", "seal", "ca", "began_at", "ended_at")
    op.create_table(
        "ceremonies",
        sa.Column("id", sa.Text, primary_key=True, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in names),
    )
    close("ceremonies", ("id",))
