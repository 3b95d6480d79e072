"""What the disk can do to a line at work: it stops with S601 before a unit is wasted; what is green is on the disk."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from whole_line import Bench, MakeStation

from station.ledger import verify
from station.sim.jig import SimJig
from station.sim.line import LineError, Station, wait_for


class Disk:
    """A file system of its own under the station's state: a tmpfs, which fills up and is read-only as any other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._folder)], check=True)

    def size(self, amount: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={amount}", str(self._folder)], check=True)

    def fill(self) -> None:
        """Make it just as large as what is on it."""
        found = os.statvfs(self._folder)
        self.size(str((found.f_blocks - found.f_bfree) * found.f_frsize))

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


@pytest.fixture
def at_work(make_station: MakeStation) -> Station:
    return make_station()


@pytest.fixture
def disk(at_work: Station) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("to mount a small file system one must be root")
    made = Disk(at_work.state)
    made.mount("size=400m,mode=0750")
    yield made
    at_work.kill()
    made.unmount()


@pytest.fixture
def failing_disk(at_work: Station, tmp_path: Path) -> Iterator[Path]:
    """An ext4 of its own under the station's state; the kernel makes it read-only as it does where a disk errs."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(512 * 1024 * 1024)  # sparse
    commands = (["mkfs.ext4", "-q", "-F", str(image)], ["mount", "-o", "loop", str(image), str(at_work.state)])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"to mount a disk that fails one must be root, with loop devices: {done.stderr.strip()}")
    yield image
    at_work.kill()
    subprocess.run(["umount", "--lazy", str(at_work.state)], check=True)


def started(station: Station, jig: SimJig, api: Any) -> Bench:
    station.start()
    station.order("WO-1", "console-station-key", 50)
    return Bench(station, jig, api)


def passed_on_disk(station: Station) -> set[str]:
    with closing(sqlite3.connect(f"file:{station.state}/ledger.sqlite?mode=ro", uri=True)) as ledger:
        return {serial for (serial,) in ledger.execute("SELECT serial FROM tally WHERE outcome = 'PASS'")}


def test_a_full_disk_stops_the_line_and_room_again_starts_it(
    at_work: Station, disk: Disk, jig: SimJig, cloud_api: Any
) -> None:
    bench = started(at_work, jig, cloud_api)
    assert bench.run("SN-0")["outcome"] == "PASS"
    with closing(sqlite3.connect(at_work.state / "ledger.sqlite")) as other:
        # SQLite's log is what grows; emptied, not even the first row of a run finds room.
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    disk.fill()
    before = at_work.slot()["since"]
    board = bench.plug("SN-1")
    result = at_work.result(after=before)
    assert (result["outcome"], result["fault"]) == ("ERROR", "S601")
    assert "disk" in result["detail"]
    disk.size("400m")
    assert passed_on_disk(at_work) == {"SN-0"}
    assert bench.history("SN-1") == []  # it was never touched
    board.lift()
    at_work.empty()
    assert bench.run("SN-1")["outcome"] == "PASS"
    assert passed_on_disk(at_work) == {"SN-0", "SN-1"}
    assert verify.ledger_file(at_work.state / "ledger.sqlite").findings == []


def test_a_disk_that_fills_up_in_a_run_shows_no_green_and_takes_the_certificate_out_of_service(
    at_work: Station, disk: Disk, jig: SimJig, cloud_api: Any
) -> None:
    bench = started(at_work, jig, cloud_api)
    board = bench.plug("SN-1", "slow=50")
    wait_for("its certificate", lambda: at_work.slot()["step"] in {"install", "verify"})
    disk.fill()
    wait_for("the fault", lambda: at_work.slot()["fault"] == "S601")
    board.lift()
    assert passed_on_disk(at_work) == set()
    disk.size("400m")
    at_work.empty()
    assert [(run["outcome"], run["fault"]) for run in bench.history("SN-1")] == [("ERROR", "S601")]
    bench.nothing_active("SN-1")
    lamp = at_work.folder / "lamp.txt"
    assert "PASS" not in lamp.read_text()
    assert bench.run("SN-1")["outcome"] == "PASS"
    wait_for("green", lambda: "PASS" in lamp.read_text())


def test_a_ledger_damaged_under_a_line_at_work_stops_it(at_work: Station, jig: SimJig, cloud_api: Any) -> None:
    bench = started(at_work, jig, cloud_api)
    assert bench.run("SN-0")["outcome"] == "PASS"
    file = at_work.state / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as handle:
        handle.seek(4096)
        handle.write(os.urandom(file.stat().st_size - 4096))
    result = bench.run("SN-1")
    assert (result["outcome"], result["fault"], result["run"]) == ("ERROR", "S601", None)  # before it was touched
    assert "the file is damaged; keep it, and restore the backup beside it" in result["detail"]


def test_a_disk_that_turns_read_only_under_a_line_at_work_stops_it(
    at_work: Station, failing_disk: Path, jig: SimJig, cloud_api: Any
) -> None:
    bench = started(at_work, jig, cloud_api)
    assert bench.run("SN-0")["outcome"] == "PASS"
    # ext4(5): "abort" is for debugging; what the kernel does itself where a disk errs (errors=remount-ro).
    subprocess.run(["mount", "-o", "remount,abort", str(at_work.state)], check=True)
    result = bench.run("SN-1")
    assert (result["outcome"], result["fault"], result["run"]) == ("ERROR", "S601", None)  # before it was touched
    assert "the disk has errors, or is full; see `dmesg`" in result["detail"]
    at_work.kill()
    subprocess.run(["umount", "--lazy", str(at_work.state)], check=True)
    subprocess.run(["e2fsck", "-p", str(failing_disk)], check=False, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(failing_disk), str(at_work.state)], check=True)
    assert passed_on_disk(at_work) == {"SN-0"}
    at_work.start()
    assert bench.run("SN-1")["outcome"] == "PASS"


def test_a_read_only_disk_keeps_the_station_from_starting(at_work: Station, disk: Disk) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(at_work.state)], check=True)
    with pytest.raises(LineError, match=r"S601 (?s:.*) cannot be written: Read-only file system"):
        at_work.start()


def test_a_ledger_that_is_corrupt_or_gone_keeps_the_station_from_starting_until_it_is_restored(
    at_work: Station, jig: SimJig, cloud_api: Any, tmp_path: Path
) -> None:
    bench = started(at_work, jig, cloud_api)
    assert bench.run("SN-0")["outcome"] == "PASS"
    at_work.run("ledger", "backup", str(tmp_path / "backup.sqlite"))
    at_work.stop()
    ledger = at_work.state / "ledger.sqlite"
    data = ledger.read_bytes()
    ledger.write_bytes(data[:4096] + os.urandom(len(data) - 4096))
    kept = ledger.read_bytes()
    with pytest.raises(LineError, match="S601"):
        at_work.start()
    assert ledger.read_bytes() == kept
    ledger.unlink()
    with pytest.raises(LineError, match="S636"):
        at_work.start()
    with pytest.raises(LineError, match="S636"):
        at_work.run("report")
    assert not ledger.exists()
    at_work.run("ledger", "restore", str(tmp_path / "backup.sqlite"), "--by", "linh")
    at_work.start()
    result = bench.run("SN-0")  # it knows who passed
    assert (result["outcome"], result["fault"]) == ("ERROR", "O503")


def test_a_ledger_that_another_program_holds_stops_the_line_until_it_lets_go(
    at_work: Station, jig: SimJig, cloud_api: Any
) -> None:
    bench = started(at_work, jig, cloud_api)
    with closing(sqlite3.connect(at_work.state / "ledger.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        board = bench.plug("SN-1")
        result = at_work.result()
        assert (result["outcome"], result["fault"]) == ("ERROR", "S601")
        assert "another program holds the file" in result["detail"]
        other.execute("ROLLBACK")
    board.lift()
    wait_for("the slot", lambda: at_work.slot()["state"] == "empty")
    assert bench.history("SN-1") == []  # it was never touched
    assert bench.run("SN-1")["outcome"] == "PASS"
