"""``make bench``: what things cost, each as a ratio to a baseline of the same run. Times are this machine's."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from test_ca import csr, make_root
from tokens import make_softhsm

from station.ca import CertificateAuthority
from station.hsm.keys import token_key
from station.hsm.signers import Signers, generate_key
from station.ledger import SqliteLedger
from station.model import KeyOrigin, KeyType, OrderKind, Product, Profile, Run, Step, StepRecord, Unit, WorkOrder
from station.sim.jig import SimJig
from station.sim.line import Station, make_provider

PRODUCT = Product("p", "console", "m", KeyType.P256, KeyOrigin.STATION, Profile(30, 60))


@dataclass
class Line:
    """One measured thing."""

    what: str
    ms: float
    against: str = ""
    baseline_ms: float = 0.0

    def __str__(self) -> str:
        ratio = f"{self.ms / self.baseline_ms:6.1f} x {self.against}" if self.baseline_ms else ""
        return f"{self.what:<58}{self.ms:10.3f} ms  {ratio}"


def each(count: int, act: Callable[[int], object]) -> float:
    """Milliseconds of wall time an act, the best of three rounds."""
    best = float("inf")
    for turn in range(3):
        began = time.perf_counter()
        for index in range(count):
            act(turn * count + index)
        best = min(best, (time.perf_counter() - began) / count)
    return best * 1000


def certificates(folder: Path, environment: pytest.MonkeyPatch) -> list[Line]:
    """A certificate with the key in a token's child, against one with the key in this process."""
    token = make_softhsm(folder / "token", environment)
    key = token.key("device-ca", b"\1")
    request = csr(ec.generate_private_key(ec.SECP256R1()))
    soft_key = ec.generate_private_key(ec.SECP256R1())
    since = datetime.now(UTC) - timedelta(days=1)
    soft = CertificateAuthority(make_root(soft_key, since=since), soft_key)
    public = generate_key(key, token.pin, token.latch, KeyType.P256)
    with Signers(key, token.pin, token.latch) as signers:
        private = token_key(public, signers)
        hard = CertificateAuthority(make_root(private, since=since), private)

        def issue(authority: CertificateAuthority) -> Callable[[int], object]:
            return lambda _: authority.issue(request, "SN-1", PRODUCT, x509.random_serial_number() | 1 << 150)

        soft_ms, hard_ms = each(100, issue(soft)), each(100, issue(hard))

        def restart(_: int) -> None:
            child = signers._idle.get()
            assert child is not None
            child.kill()
            signers._idle.put(None)
            issue(hard)(0)

        return [
            Line("certificate, CA key in this process", soft_ms),
            Line("certificate, CA key in the token's child", hard_ms, "in process", soft_ms),
            Line("certificate after the child was killed", each(3, restart), "with a living child", hard_ms),
        ]


def record(folder: Path) -> list[Line]:
    """One run on record, against one synced row of plain SQLite."""
    plain = sqlite3.connect(folder / "plain.sqlite", isolation_level=None)
    plain.execute("PRAGMA journal_mode=WAL")
    plain.execute("PRAGMA synchronous=FULL")
    plain.execute("CREATE TABLE t (a TEXT)")
    row_ms = each(100, lambda index: plain.execute("INSERT INTO t VALUES (?)", (str(index),)))
    plain.close()
    ledger = SqliteLedger(
        folder / "ledger.sqlite", station="s", software="1", config_hash="c", token="t", simulated=True
    )
    ledger.add_order(WorkOrder("WO-1", "p", OrderKind.PRODUCTION, 10_000), "bench")

    def run(index: int) -> None:
        order = ledger.next_order()
        assert order is not None
        run = Run("1", "bench", order, PRODUCT, unit=Unit(f"SN-{index}", f"C-{index}", "m", "1"))
        ledger.open(run)
        ledger.admit(run)
        ledger.certifying(run, f"{index:064x}", "a", index + 1)
        for step in Step:
            run.steps.append(StepRecord(step, datetime.now(UTC), 1.0, None))
            ledger.note(run, run.steps[-1])
        ledger.close(run)

    run_ms = each(30, run)
    ledger.dispose()
    return [
        Line("one synced row of plain SQLite", row_ms),
        Line("one run on record (11 transactions)", run_ms, "one synced row", row_ms),
    ]


def units(folder: Path) -> list[Line]:
    """Whole units on the simulated line, and what the station costs while nothing is plugged in."""
    with ExitStack() as parts:
        provider = make_provider(folder / "provider", parts)
        station = parts.enter_context(Station(folder / "station", provider))
        jig = parts.enter_context(SimJig(folder / "boards"))
        lines = []
        for origin in ("board", "station"):
            station.order(f"WO-{origin}", f"console-{origin}-key", 5)
            took: dict[str, float] = {}
            for index in range(5):
                serial = f"{origin.upper()}-{index}"
                board = jig.plug(station.port, serial=serial, chip=f"C-{serial}", model="demo-board")
                assert station.result()["outcome"] == "PASS"
                board.lift()
                station.empty()
                for step in station.control.unit(serial)[0]["steps"]:
                    took[step["step"]] = took.get(step["step"], 0.0) + step["duration_ms"] / 5
            whole = sum(took.values())
            steps = ", ".join(f"{step} {ms:.0f}" for step, ms in took.items())
            lines.append(
                Line(f"unit, key made on the {origin}", whole, "its reset and dials", took["verify"] + took["connect"])
            )
            lines.append(Line(f"  ({steps})", whole))
        assert station.process is not None
        lines.append(Line("idle: CPU a second of the station, slot empty", idle_ms(station.process.pid)))
        return lines


def idle_ms(pid: int, seconds: float = 5.0) -> float:
    """CPU milliseconds a second that a process takes."""

    def used() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, began = used(), time.monotonic()
    time.sleep(seconds)
    return (used() - before) / (time.monotonic() - began) * 1000


def main() -> None:
    """Measure and print; ``--json`` for scripts."""
    environment = pytest.MonkeyPatch()
    with tempfile.TemporaryDirectory() as folder:
        lines = certificates(Path(folder), environment) + record(Path(folder))
        environment.undo()
        lines += units(Path(folder))
    if "--json" in sys.argv[1:]:
        print(json.dumps([vars(line) for line in lines]))
        return
    for line in lines:
        print(line)


if __name__ == "__main__":
    main()
