"""A year of a line, made up in bulk by the database itself: the same SQL in SQLite and in PostgreSQL.

Retests (in the same slot or another), errors, lifts, golden samples, rework, 52 orders; certificates, and those that
went out of service. What no report reads is left out: transcripts, the chain, and the certificates' bytes but for the
last month's. Indexes and triggers are the migrations' own, dropped for the load and made again after it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from ledgers import open_ledger

LAST = date(2024, 12, 30)
DAYS = 365
_END = datetime(LAST.year, LAST.month, LAST.day, tzinfo=UTC) + timedelta(days=1)
_P = 1_000_003
# Each step's share of a run's time.
STEPS = (("identify", 0.015), ("admit", 0.003), ("enroll", 0.18), ("issue", 0.02), ("install", 0.33), ("verify", 0.45))

Do = Callable[[str], Any]
Tell = Callable[[str], None]


def sqlite(path: Path, runs: int, tell: Tell = lambda _: None) -> None:
    """One station's ledger of ``runs`` runs in a year that ends with `LAST`."""
    open_ledger(path).dispose()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-2000000", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        made = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'index') AND sql IS NOT NULL"
        kept = connection.execute(made).fetchall()
        for kind, name, _ in kept:
            connection.execute(f"DROP {kind} {name}")
        connection.execute("BEGIN")
        _fill(connection.execute, _Lite, runs, 1, tell)
        connection.execute(_IDENTITIES)
        connection.execute(_LIVE)
        for kind, name, sql in kept:
            connection.execute(sql)
            if kind == "index":
                tell(name)
        connection.execute("COMMIT")


def postgresql(connection: psycopg.Connection[Any], runs: int, stations: int, tell: Tell = lambda _: None) -> None:
    """A line's database, prepared and empty: ``runs`` runs of ``stations`` stations. As its owner, autocommit."""
    do = connection.execute
    # Foreign keys are checked by triggers, row by row; a replica's session trusts what it is given.
    for setting in ("session_replication_role = replica", "maintenance_work_mem = '1GB'", "synchronous_commit = off"):
        do(f"SET {setting}")
    # What refers to a key goes before the key, and comes after it.
    constraints = do(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), contype FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND (contype = 'f' OR contype = 'p' AND"
        " conrelid::regclass::text = ANY(%s)) ORDER BY contype <> 'f'",
        [list(_TABLES)],
    ).fetchall()
    for table, name, _, _ in constraints:
        do(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    indexes = do("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY(%s)", [list(_TABLES)]).fetchall()
    for name, _ in indexes:
        do(f"DROP INDEX {name}")
    _fill(do, _Postgres, runs, stations, tell)
    for name, sql in indexes:
        do(sql)
        tell(name)
    for table, name, sql, kind in reversed(constraints):
        do(f"ALTER TABLE {table} ADD CONSTRAINT {name} {sql}{' NOT VALID' if kind == 'f' else ''}")
        tell(name)
    do("RESET ALL")
    do("VACUUM ANALYZE")
    tell("vacuum")
    while do("SELECT line_sum_steps()").fetchall() != [(None,)]:
        pass
    tell("days summed up")
    do("VACUUM ANALYZE line_step_times")
    do("CHECKPOINT")


class _Lite:
    """How SQLite says it. Moments are microseconds since 1970."""

    at = "strftime('%Y-%m-%dT%H:%M:%S', {0} / 1000000, 'unixepoch') || printf('.%06d+00:00', {0} % 1000000)"
    run = "printf('%012x7', u / 1000) || lower(substr(hex(randomblob(10)), 1, 19))"
    der = "randomblob(700)"
    empty = "x''"


class _Postgres:
    at = "to_char(timestamp '1970-01-01' + {0} * interval '1 microsecond', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')"
    run = "lpad(to_hex(u / 1000), 12, '0') || '7' || substr(md5(i::text), 1, 19)"
    der = "decode(repeat(md5(run), 44), 'hex')"
    empty = "''::bytea"


def _fill(do: Do, says: type[_Lite | _Postgres], runs: int, stations: int, tell: Tell) -> None:
    first = int((_END - timedelta(days=DAYS)).timestamp())
    month = (_END - timedelta(days=31)).isoformat(timespec="microseconds")
    facts = {
        "runs": runs,
        "each": runs // 52 + 1,
        "apart": DAYS * 86_400_000_000 // runs,
        "first": first * 1_000_000,
        "opened": says.at.format(f"({first} + week * 604800) * 1000000"),
        "closed": says.at.format(f"({first} + week * 604800 + 604799) * 1000000"),
        "lag": stations * 2,
        "stations": stations,
        "run": says.run,
        "began": says.at.format("u"),
        "ended": says.at.format("(u + ms * 1000)"),
        "der": f"CASE WHEN at >= '{month}' THEN {says.der} ELSE {says.empty} END",
    }
    for table, sql in _TABLES.items():
        began = time.perf_counter()
        do(sql.format(**facts))
        tell(f"{table} {time.perf_counter() - began:.1f} s")


def _luck(i: str, salt: int) -> str:
    """A number from 0 to 1,000,002 that looks like chance."""
    return f"((({i}) * ({i}) % {_P} * {7919 + 1013 * salt} + ({i}) * {104729 + 617 * salt}) % {_P})"


_STEPS = ", ".join(f"({place}, '{name}', {share})" for place, (name, share) in enumerate(STEPS))
_TABLES = {
    "orders": """
        WITH RECURSIVE weeks(week) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT week + 1 FROM weeks WHERE week < 51)
        INSERT INTO orders (number, product, kind, quantity, reason, opened_by, opened_at)
        SELECT 'WO-' || week, 'p', 'production', {each}, '', 'x', {opened} FROM weeks
        UNION ALL SELECT 'GO-1', 'p', 'golden', 1, '', 'x', {opened} FROM weeks WHERE week = 0
        UNION ALL SELECT 'RW-1', 'p', 'rework', 10000000, 'returned', 'x', {opened} FROM weeks WHERE week = 0""",
    "order_closures": """
        WITH RECURSIVE weeks(week) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT week + 1 FROM weeks WHERE week < 50)
        INSERT INTO order_closures (order_number, closed_by, closed_at)
        SELECT 'WO-' || week, 'x', {closed} FROM weeks
        UNION ALL SELECT 'RW-1', 'x', {closed} FROM weeks WHERE week = 50""",
    # Of 1000 runs 20 FAIL, 10 end in ERROR, 5 are lifted; a unit that failed is there again two of the station's runs
    # later. 2 are of a golden sample, 3 rework.
    "tally": f"""
        WITH RECURSIVE n(i) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {{runs}}),
        drawn AS (SELECT i, {{first}} + i * {{apart}} AS u, {_luck("i", 1)} AS luck, {_luck("i - {lag}", 1)} AS before,
            {_luck("i - 2 * {lag}", 1)} AS earlier, {_luck("i", 2)} AS place, {_luck("i", 3)} AS what,
            11000 + {_luck("i", 4)} / 100 AS ms FROM n),
        told AS (SELECT *, CASE WHEN what < 2000 THEN 'golden' WHEN what < 5000 THEN 'rework' ELSE 'production' END
            AS kind FROM drawn)
        INSERT INTO tally (run, at, started_at, station, slot, operator, product, order_number, kind, serial, outcome,
            fault, simulated, duration_ms)
        SELECT {{run}}, {{ended}}, {{began}}, 's' || (i % {{stations}}), CAST(1 + place % 4 AS TEXT),
            CASE WHEN place % 3 = 0 THEN 'linh' ELSE 'tuan' END, 'p',
            CASE kind WHEN 'golden' THEN 'GO-1' WHEN 'rework' THEN 'RW-1' ELSE 'WO-' || (i / {{each}}) END, kind,
            CASE kind WHEN 'golden' THEN 'GOLD' WHEN 'rework' THEN 'SN-' || (i / 2) ELSE 'SN-' ||
            (i - CASE WHEN before >= 20000 THEN 0 WHEN earlier >= 20000 THEN {{lag}} ELSE 2 * {{lag}} END) END,
            CASE WHEN luck < 20000 THEN 'FAIL' WHEN luck < 30000 THEN 'ERROR' WHEN luck < 35000 THEN 'ABORTED'
            ELSE 'PASS' END,
            CASE WHEN luck < 10000 THEN 'U101' WHEN luck < 15000 THEN 'U110' WHEN luck < 20000 THEN 'U120'
            WHEN luck < 26000 THEN 'N402' WHEN luck < 30000 THEN 'C303' WHEN luck < 35000 THEN 'J201' END,
            what < 0, ms FROM told""",  # noqa: S608 - our own names
    "retests": """
        INSERT INTO retests (run, at, serial, kind, outcome, station, slot)
        SELECT run, at, serial, kind, outcome, station, slot FROM (SELECT *, row_number()
            OVER (PARTITION BY serial, kind ORDER BY at, run) AS nth FROM tally
            WHERE kind <> 'golden' AND outcome IN ('PASS', 'FAIL')) AS counted WHERE nth > 1""",
    "order_units": """
        INSERT INTO order_units (order_number, serial)
        SELECT DISTINCT order_number, serial FROM tally WHERE kind <> 'production'""",
    "runs": """
        INSERT INTO runs (id, slot, operator, product, station, software, config_hash, profile_hash, token, simulated,
            started_at)
        SELECT run, slot, operator, product, station, '1', 'c', 'p', 't', simulated, started_at FROM tally""",
    "identified": """
        INSERT INTO identified (run, serial, chip_id, model, firmware, at)
        SELECT run, serial, 'C-' || serial, 'm', '1', started_at FROM tally""",
    "admissions": "INSERT INTO admissions (run, order_number, at) SELECT run, order_number, started_at FROM tally",
    # An ERROR or a lift comes in the third step, a FAIL in the last.
    "steps": f"""
        INSERT INTO steps (run, position, step, started_at, duration_ms, fault)
        SELECT run, column1, column2, started_at, duration_ms * column3,
            CASE WHEN column1 = CASE WHEN outcome = 'FAIL' THEN 5 ELSE 2 END THEN fault END
        FROM tally CROSS JOIN (VALUES {_STEPS}) AS parts
        WHERE column1 < 3 OR outcome IN ('PASS', 'FAIL')""",  # noqa: S608 - our own names
    "certificates": """
        INSERT INTO certificates (number, run, serial, key_id, authority, profile_hash, at)
        SELECT run, run, serial, run, 'a', 'p', started_at FROM tally WHERE outcome IN ('PASS', 'FAIL')""",
    "uses": "INSERT INTO uses (run, number, at) SELECT run, number, at FROM certificates",
    "issued": """
        INSERT INTO issued (number, certificate_id, der, not_after, at)
        SELECT number, number, {der}, '2044' || substr(at, 5), at FROM uses""",
    "closures": """
        INSERT INTO closures (run, outcome, fault, detail, at) SELECT run, outcome, fault, '', at FROM tally""",
    "outbox": """
        INSERT INTO outbox (number, run, reason, at) SELECT run, run, outcome, at FROM tally WHERE outcome = 'FAIL'""",
    "outbox_done": "INSERT INTO outbox_done (number, at) SELECT number, at FROM outbox",
}
_IDENTITIES = """
    INSERT INTO identities (serial, chip_id, run, at)
    SELECT serial, 'C-' || serial, run, min(started_at) FROM tally GROUP BY serial"""
_LIVE = """
    INSERT INTO live_certificates (serial, key_id, number)
    SELECT serial, run, run FROM (SELECT serial, max(run) AS run FROM tally WHERE outcome = 'PASS' GROUP BY serial)"""
