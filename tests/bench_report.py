"""A report's cost as the history grows: a year of 100,000 and of 1,000,000 runs, made up and counted.

Part of ``make bench``; ``python tests/bench_report.py [RUNS ...]`` measures it alone. Each report is made in a process
of its own, so that its memory is its own; the day is the last of the year, the year all of it.
"""

from __future__ import annotations

import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from ledgers import open_ledger

LAST = date(2026, 12, 30)
STEPS = (("identify", 180), ("admit", 30), ("enroll", 2100), ("issue", 240), ("install", 3900), ("verify", 5200))
_PORTION = 20_000


def generate(path: Path, runs: int) -> None:
    """A year of ``runs`` runs that ends with `LAST`: retests, errors and lifts among them, four slots."""
    open_ledger(path).dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-400000;")
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        opened = _text(datetime(2025, 12, 1, tzinfo=UTC))
        connection.execute(
            "INSERT INTO orders (number, product, kind, quantity, reason, opened_by, opened_at)"
            " VALUES ('WO-1', 'p', 'production', 9999999, '', 'x', ?)",
            (opened,),
        )
        for rows in _portions(runs):
            for table, values in rows.items():
                names = ", ".join(values[0])
                marks = ", ".join(f":{name}" for name in values[0])
                connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)  # noqa: S608 - our own names
        for _, sql in triggers:
            connection.execute(sql)
        connection.commit()


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


def _portions(runs: int) -> Iterator[dict[str, list[dict[str, Any]]]]:
    chance = random.Random(6)
    start = datetime(LAST.year, LAST.month, LAST.day, tzinfo=UTC) + timedelta(days=1) - timedelta(days=365)
    apart = timedelta(days=365) / runs
    rows: dict[str, list[dict[str, Any]]] = {}
    retest = ""
    for number in range(runs):
        serial, retest = (retest, "") if retest else (f"SN-{number:08d}", "")
        luck = chance.random()
        outcome, fault = ("PASS", None)
        if luck < 0.02:
            outcome, fault, retest = "FAIL", chance.choice(("U101", "U110", "U120")), serial
        elif luck < 0.03:
            outcome, fault = "ERROR", chance.choice(("N402", "C303"))
        elif luck < 0.035:
            outcome, fault = "ABORTED", "J201"
        run = f"{chance.getrandbits(128):032x}"
        began = start + apart * number
        ends = _text(began + timedelta(days=7300))
        at, ended = _text(began), _text(began + timedelta(seconds=18))
        facts = {"slot": str(number % 4 + 1), "operator": "x", "product": "p", "station": "s", "simulated": 0}
        told = {"software": "1", "config_hash": "c", "profile_hash": "p", "token": "t"}
        unit = {"serial": serial, "chip_id": serial, "model": "m", "firmware": "1"}
        put = rows.setdefault
        put("runs", []).append({"id": run, "started_at": at, **facts, **told})
        put("identified", []).append({"run": run, "at": at, **unit})
        put("admissions", []).append({"run": run, "order_number": "WO-1", "at": at})
        put("steps", []).extend(
            {"run": run, "position": i, "step": step, "started_at": at, "duration_ms": ms * chance.uniform(0.8, 1.5)}
            for i, (step, ms) in enumerate(STEPS)
        )
        made = {"number": run, "run": run, "at": at}
        put("certificates", []).append({**made, "serial": serial, "key_id": run, "authority": "a", "profile_hash": "p"})
        put("uses", []).append(made)
        put("issued", []).append({"number": run, "certificate_id": run, "der": b"", "not_after": ends, "at": at})
        put("closures", []).append({"run": run, "outcome": outcome, "fault": fault, "detail": "", "at": ended})
        put("tally", []).append(
            {"run": run, "at": ended, "started_at": at, "order_number": "WO-1", "kind": "production", "serial": serial}
            | {"outcome": outcome, "fault": fault, "duration_ms": 18_000.0}
            | facts
        )
        if len(rows["runs"]) == _PORTION:
            yield rows
            rows = {}
    if rows:
        yield rows


def measure(path: Path, first: date, *formats: str) -> dict[str, float]:
    """Seconds of wall and CPU and MB of memory of one report, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(path), first.isoformat(), ",".join(formats)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _one(path: Path, first: date, formats: tuple[str, ...]) -> None:
    began = time.perf_counter()
    from station.config.report import Report
    from station.ledger.store import Store
    from station.yields.making import Maker, Wanted

    store = Store(path, simulated=False)
    with tempfile.TemporaryDirectory() as folder:
        made_by = Maker(store.read, Report(), "s", "1", "vi", Path(folder))
        made_by.make(Wanted(first=first, last=LAST, formats=formats), datetime(2027, 1, 1, tzinfo=UTC))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "s": time.perf_counter() - began,
                "cpu_s": used.ru_utime + used.ru_stime,
                "mb": _most_mb(),
            }
        )
    )


def _most_mb() -> float:
    """The most memory this process held (ru_maxrss would tell its parent's, at the fork)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def lines(folder: Path, sizes: tuple[int, ...] = (100_000, 1_000_000)) -> Iterator[tuple[str, dict[str, float]]]:
    """Each measured thing with its figures."""
    year = LAST - timedelta(days=364)
    for runs in sizes:
        path = folder / f"{runs}.sqlite"
        generate(path, runs)
        yield (
            f"the day's report, all formats, of {runs:,} runs a year",
            measure(path, LAST, "html", "pdf", "csv", "json"),
        )
        yield f"the day's figures alone (JSON), of {runs:,} runs a year", measure(path, LAST, "json")
        yield f"the year's report (HTML, PDF), of {runs:,} runs", measure(path, year, "html", "pdf")
        path.unlink()


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--one"]:
        _one(Path(sys.argv[2]), date.fromisoformat(sys.argv[3]), tuple(sys.argv[4].split(",")))
        return
    sizes = tuple(int(text) for text in sys.argv[1:]) or (100_000, 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        base: dict[str, float] = {}
        for what, found in lines(Path(folder), sizes):
            base = base or found
            ratio = found["s"] / base["s"]
            print(
                f"{what:<62}{found['s']:8.2f} s  {found['cpu_s']:7.2f} s CPU  {found['mb']:6.0f} MB  {ratio:6.1f} x",
                flush=True,
            )


if __name__ == "__main__":
    main()
