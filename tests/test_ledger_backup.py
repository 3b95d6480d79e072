"""Backup while the line runs, and the way back: never over a running station, never a ledger that does not verify."""

from __future__ import annotations

import fcntl
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
from ledgers import (
    MakeLedger,
    admitted,
    end,
    open_ledger,
    production,
    rows,
    started,
    stranger,
    taken_back,
    unit,
    whole_run,
)

from station.cli import main
from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, verify
from station.ledger.anchors import add_head
from station.ledger.backup import backup, begin, restore
from station.ledger.export import archive, verify_archives
from station.ledger.store import HEAD

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
    replaced = restore(kept_safe, tmp_path, tmp_path / "archives", "linh", "s1")
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
    assert restore(tmp_path / "b.sqlite", state, tmp_path / "archives", "linh", "s1") is None
    assert verify.ledger_file(state / _LEDGER).findings == []


@pytest.mark.parametrize("version", ["0003", "0007"])
def test_a_backup_from_before_an_update_verifies_and_is_restored(
    make_ledger: MakeLedger, ledger_path: Path, tmp_path: Path, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = make_ledger()
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit("SN-1"))
    ledger.dispose()
    taken_back(ledger_path, version)
    old = tmp_path / "old.sqlite"
    backup(ledger_path, old)
    verdict = verify.ledger_file(old)
    assert (verdict.findings, verdict.schema, verdict.runs) == ([], version, 1)
    assert main(["ledger", "verify", str(old)]) == 0
    assert f"It is of schema {version}, from before an update" in capsys.readouterr().out
    restore(old, tmp_path, tmp_path / "archives", "linh", "s1")
    again = verify.ledger_file(ledger_path)
    assert (again.findings, again.schema, again.runs) == ([], HEAD, 1)
    with stranger(old) as file:  # as its own schema has it, and no other
        file.execute("DROP TRIGGER orders_no_update")
    assert "trigger orders_no_update" in {found.where for found in verify.ledger_file(old).findings}


def test_nothing_is_restored_over_a_running_station(ledger: SqliteLedger, tmp_path: Path) -> None:
    backup(ledger.store.path, tmp_path / "b.sqlite")
    with (tmp_path / "station.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as `station.daemon` does
        with pytest.raises(FaultError) as error:
            restore(tmp_path / "b.sqlite", tmp_path, tmp_path / "archives", "linh", "s1")
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
        restore(bad, tmp_path, tmp_path / "archives", "linh", "s1")
    assert error.value.fault is Fault.RESTORE_REFUSED
    assert ledger.store.path.read_bytes() == before


def begun(state: Path) -> None:
    begin(state, state / "archives", "linh", simulated=False)


def test_a_station_whose_record_is_gone_does_not_begin_anew_by_itself(
    make_ledger: MakeLedger, ledger_path: Path, tmp_path: Path
) -> None:
    ledger = make_ledger()
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit("SN-1"))
    kept_safe = tmp_path / "elsewhere.sqlite"
    backup(ledger_path, kept_safe)
    ledger.dispose()
    for lost in (ledger_path.unlink, partial(ledger_path.write_bytes, b"")):
        lost()
        with pytest.raises(FaultError, match="was here, and is not; restore its backup") as error:
            make_ledger()
        assert error.value.fault is Fault.LEDGER_GONE
        assert not ledger_path.exists() or not ledger_path.stat().st_size
    restore(kept_safe, tmp_path, tmp_path / "archives", "linh", "s1")
    assert [found.outcome for found in make_ledger().unit_history("SN-1")] == ["PASS"]


def test_another_ledger_in_its_place_is_refused_and_so_is_an_older_copy(
    make_ledger: MakeLedger, ledger_path: Path, tmp_path: Path
) -> None:
    ledger = make_ledger()
    ledger.dispose()
    older = Path(shutil.copy(ledger_path, tmp_path / "older.sqlite"))
    ledger = make_ledger()
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit("SN-1"))
    ledger.store.mark()  # as the keeper does each minute
    ledger.dispose()
    ledger = make_ledger()
    ledger.dispose()
    newest = Path(shutil.copy(ledger_path, tmp_path / "newest.sqlite"))
    other = tmp_path / "other" / "ledger.sqlite"
    other.parent.mkdir()
    open_ledger(other).dispose()
    for file, said in ((other, "is another ledger than was here"), (older, "is older than the ledger that was here")):
        shutil.copy(file, ledger_path)
        with pytest.raises(FaultError, match=said) as error:
            make_ledger()
        assert error.value.fault is Fault.LEDGER_GONE
    with pytest.raises(FaultError, match="is of station s1, this is s2") as error:
        restore(newest, tmp_path, tmp_path / "archives", "linh", "s2")
    assert error.value.fault is Fault.RESTORE_REFUSED
    restore(older, tmp_path, tmp_path / "archives", "linh", "s1")  # a person may, and is on record for it
    assert make_ledger().unit_history("SN-1") == []


def test_a_damaged_mark_keeps_no_whole_ledger_from_its_work(make_ledger: MakeLedger, ledger_path: Path) -> None:
    make_ledger().dispose()
    mark = ledger_path.with_name("ledger.sqlite.mark")
    mark.chmod(0o640)
    mark.write_bytes(b"\xff\x00 1 2\n\n7\n")
    make_ledger().dispose()


def test_only_a_person_begins_a_new_record_and_it_says_so_for_ever(
    make_ledger: MakeLedger, ledger_path: Path, tmp_path: Path
) -> None:
    ledger = make_ledger()
    head = add_head(ledger.store, "s1", "2026-11-23")
    assert head is not None
    archive(ledger_path, tmp_path / "archives", head)
    ledger.dispose()
    with pytest.raises(FaultError, match="nothing is begun anew") as error:
        begun(tmp_path)
    assert error.value.fault is Fault.RESTORE_REFUSED
    ledger_path.unlink()
    begun(tmp_path)
    assert [path.parent.name[:7] for path in tmp_path.rglob("*.jsonl.gz")] == ["before-"]
    assert rows(ledger_path, "SELECT seq, restored_by FROM restorations") == [(0, "linh")]
    assert verify.ledger_file(ledger_path).findings == []
    make_ledger().dispose()


def test_a_ledger_removed_under_a_station_at_work_takes_nothing_more(
    make_ledger: MakeLedger, ledger_path: Path, tmp_path: Path
) -> None:
    ledger = make_ledger()
    ledger.add_order(production(), "linh")
    run = admitted(ledger, unit())
    ledger_path.rename(tmp_path / "moved away")
    with pytest.raises(FaultError, match="removed or replaced under the station") as error:
        end(ledger, run)
    assert error.value.fault is Fault.LEDGER_GONE
    (tmp_path / "moved away").rename(ledger_path)
    end(ledger, run)


def test_a_log_removed_under_a_station_at_work_loses_nothing_that_was_green(
    make_ledger: MakeLedger, ledger_path: Path, tmp_path: Path
) -> None:
    ledger = make_ledger()
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit("SN-1"))
    ledger_path.with_name("ledger.sqlite-wal").unlink()
    with pytest.raises(FaultError, match="removed under the station; nothing is lost") as error:
        started(ledger, unit("SN-2"))
    assert error.value.fault is Fault.LEDGER_GONE
    # The power goes: what is not in the file was never there.
    after = tmp_path / "after" / "ledger.sqlite"
    after.parent.mkdir()
    shutil.copy(ledger_path, after)
    again = open_ledger(after)
    assert [found.outcome for found in again.unit_history("SN-1")] == ["PASS"]
    again.dispose()
    assert verify.ledger_file(after).findings == []


def test_archives_go_on_from_what_was_restored_and_those_of_what_it_lost_are_kept(
    make_ledger: MakeLedger, ledger_path: Path, tmp_path: Path
) -> None:
    ledger, archives = make_ledger(), tmp_path / "archives"
    ledger.add_order(production(), "linh")

    def a_day(day: str) -> None:
        whole_run(ledger, unit(f"SN-{day}"))
        head = add_head(ledger.store, "s1", day)
        assert head is not None
        archive(ledger_path, archives, head)

    a_day("2026-11-21")
    backup(ledger_path, tmp_path / "b.sqlite")
    a_day("2026-11-22")
    ledger.dispose()
    restore(tmp_path / "b.sqlite", tmp_path, archives, "linh", "s1")
    ledger = make_ledger()
    a_day("2026-11-23")
    assert sorted(path.name[:10] for path in archives.iterdir()) == ["2026-11-21", "2026-11-23", "before-202"]
    whole = verify_archives(archives)
    assert (whole.findings, whole.links) == ([], verify.heads(ledger_path)[-1].seq)
