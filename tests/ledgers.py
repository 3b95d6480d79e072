"""Ledgers for tests: real files, real certificates, and a run taken through the record in one line."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, chain, identity
from station.ledger.store import migrate
from station.model import (
    KeyOrigin,
    KeyProof,
    KeyType,
    OrderKind,
    Product,
    Profile,
    Run,
    Step,
    StepRecord,
    Unit,
    WorkOrder,
    key_id,
)

CA = "ca" * 32
PRODUCT = Product("sensor-b", "console", "demo-board", KeyType.P256, KeyOrigin.STATION, Profile(365, 60))
_numbers = itertools.count(0x1000)


class Clock:
    """The ledger's clock, moved by hand."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@cache
def private_key(name: str) -> ec.EllipticCurvePrivateKey:
    """The same key for the same name."""
    del name
    return ec.generate_private_key(ec.SECP256R1())


def key(name: str) -> str:
    return key_id(private_key(name).public_key())


def certificate(number: int, key_name: str, not_after: datetime | None = None) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "unit")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(subject, subject, private_key(key_name).public_key(), number)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(not_after or now + timedelta(days=365))
    )
    return builder.sign(private_key(key_name), hashes.SHA256())


def production(number: str = "WO-1", quantity: int = 10, product: str = "sensor-b") -> WorkOrder:
    return WorkOrder(number, product, OrderKind.PRODUCTION, quantity)


def rework(number: str, *serials: str) -> WorkOrder:
    return WorkOrder(number, "sensor-b", OrderKind.REWORK, len(serials), serials, "returned by the customer")


def golden(number: str, *serials: str) -> WorkOrder:
    return WorkOrder(number, "sensor-b", OrderKind.GOLDEN, len(serials), serials)


def unit(serial: str = "SN-1", chip: str = "", **more: str) -> Unit:
    return Unit(serial, chip or f"CHIP-{serial}", more.get("model", "demo-board"), more.get("firmware", "1.0"))


def started(ledger: SqliteLedger, of: Unit, order: WorkOrder | None = None, product: Product = PRODUCT) -> Run:
    """A run on record that knows its unit, not yet admitted."""
    run = Run("1", "linh", order or ledger.next_order() or production(), product)
    ledger.open(run)
    run.unit = of
    return run


def admitted(ledger: SqliteLedger, of: Unit, **more: Any) -> Run:
    run = started(ledger, of, **more)
    ledger.admit(run)
    return run


def certify(ledger: SqliteLedger, run: Run, key_name: str, not_after: datetime | None = None) -> x509.Certificate:
    """As the sequence does: use again what may be, else number first, then the certificate."""
    name = key(key_name)
    leaf = ledger.reusable(run, name, CA)
    if leaf is not None:
        ledger.certifying(run, name, CA, leaf.serial_number)
        return leaf
    run.number = next(_numbers)
    ledger.certifying(run, name, CA, run.number)
    leaf = certificate(run.number, key_name, not_after)
    ledger.certified(run, leaf)
    return leaf


def end(ledger: SqliteLedger, run: Run, fault: Fault | None = None, detail: str = "") -> None:
    run.fault = FaultError(fault, detail) if fault else None
    ledger.close(run)


def whole_run(
    ledger: SqliteLedger, of: Unit, key_name: str = "", fault: Fault | None = None, key_proof: KeyProof | None = None
) -> Run:
    """From open to close, with every step noted."""
    run = admitted(ledger, of)
    run.key_proof = key_proof
    finish(ledger, run, key_name or of.serial, fault)
    return run


def finish(ledger: SqliteLedger, run: Run, key_name: str, fault: Fault | None = None) -> None:
    """What is left of a run that was admitted."""
    note(ledger, run, Step.IDENTIFY)
    note(ledger, run, Step.ADMIT)
    certify(ledger, run, key_name)
    for step in (Step.ENROLL, Step.ISSUE, Step.INSTALL, Step.VERIFY):
        note(ledger, run, step)
    note(ledger, run, Step.CONNECT, fault)
    end(ledger, run, fault)


def note(ledger: SqliteLedger, run: Run, step: Step, fault: Fault | None = None) -> None:
    run.steps.append(StepRecord(step, datetime.now(UTC), 1.5, fault))
    ledger.note(run, run.steps[-1])


def open_ledger(path: Path, *, simulated: bool = False, clock: Callable[[], datetime] | None = None) -> SqliteLedger:
    facts: dict[str, Any] = {"station": "s1", "software": "0.1.0", "config_hash": "c0ffee", "token": "pkcs11:token=t"}
    if clock is not None:
        facts["clock"] = clock
    return SqliteLedger(path, simulated=simulated, **facts)


@cache
def _empty() -> bytes:
    """An empty ledger as the migrations make it, which takes ten times as long as all the rest of opening one."""
    with TemporaryDirectory() as folder:
        engine = sa.create_engine(f"sqlite+pysqlite:///{folder}/empty.sqlite")
        with engine.begin() as connection:
            migrate(connection)
        engine.dispose()
        return Path(folder, "empty.sqlite").read_bytes()


def begin_ledger(path: Path) -> None:
    """Put an empty ledger there, as the first start would; where one is or was, nothing."""
    if not (path.exists() or identity.mark_of(path).exists()):
        path.touch(0o640)
        path.write_bytes(_empty())


MakeLedger = Callable[..., SqliteLedger]


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def make_ledger(ledger_path: Path) -> Iterator[MakeLedger]:
    """Ledgers of one file, closed with the test."""
    with ExitStack() as parts:

        def make(**more: Any) -> SqliteLedger:
            begin_ledger(ledger_path)
            made = open_ledger(ledger_path, **more)
            parts.callback(made.dispose)
            return made

        yield make


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(make_ledger: MakeLedger, clock: Clock) -> SqliteLedger:
    """A fresh ledger with nothing in it."""
    return make_ledger(clock=clock)


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What a stranger reads in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def taken_back(path: Path, version: str) -> None:
    """The ledger as older software would have left it: its own schema, with the rows that it had tables for."""
    newer = path.rename(path.with_name("newer.sqlite"))
    engine = sa.create_engine(f"sqlite+pysqlite:///{path}")
    with engine.begin() as connection:
        migrate(connection, version)
    engine.dispose()
    with stranger(path) as file:
        file.execute("ATTACH ? AS newer", (str(newer),))
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            names = ", ".join(row[1] for row in file.execute(f"PRAGMA table_info({table})"))
            if table not in {"alembic_version", "chain"}:
                rows_of = f"SELECT rowid, {names} FROM newer.{table} ORDER BY rowid"  # noqa: S608 - a test's own file
                file.execute(f"INSERT INTO {table} (rowid, {names}) {rows_of}")
        file.execute("DETACH newer")
        if "chain" in tables:
            _chain(file, sorted(set(chain.record_tables()) & set(tables)))
    newer.unlink()
    identity.mark_of(path).unlink(missing_ok=True)


def _chain(file: sqlite3.Connection, tables: list[str]) -> None:
    """A link a table, over what is in it."""
    seq, tip, at = 0, chain.START, datetime.now(UTC).isoformat(timespec="microseconds")
    for table in tables:
        found = file.execute(f"SELECT * FROM {table} ORDER BY rowid")  # noqa: S608 - a test's own file
        names = [column[0] for column in found.description]
        covered = [(table, dict(zip(names, row, strict=True))) for row in found]
        if covered:
            seq += 1
            tip = chain.link_hash(tip, chain.body(seq, at, covered))
            file.execute("INSERT INTO chain VALUES (?, ?, ?, ?)", (seq, at, f"{table}:{len(covered)}", tip))


def command(code: str, path: Path) -> list[str]:
    """``code`` on ``path`` in a Python of its own."""
    return [sys.executable, "-c", code, str(path)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}


def child(code: str, path: Path, *, plain_user: bool = False) -> subprocess.CompletedProcess[str]:
    """Run ``code`` to its end; ``plain_user``: file modes bind it even where the tests are root's."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if plain_user and os.geteuid() == 0 else []
    return subprocess.run(
        [*drop, *command(code, path)], env=environment(), capture_output=True, text=True, timeout=30, check=False
    )


def at_once(work: Any, count: int) -> list[Any]:
    """Call ``work(i)`` in ``count`` threads at the same moment; the faults or answers."""
    answers: list[Any] = [None] * count
    start = threading.Barrier(count)

    def call(index: int) -> None:
        start.wait()
        try:
            answers[index] = work(index)
        except FaultError as error:
            answers[index] = error.fault

    threads = [threading.Thread(target=call, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@contextmanager
def stranger(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else's connection to the file."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def down(error: pytest.ExceptionInfo[FaultError], advice: str) -> None:
    assert error.value.fault is Fault.LEDGER_DOWN
    assert advice in error.value.detail
