"""Alembic's environment: migrates the connection that the ledger hands over, within its transaction."""

from __future__ import annotations

from alembic import context

from station.ledger.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
