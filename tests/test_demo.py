"""``make demo`` is what a newcomer sees first: it ends by itself, tells the truth, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from station.sim import demo
from station.sim.line import wait_for


def left_behind(folder: Path) -> list[str]:
    """Processes that still have to do with ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            there = str(folder) in command or str(folder) in str((process / "cwd").readlink())
        except OSError:
            continue
        if there and "pytest" not in command:
            found.append(command)
    return found


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # A shell that runs the suite in the background had its children ignore SIGINT.
        ["env", "--default-signal=INT", sys.executable, "-m", "station", "demo", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_demo_passes_four_units_fails_one_and_says_where_its_records_are(tmp_path: Path) -> None:
    running = start(tmp_path / "demo")
    said, _ = running.communicate(timeout=100)
    assert running.returncode == 0, said
    table = [line.split() for line in said.split("Steps in milliseconds:")[1].splitlines()]
    outcomes = {row[0]: row[-1] for row in table if row and row[0].startswith("DEMO")}
    assert outcomes == {
        "DEMO-0001": "PASS",
        "DEMO-0002": "U121",
        "DEMO-0003": "PASS",
        "DEMO-0004": "PASS",
        "DEMO-0005": "PASS",
    }
    for name in ("ledger", "log", "lamp"):
        path = next(line.split()[1] for line in said.splitlines() if line.startswith(f"{name}:"))
        assert Path(path).stat().st_size > 0
    assert "\x1b" not in said
    assert left_behind(tmp_path) == []


@pytest.mark.timeout(400)
def test_sixteen_slots_side_by_side_all_pass_but_the_bad_one(tmp_path: Path) -> None:
    running = start(tmp_path / "demo", "--slots", "16")
    said, _ = running.communicate(timeout=360)
    assert running.returncode == 0, said
    rows = [line.split() for line in said.splitlines() if line.startswith("GANG-")]
    failed = [row[0] for row in rows if row[-1] == "U121"]
    assert failed == ["GANG-B-08"]
    assert len([row for row in rows if row[-1] == "PASS"]) == 31
    assert {row[1] for row in rows} == {str(number) for number in range(1, 17)}
    assert "31 of 32 units passed" in said
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    running = start(tmp_path / "demo")
    assert running.stdout is not None
    while "identify" not in running.stdout.readline():
        assert running.poll() is None
    running.send_signal(number)
    running.communicate(timeout=60)
    assert running.returncode != 0
    wait_for("the end of every process", lambda: left_behind(tmp_path) == [])


def test_a_demo_whose_board_does_otherwise_than_expected_is_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(demo, "_PLUGS", (demo.Plug("DEMO-1", "WO-BOARD-KEY", "PASS", ("forget",)),))
    try:
        assert demo.demo(tmp_path / "demo") == 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "NOT as expected" in capsys.readouterr().out
