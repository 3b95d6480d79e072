"""What can be wrong with the ledger's disk and file, each named in words that help, and nothing lost by it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ledgers import (
    MakeLedger,
    admitted,
    at_once,
    child,
    down,
    end,
    golden,
    open_ledger,
    production,
    rows,
    stranger,
    unit,
)

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, store

_READ_ONLY = "PRAGMA query_only = ON"


def test_a_full_disk_is_named_and_costs_nothing_but_time(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    pages = rows(ledger.store.path, "PRAGMA page_count")[0][0]
    engine = ledger.store._engine
    ledger.dispose()

    def limit(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(engine, "connect", limit)
    run = admitted(ledger, unit())
    with pytest.raises(FaultError) as error:
        ledger.add_order(golden("GO-1", *(f"SN-{i}" for i in range(2000))), "linh")
    down(error, "the disk is full; free some space")
    sa.event.remove(engine, "connect", limit)
    ledger.dispose()
    end(ledger, run, Fault.LEDGER_DOWN)
    assert [found.outcome for found in ledger.unit_history("SN-1")] == ["ERROR"]


def test_a_disk_that_does_not_take_a_write_is_named(ledger: SqliteLedger) -> None:
    check = (
        "import resource, sys; from pathlib import Path; import ledgers as l\n"
        "ledger = l.open_ledger(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (Path(sys.argv[1]).stat().st_size,) * 2)\n"
        "try:\n"
        "    for i in range(1000): ledger.add_order(l.production(f'WO-{i}'), 'linh')\n"
        "except l.FaultError as error: print(error.fault.code, error.detail)\n"
        "print(len(ledger.orders()) == i)"
    )
    said = child(check, ledger.store.path).stdout
    assert said.startswith("S601 ")
    assert "the disk has errors, or is full" in said
    assert said.endswith("True\n")


def test_a_file_that_may_not_be_written_is_named(ledger: SqliteLedger) -> None:
    ledger.dispose()
    path = ledger.store.path
    path.chmod(0o440)
    check = "import sys; from pathlib import Path; import ledgers as l\nl.open_ledger(Path(sys.argv[1]))"
    said = child(check, path, plain_user=True).stderr
    assert "S601 LEDGER_DOWN" in said
    assert "the station may not open the file; check the folder and its owner" in said


def test_a_folder_that_may_not_be_written_is_named(ledger: SqliteLedger) -> None:
    ledger.dispose()
    folder = ledger.store.path.parent
    folder.chmod(0o500)
    check = "import sys; from pathlib import Path; import ledgers as l\nl.open_ledger(Path(sys.argv[1]))"
    try:
        said = child(check, ledger.store.path, plain_user=True).stderr
    finally:
        folder.chmod(0o700)
    assert "S601 LEDGER_DOWN" in said
    assert "check" in said
    assert "owner" in said


def test_a_file_made_read_only_under_the_station_is_named(ledger: SqliteLedger) -> None:
    sa.event.listen(ledger.store._engine, "begin", lambda connection: connection.exec_driver_sql(_READ_ONLY))
    with pytest.raises(FaultError) as error:
        ledger.add_order(production(), "linh")
    down(error, "the file is read-only; check its owner and the mount")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FaultError) as error:
        open_ledger(tmp_path / "gone" / "ledger.sqlite")
    down(error, "there is no such folder")


def test_a_file_that_is_no_ledger_is_named_and_kept(ledger_path: Path, make_ledger: MakeLedger) -> None:
    ledger_path.write_bytes(b"precious" * 1000)
    with pytest.raises(FaultError) as error:
        make_ledger()
    down(error, "restore it from the backup, never delete it")
    assert ledger_path.read_bytes() == b"precious" * 1000


def test_a_damaged_file_is_named(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    ledger.dispose()
    path = ledger.store.path
    (page,) = rows(path, "SELECT rootpage FROM sqlite_master WHERE name = 'orders'")[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    with pytest.raises(FaultError) as error:
        ledger.orders()
    down(error, "the file is damaged; keep it")


def test_a_file_that_another_program_holds_is_named_within_the_deadline(
    make_ledger: MakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_BUSY_S", 0.1)
    ledger = make_ledger()
    with stranger(ledger.store.path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FaultError) as error:
            ledger.add_order(production(), "linh")
        down(error, "another program holds the file; find it with `fuser`")
        assert ledger.orders() == []
    ledger.add_order(production(), "linh")


def test_a_write_that_never_ends_holds_up_no_one_for_ever(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_QUEUE_S", 0.1)
    with ledger.store.write():
        assert at_once(lambda _: ledger.add_order(production(), "linh"), 2) == [Fault.LEDGER_DOWN] * 2
    ledger.add_order(production(), "linh")
