"""The database: append-only, durable, migrated; and what is wrong with it, in words that help."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from ledgers import (
    MakeLedger,
    admitted,
    at_once,
    certify,
    child,
    command,
    down,
    environment,
    open_ledger,
    production,
    rework,
    rows,
    stranger,
    unit,
    whole_run,
)

from station.faults import Fault, FaultError
from station.interfaces import Ledger, OrderBook
from station.ledger import CeremonyRow, Outbox, SqliteLedger, anchors, note_ceremony, orders
from station.ledger.schema import clashes, leases, metadata, passes, restorations
from station.model import KeyProof

RECORD = [table for table in metadata.sorted_tables if not table.name.startswith("live_")]


def test_it_is_the_ledger_and_the_order_book_that_the_line_asks_for(ledger: SqliteLedger) -> None:
    as_ledger: Ledger = ledger
    as_book: OrderBook = ledger
    assert [as_ledger, as_book] == [ledger, ledger]


# Append-only.


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with a row in each table of the record."""
    ledger = open_ledger(tmp_path_factory.mktemp("full") / "ledger.sqlite")
    ledger.add_order(production(), "linh")
    ledger.close_order("WO-1", "linh")
    ledger.add_order(production("WO-2"), "linh")
    whole_run(ledger, unit("SN-1"), key_proof=KeyProof.SIGNED)
    ledger.add_order(rework("RW-1", "SN-1"), "linh")
    whole_run(ledger, unit("SN-1"), "another key")
    for fault in (Fault.KEY_WEAK, None):
        whole_run(ledger, unit("SN-3"), fault=fault)
    tries = []
    drained = threading.Event()

    def retire(leaf: object, _authority: str) -> None:
        tries.append(leaf)
        if len(tries) == 1:
            raise FaultError(Fault.CLOUD_UNREACHABLE)

    outbox = Outbox(ledger, retire, lambda waiting: None if waiting else drained.set())
    outbox.start()
    assert drained.wait(10)
    outbox.stop()
    anchors.add_head(ledger.store, "s1", "2026-11-24", lambda _: b"signature", "5ea1")
    with ledger.store.write() as connection:
        connection.execute(sa.insert(restorations).values(seq=1, restored_by="linh", at=datetime.now(UTC)))
        for table in (leases, passes, clashes):
            texts = {column.name: "WO-1" for column in table.columns if isinstance(column.type, sa.Text)}
            numbers = {column.name: 1 for column in table.columns if isinstance(column.type, sa.Integer)}
            connection.execute(sa.insert(table).values(**texts, **numbers, at=datetime.now(UTC)))
    ledger.dispose()
    when = datetime.now(UTC)
    act = CeremonyRow("id", "root", "0" * 64, "linh", "1", "0" * 64, "", "", when, when)
    note_ceremony(ledger.store.path, act, simulated=False)
    note_ceremony(ledger.store.path, act, simulated=False)
    return ledger.store.path


@pytest.mark.parametrize("table", RECORD, ids=lambda table: table.name)
def test_nobody_changes_the_record(full: Path, table: sa.Table) -> None:
    everything = str(sa.select(table))
    before = rows(full, everything)
    assert before
    name = table.columns.keys()[-1]
    replace = sa.insert(table).prefix_with("OR REPLACE").from_select(table.columns.keys(), sa.select(table))
    for attempt in (sa.update(table).values({name: table.columns[name]}), sa.delete(table), replace):
        with stranger(full) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(str(attempt))
    assert rows(full, everything) == before


def test_nobody_ties_a_chip_to_another_serial(full: Path) -> None:
    with stranger(full) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("INSERT OR REPLACE INTO identities SELECT 'SN-9', chip_id, run, at FROM identities")


def test_even_the_ledger_itself_cannot_change_the_record(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    with pytest.raises(FaultError) as error, ledger.store.write() as connection:
        connection.execute(sa.text("DELETE FROM orders"))
    down(error, "mistake in the software")


def test_what_raises_writes_nothing(ledger: SqliteLedger) -> None:
    with suppress(ZeroDivisionError), ledger.store.write() as connection:
        orders.add(connection, production(), "linh")
        _ = 1 // 0
    assert ledger.orders() == []
    ledger.add_order(production(), "linh")


# Migrations.


def test_the_migrations_make_the_very_schema_that_the_code_speaks(ledger: SqliteLedger) -> None:
    with ledger.store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        tables = set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
    assert tables == set(metadata.tables)


def test_every_record_is_guarded_and_only_the_record(ledger: SqliteLedger) -> None:
    found = rows(ledger.store.path, "SELECT tbl_name, count(*) FROM sqlite_master WHERE type = 'trigger' GROUP BY 1")
    assert dict(found) == {table.name: 3 for table in RECORD}


def test_a_ledger_is_opened_again_as_it_was(make_ledger: MakeLedger) -> None:
    first = make_ledger()
    first.add_order(production(), "linh")
    first.dispose()
    assert [found.order for found in make_ledger().orders()] == [production()]


def test_a_ledger_of_today_is_opened_without_loading_the_migrations(ledger: SqliteLedger) -> None:
    check = (
        "import sys; from pathlib import Path; from ledgers import open_ledger\n"
        "open_ledger(Path(sys.argv[1])).dispose(); print('alembic' in sys.modules)"
    )
    assert child(check, ledger.store.path).stdout == "False\n"


def test_a_ledger_of_newer_software_is_left_alone(make_ledger: MakeLedger, ledger_path: Path) -> None:
    make_ledger().dispose()
    with stranger(ledger_path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(FaultError, match="schema 9999") as error:
        make_ledger()
    down(error, "install the newer software again")


def test_a_migration_that_cannot_end_leaves_nothing_behind(ledger_path: Path, make_ledger: MakeLedger) -> None:
    with stranger(ledger_path) as connection:
        connection.execute("CREATE TABLE steps (x)")
    with pytest.raises(FaultError, match="already exists") as error:
        make_ledger()
    assert error.value.fault is Fault.LEDGER_DOWN
    assert rows(ledger_path, "SELECT name FROM sqlite_master WHERE type = 'table'") == [("steps",)]


# Simulation.


@pytest.mark.parametrize("simulated", [True, False])
def test_simulation_and_production_never_share_a_ledger(make_ledger: MakeLedger, simulated: bool) -> None:
    make_ledger(simulated=simulated).add_order(production(), "linh")
    with pytest.raises(FaultError, match="take another folder") as error:
        make_ledger(simulated=not simulated)
    assert error.value.fault is Fault.SIMULATION_MIXED
    assert make_ledger(simulated=simulated).next_order() == production()


def test_a_simulated_run_is_marked(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(simulated=True)
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit())
    assert [run.simulated for run in ledger.unit_history("SN-1")] == [True]


# Durable.


def test_what_is_committed_is_on_the_disk(ledger: SqliteLedger) -> None:
    with ledger.store.read() as connection:
        found = [
            connection.execute(sa.text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 2, 1, 5000]


def test_the_file_is_for_the_station_and_its_group(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    for path in ledger.store.path.parent.glob("ledger.sqlite*"):
        assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0, path


_LINE = """
import sys
from pathlib import Path
import ledgers as l
ledger = l.open_ledger(Path(sys.argv[1]))
def told(*words): print(*words, flush=True)
for i in range(1000):
    run = l.started(ledger, l.unit(f"SN-{i}")); told("runs", run.id)
    ledger.admit(run); told("admissions", run.id)
    run.number = 4096 + i
    ledger.certifying(run, l.key("a" if i % 2 else "b"), l.CA, run.number); told("certificates", run.id)
    ledger.certified(run, l.certificate(run.number, "a")); told("issued", f"{run.number:x}")
    l.note(ledger, run, l.Step.ISSUE); told("steps", run.id)
    l.end(ledger, run, l.Fault.CLOUD_SILENT); told("closures", run.id)
"""


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, 6, 45])
def test_what_returned_survives_a_kill(ledger: SqliteLedger, calls: int) -> None:
    ledger.add_order(production(), "linh")
    path = ledger.store.path
    process = subprocess.Popen(command(_LINE, path), stdout=subprocess.PIPE, text=True, env=environment())
    with process:
        assert process.stdout
        told = [process.stdout.readline().split() for _ in range(calls)]
        process.kill()
        told += [line.split() for line in process.stdout if line.endswith("\n")]
    for table, name in told:
        key = metadata.tables[table].c[{"runs": "id", "issued": "number"}.get(table, "run")]
        assert (name,) in rows(path, str(sa.select(key))), table
    assert len(ledger.recover()) <= 1
    assert rows(path, "SELECT count(*) FROM runs") == rows(path, "SELECT count(*) FROM closures")
    assert rows(path, "SELECT count(*) FROM issued") == rows(path, "SELECT count(*) FROM outbox")
    assert rows(path, "SELECT * FROM live_runs") == []
    assert rows(path, "SELECT * FROM live_certificates") == []


# Threads.


def test_slots_that_claim_one_board_at_once_leave_it_to_one(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    answers = at_once(lambda _: admitted(ledger, unit()).order.number, 8)
    assert sorted(map(str, answers)) == ["Fault.UNIT_BUSY"] * 7 + ["WO-1"]


def test_slots_that_run_at_once_never_build_too_many(ledger: SqliteLedger) -> None:
    ledger.add_order(production(quantity=5), "linh")
    answers = at_once(lambda index: whole_run(ledger, unit(f"SN-{index}")).outcome.value, 8)
    assert sorted(map(str, answers)) == ["Fault.ORDER_FULL"] * 3 + ["PASS"] * 5
    assert [found.passed for found in ledger.orders()] == [5]


def test_one_key_on_boards_that_run_at_once_is_given_to_one(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")

    def certified(index: int) -> int:
        run = admitted(ledger, unit(f"SN-{index}"))
        return certify(ledger, run, "same").serial_number

    answers = at_once(certified, 6)
    assert answers.count(Fault.KEY_CLONED) == 5
