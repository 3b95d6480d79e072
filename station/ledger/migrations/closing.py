"""Closes a table of the record to changes. Migrations from 0003 on share it; once released it must not change."""

from __future__ import annotations

from alembic import op


def close(table: str, *keys: tuple[str, ...]) -> None:
    """Refuse UPDATE, DELETE and INSERT OR REPLACE in SQLite; the latter deletes without firing delete triggers.

    Args:
        table: its name.
        keys: the primary key, and what else is unique.

    On PostgreSQL rights do it: no role of a station has UPDATE or DELETE.
    """
    if op.get_bind().dialect.name != "sqlite":
        return
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table}"
            f" BEGIN SELECT RAISE(ABORT, 'the record {table} is append-only'); END"
        )
    same = " OR ".join(" AND ".join(f"{name} = NEW.{name}" for name in key) for key in keys)
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}"  # noqa: S608 - names of a migration
        f" WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})"
        f" BEGIN SELECT RAISE(ABORT, 'the record {table} is append-only'); END"
    )
