"""What a big history needs: retests in a table of their own, and indexes that answer by themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from station.ledger.migrations.closing import close
from station.ledger.tally import add_missing_retests

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Index first: by it the retests of what is on record are found."""
    for name, columns in (
        ("tally_serial", ["serial", "at", "run"]),
        ("tally_order", ["order_number", "serial", "outcome", "at"]),
    ):
        op.drop_index(name, "tally")
        op.create_index(name, "tally", columns)
    some = sa.text("fault IS NOT NULL")
    op.create_index("tally_fault", "tally", ["fault", "outcome", "at"], sqlite_where=some, postgresql_where=some)
    op.create_index("outbox_run", "outbox", ["run"])
    named = ("at", "serial", "kind", "outcome", "station", "slot")
    op.create_table(
        "retests",
        sa.Column("run", sa.Text, sa.ForeignKey("runs.id"), primary_key=True, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in named),
    )
    op.create_index("retests_serial", "retests", ["serial"])
    add_missing_retests(op.get_bind())
    close("retests", ("run",))
