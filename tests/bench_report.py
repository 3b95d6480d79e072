"""A report's cost as the history grows, in SQLite and on a line's PostgreSQL: a year made up, and counted.

    python tests/bench_report.py [--sqlite 100000,1000000] [--postgresql 100000,1000000,10000000] [--json]

Each report is made in a process of its own, so that its memory is its own. The day is the last of the year, the year
all of it. A server's CPU is counted beside the client's. 10 million runs take some 15 minutes and 32 GB of disk while
they are measured, and nothing after.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import big_year
import psycopg
from big_year import DAYS, LAST
from ledgers import open_ledger, production, unit, whole_run
from postgres import OWNER, OWNER_PASSWORD, TEMPLATE, Line, Postgres

Figures = dict[str, float]
STATIONS = 50
# As a small server of a line is set up (16 GB); the tests' own is made to start fast.
SERVER = (
    "shared_buffers=2GB",
    "effective_cache_size=8GB",
    "random_page_cost=1.1",
    "max_wal_size=8GB",
    "wal_level=minimal",
    "max_wal_senders=0",
)
_YEAR = LAST - timedelta(days=DAYS - 1)
_REPORTS = (
    ("the day, all default formats", LAST, "html,pdf,csv,json"),
    ("the day, HTML alone", LAST, "html"),
    ("the day, figures and units (JSON)", LAST, "json"),
    ("the year, HTML and PDF", _YEAR, "html,pdf"),
)


def measure(record: str, first: date, formats: str, server: Postgres | None = None) -> Figures:
    """Seconds of wall and CPU and MB of memory of one report, in a process of its own."""
    time.sleep(0.5 if server else 0.0)  # until the server has buried who was there before
    before = server.cpu_s() if server else 0.0
    done = subprocess.run(
        [sys.executable, __file__, "--one", record, first.isoformat(), formats],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: Figures = json.loads(done.stdout)
    if server:
        time.sleep(0.5)  # until the server has buried the report's backend, whose CPU it then counts as its own
        found["server_cpu_s"] = server.cpu_s() - before
    return found


def slot(path: Path, runs: int = 40) -> Figures:
    """CPU of what a slot waits for: the next order, and a whole run put on record."""
    ledger = open_ledger(path)
    ledger.add_order(production("WO-NEW", 1000), "bench")
    asked = recorded = 0.0
    for index in range(runs):
        began = time.process_time()
        ledger.next_order()
        between = time.process_time()
        whole_run(ledger, unit(f"NEW-{index}"), f"new {index}")
        asked, recorded = asked + between - began, recorded + time.process_time() - between
    ledger.dispose()
    return {"next_order_ms": asked / runs * 1000, "run_ms": recorded / runs * 1000}


def _one(record: str, first: date, formats: tuple[str, ...]) -> None:
    """``record`` is a SQLite file, or a port and a database."""
    began = time.perf_counter()
    import sqlalchemy as sa

    from station.config.report import Report
    from station.ledger.store import Store
    from station.yields.making import Maker, Wanted

    with tempfile.TemporaryDirectory() as folder, ExitStack() as parts:
        if record.endswith(".sqlite"):
            store = Store(Path(record), simulated=False)
            parts.callback(store.dispose)
            read: Any = store.read
        else:
            port, _, database = record.partition("/")
            where: dict[str, Any] = {
                "host": "127.0.0.1",
                "port": port,
                "dbname": database,
                "user": OWNER,
                "password": OWNER_PASSWORD,
            }
            engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(**where))
            parts.callback(engine.dispose)
            read = engine.begin
        made_by = Maker(read, Report(), "s0", "1", "vi", Path(folder))
        made_by.make(Wanted(first=first, last=LAST, formats=formats), datetime(LAST.year + 1, 1, 1, tzinfo=UTC))
    used = os.times()
    print(json.dumps({"s": time.perf_counter() - began, "cpu_s": used.user + used.system, "mb": _most_mb()}))


def _most_mb() -> float:
    """The most memory this process held (ru_maxrss would tell its parent's, at the fork)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _fits(folder: Path, runs: int) -> bool:
    """Whether the disk takes a year of so many runs, the copies that an index makes of them included."""
    fits = shutil.disk_usage(folder).free > runs * 5000
    if not fits:
        _tell(f"{runs:,} runs need {runs * 5 / 1e6:.0f} GB of disk: left out")
    return fits


def sqlite_lines(folder: Path, sizes: list[int]) -> Iterator[tuple[str, Figures]]:
    """Each measured thing with its figures: a station's own ledger."""
    for runs in (size for size in sizes if _fits(folder, size)):
        path = folder / f"{runs}.sqlite"
        began = time.perf_counter()
        big_year.sqlite(path, runs, _tell)
        made = {"s": time.perf_counter() - began, "disk_mb": path.stat().st_size / 1e6}
        yield f"SQLite {runs:>10,}: made up", made
        for what, first, formats in _REPORTS:
            yield f"SQLite {runs:>10,}: {what}", measure(str(path), first, formats)
        yield f"SQLite {runs:>10,}: what a slot waits for", slot(path)
        path.unlink()


def postgresql_lines(sizes: list[int]) -> Iterator[tuple[str, Figures]]:
    """The same of a line's database, each size in one of its own that is dropped after."""
    if not sizes:
        return
    server = Postgres(*SERVER)
    try:
        server.start()
        Line(server, TEMPLATE, server.folder)
        for runs in (size for size in sizes if _fits(server.folder, size)):
            name = f"year_{runs}"
            Line(server, name, server.folder)
            began = time.perf_counter()
            with closing(server.owner(name)) as owner:
                big_year.postgresql(owner, runs, STATIONS, _tell)
                bytes_there = owner.execute("SELECT pg_database_size(current_database())").fetchall()[0][0]
            made = {"s": time.perf_counter() - began, "disk_mb": bytes_there / 1e6}
            yield f"PostgreSQL {runs:>10,}: made up", made
            for what, first, formats in _REPORTS:
                yield f"PostgreSQL {runs:>10,}: {what}", measure(f"{server.port}/{name}", first, formats, server)
            with closing(server.owner("postgres")) as owner:
                owner.execute(f"DROP DATABASE {name}")
    finally:
        server.stop()


def _tell(what: str) -> None:
    print(f"  {datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr, flush=True)


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--one"]:
        _one(sys.argv[2], date.fromisoformat(sys.argv[3]), tuple(sys.argv[4].split(",")))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sqlite", type=_sizes, default=[100_000, 1_000_000])
    parser.add_argument("--postgresql", type=_sizes, default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for lines in (sqlite_lines(Path(name), arguments.sqlite), postgresql_lines(arguments.postgresql)):
            for what, found in lines:
                if arguments.json:
                    print(json.dumps({"what": what, **found}), flush=True)
                else:
                    print(f"{what:<58}" + "".join(f"{value:9.2f} {unit}" for unit, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
