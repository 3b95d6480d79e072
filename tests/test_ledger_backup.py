"""Backup while the line runs, and the way back: never over a running station, never a ledger that does not verify."""

from __future__ import annotations

import fcntl
import shutil
import threading
from pathlib import Path

import pytest
from ledgers import MakeLedger, production, rows, stranger, unit, whole_run

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, verify
from station.ledger.backup import backup, restore

_LEDGER = "ledger.sqlite"


def test_a_backup_of_a_line_at_work_is_one_moment_of_it(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.add_order(production(quantity=1000), "linh")
    for index in range(5):
        whole_run(ledger, unit(f"OLD-{index}"))
    over, copied = threading.Event(), 0

    def line() -> None:
        index = 0
        while not over.is_set():
            whole_run(ledger, unit(f"SN-{index}"))
            index += 1

    work = threading.Thread(target=line)
    work.start()
    try:
        for index in range(5):
            target = tmp_path / f"backup-{index}.sqlite"
            backup(ledger.store.path, target)
            verdict = verify.ledger_file(target)
            assert verdict.findings == []
            assert verdict.links > copied
            copied = verdict.links
            assert not target.with_name(target.name + "-wal").exists()
    finally:
        over.set()
        work.join()
    assert verify.ledger_file(ledger.store.path).findings == []


def test_a_backup_never_overwrites(ledger: SqliteLedger, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    with pytest.raises(FaultError, match="never overwrites") as error:
        backup(ledger.store.path, target)
    assert error.value.fault is Fault.LEDGER_DOWN
    assert target.read_text() == "precious"


def test_a_backup_that_cannot_be_made_leaves_nothing(ledger: SqliteLedger, tmp_path: Path) -> None:
    with pytest.raises(FaultError, match="cannot be made"):
        backup(ledger.store.path, tmp_path / "gone" / "backup.sqlite")
    with pytest.raises(FaultError, match="there is no ledger"):
        backup(tmp_path / "nowhere.sqlite", tmp_path / "backup.sqlite")
    assert list(tmp_path.glob("*backup*")) == []


def test_what_is_restored_is_the_backup_and_says_so(make_ledger: MakeLedger, ledger_path: Path, tmp_path: Path) -> None:
    ledger = make_ledger()
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit("SN-1"))
    kept_safe = tmp_path / "elsewhere.sqlite"
    backup(ledger_path, kept_safe)
    links = verify.ledger_file(kept_safe).links
    whole_run(ledger, unit("SN-2"))  # lost by what follows; the replaced file has it
    # The station's disk failed with the -wal not yet in the ledger: both files stay together.
    for ending in ("", "-wal"):
        shutil.copy(f"{ledger_path}{ending}", tmp_path / f"crashed{ending}")
    ledger.dispose()
    for ending in ("", "-wal"):
        shutil.copy(tmp_path / f"crashed{ending}", f"{ledger_path}{ending}")
    replaced = restore(kept_safe, tmp_path, "linh")
    again = make_ledger()
    assert again.unit_history("SN-2") == []
    assert rows(ledger_path, "SELECT seq, restored_by FROM restorations") == [(links, "linh")]
    whole_run(again, unit("SN-3"))
    again.dispose()
    assert verify.ledger_file(ledger_path).findings == []
    assert replaced is not None
    assert ("SN-2",) in rows(replaced, "SELECT serial FROM identified")


def test_a_first_restore_needs_no_ledger_to_replace(ledger: SqliteLedger, tmp_path: Path) -> None:
    state = tmp_path / "new machine"
    state.mkdir()
    backup(ledger.store.path, tmp_path / "b.sqlite")
    assert restore(tmp_path / "b.sqlite", state, "linh") is None
    assert verify.ledger_file(state / _LEDGER).findings == []


def test_nothing_is_restored_over_a_running_station(ledger: SqliteLedger, tmp_path: Path) -> None:
    backup(ledger.store.path, tmp_path / "b.sqlite")
    with (tmp_path / "station.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as `station.daemon` does
        with pytest.raises(FaultError) as error:
            restore(tmp_path / "b.sqlite", tmp_path, "linh")
    assert error.value.fault is Fault.ALREADY_RUNNING
    assert rows(ledger.store.path, "SELECT * FROM restorations") == []


def test_a_backup_that_was_changed_is_not_restored(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.add_order(production(), "linh")
    bad = tmp_path / "b.sqlite"
    backup(ledger.store.path, bad)
    with stranger(bad) as connection:
        connection.execute("DROP TRIGGER orders_no_update")
        connection.execute("UPDATE orders SET quantity = 11")
    before = ledger.store.path.read_bytes()
    with pytest.raises(FaultError, match="does not verify") as error:
        restore(bad, tmp_path, "linh")
    assert error.value.fault is Fault.RESTORE_REFUSED
    assert ledger.store.path.read_bytes() == before
