"""What the feed told the provider of each certificate: a working table."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """One table; nothing of the record changes."""
    op.create_table(
        "live_feed",
        sa.Column("number", sa.Text, sa.ForeignKey("issued.number"), primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False, unique=True),
        sa.Column("line", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", sa.Text, nullable=False),
        sa.Column("sent", sa.Boolean, nullable=False),
    )
    op.create_index("live_feed_state", "live_feed", ["state"])
    op.create_index("live_feed_unsent", "live_feed", ["sent", "seq"])
