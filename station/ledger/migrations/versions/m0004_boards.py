"""What the board said, and how its key is known: transcripts and key proofs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from station.ledger.migrations.closing import close

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Two records more, a row a closed run."""
    for table, column in (("proofs", sa.Column("key", sa.Text, nullable=False)), ("transcripts", _packed())):
        op.create_table(table, sa.Column("run", sa.Text, sa.ForeignKey("runs.id"), primary_key=True), column)
        close(table, ("run",))


def _packed() -> sa.Column[bytes]:
    return sa.Column("packed", sa.LargeBinary, nullable=False)
