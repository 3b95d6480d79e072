"""What the record costs: the chain in a run's transactions, its proof, its size; and 50 stations into one PostgreSQL.

    python tests/bench_ledger.py [--json] [--stations 50] [--runs 40]

Ledgers lie in memory (/dev/shm) where there is some, so that what is measured is our work and not the disk's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import secrets
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ledgers
from ledgers import open_ledger, production, unit, whole_run
from postgres import PASSWORD, TEMPLATE, Line, Postgres, station_ledger

from station.config.line import LineSettings
from station.config.secrets import Password
from station.ledger import chain, export, verify
from station.ledger.line import LineServer, LineSync, setup

_PROCESSES = 10
_READY_S = 30.0


def timed(work: Any) -> float:
    """Seconds of CPU, this process's: what else the machine does must not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def proof(folder: Path, runs: int) -> dict[str, float]:
    """A station's own ledger: what a run costs with and without the chain, what it weighs, how fast it is verified."""
    ledger = open_ledger(folder / "proof.sqlite")
    ledger.add_order(production(quantity=100_000), "bench")

    def build(prefix: str) -> None:
        for index in range(runs):
            whole_run(ledger, unit(f"{prefix}-{index}"), "k" + prefix + str(index))

    build("WARM")
    with_chain = timed(lambda: build("A"))
    ledger.dispose()
    size = ledger.store.path.stat().st_size
    verifying = timed(lambda: verify.ledger_file(ledger.store.path))
    exporting = timed(lambda: export.export(ledger.store.path, folder / "all.jsonl"))
    links = verify.ledger_file(ledger.store.path).links
    bare = open_ledger(folder / "bare.sqlite")
    bare.add_order(production(quantity=100_000), "bench")
    with patch.object(chain, "extend", lambda *_: None):
        for index in range(runs):
            whole_run(bare, unit(f"WARM-{index}"), f"w{index}")
        without = timed(lambda: [whole_run(bare, unit(f"B-{index}"), f"b{index}") for index in range(runs)])
    bare.dispose()
    return {
        "run_ms": with_chain / runs * 1000,
        "run_without_chain_ms": without / runs * 1000,
        "chain_costs_percent": (with_chain / without - 1) * 100,
        "bytes_a_run": size / (2 * runs),
        "links_a_run": links / (2 * runs),
        "verify_links_per_s": links / verifying,
        "export_links_per_s": links / exporting,
    }


def made(folder: Path, station: str, runs: int) -> None:
    """A station's ledger after some days without the server; its orders are its own, for nothing is leased here."""
    ledger = station_ledger(folder, station)
    ledger._in_line = False
    ledger.add_order(production(f"WO-{station}", 100_000), "bench")
    for index in range(runs):
        whole_run(ledger, unit(f"{station}-{index}"), f"{station}-{index}")
    ledger.dispose()


def pushed(folder: Path, station: str, port: int, database: str, start_at: float) -> float:
    """Push everything, from ``start_at`` (monotonic, so every process's) on; the seconds it took."""
    settings = LineSettings(
        host="127.0.0.1",
        port=port,
        database=database,
        user=f"login_{station}",
        password=Password(credential="none"),
        deadline_s=120.0,
    )
    ledger = station_ledger(folder, station)
    server = LineServer(settings, PASSWORD)
    sync = LineSync(ledger, server, station=station, software="bench", simulated=False, block=1, every_s=1)

    def push() -> None:
        with server.transaction() as connection:
            sync._pusher.begin(connection)
        sync.push()

    with server.transaction() as connection:
        connection.exec_driver_sql("SELECT 1")
    late = time.monotonic() - start_at
    assert late < 0, f"{station} was ready {late:.0f} s too late"
    time.sleep(-late)
    push()
    took = time.monotonic() - start_at
    server.close()
    ledger.dispose()
    return took


def _make(arguments: tuple[Path, list[str], int]) -> None:
    """One process's stations, one after the other."""
    folder, stations, runs = arguments
    ledgers._numbers = itertools.count(secrets.randbits(100))  # a CA's numbers are random; no two processes share one
    for station in stations:
        made(folder, station, runs)


def _push(arguments: tuple[Path, list[str], int, str, float]) -> tuple[list[float], float]:
    """One process's stations, all at once: the seconds of each, and the CPU of all."""
    folder, stations, port, database, start_at = arguments
    took: list[float] = []
    threads = [
        threading.Thread(target=lambda name=name: took.append(pushed(folder, name, port, database, start_at)))
        for name in stations
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, time.process_time()


def ingest(folder: Path, stations: int, runs: int) -> dict[str, float]:
    """Stations that come back at the same moment, each with its backlog; connected before the clock starts."""
    names = [f"b{index}" for index in range(stations)]
    shares = [names[first::_PROCESSES] for first in range(_PROCESSES)]
    server = Postgres("shared_buffers=512MB", "max_wal_size=4GB")
    try:
        server.start()
        Line(server, TEMPLATE, folder)
        line = Line(server, "bench", folder)
        with line.as_owner() as owner, owner.transaction(120.0) as connection:
            for name in names:
                setup.admit(connection, name, f"login_{name}", PASSWORD)
        with ProcessPoolExecutor(_PROCESSES) as pool:
            list(pool.map(_make, [(folder, share, runs) for share in shares]))
        with ProcessPoolExecutor(_PROCESSES) as pool:
            start_at = time.monotonic() + _READY_S
            used = server.cpu_s()
            done = list(pool.map(_push, [(folder, share, server.port, "bench", start_at) for share in shares]))
        used = server.cpu_s() - used
        took = sorted(one for found, _ in done for one in found)
        there = line.rows("SELECT count(*) FROM closures")[0][0]
        assert there == stations * runs, f"{there} of {stations * runs} runs arrived"
        weight = line.rows("SELECT pg_database_size(current_database()) - pg_database_size(%s)", TEMPLATE)[0][0]
        return {
            "stations": stations,
            "runs": there,
            "seconds": took[-1],
            "runs_per_s": there / took[-1],
            "fastest_station_s": took[0],
            "client_cpu_ms_a_run": sum(cpu_s for _, cpu_s in done) / there * 1000,
            "server_cpu_ms_a_run": used / there * 1000,
            "bytes_a_run": weight / there,
        }
    finally:
        server.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stations", type=int, default=50)
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        found = {"ledger": proof(folder, 150), "ingest": ingest(folder, arguments.stations, arguments.runs)}
    if arguments.json:
        print(json.dumps(found))
        return
    for part, figures in found.items():
        for name, value in figures.items():
            print(f"{part:<8} {name:<24} {value:>12,.1f}")


if __name__ == "__main__":
    main()
