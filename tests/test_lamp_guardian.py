"""The lamps as the station drives them: through a guardian process that outlives it and says so."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from whole_line import MakeStation

from station.config.messages import Messages
from station.lamps.panel import WHOLE_LINE, Panel
from station.lamps.signals import Colour
from station.model import Outcome
from station.sim.line import wait_for
from station.status import SlotState, SlotStatus, StatusBoard

NO_STATION = {"red", "amber"}


def result(slot: str, outcome: Outcome) -> SlotStatus:
    return SlotStatus(slot, SlotState.RESULT, outcome=outcome)


class Leds:
    """Folders like those of /sys/class/leds, for one slot."""

    def __init__(self, folder: Path, slot: str) -> None:
        self.folder, self._slot = folder, slot
        for colour in Colour:
            (folder / f"{slot}-{colour}").mkdir(parents=True)
            (folder / f"{slot}-{colour}" / "brightness").write_text("7")
            (folder / f"{slot}-{colour}" / "max_brightness").write_text("100")
            (folder / f"{slot}-{colour}" / "trigger").write_text("none")

    @property
    def settings(self) -> dict[str, Any]:
        return {"kind": "leds", "folder": str(self.folder)} | {str(one): f"{self._slot}-{one}" for one in Colour}

    def lit(self) -> set[str]:
        """What shines; a file that is being written is empty for a moment."""
        read = {str(one): (self.folder / f"{self._slot}-{one}" / "brightness").read_text() for one in Colour}
        return {colour for colour, level in read.items() if level not in {"0", ""}}

    def shows(self, *colours: str) -> None:
        wait_for(f"{colours} on slot {self._slot}, now {self.lit()}", lambda: self.lit() == set(colours))


@pytest.fixture
def leds(tmp_path: Path) -> Leds:
    return Leds(tmp_path / "leds", "1")


@pytest.fixture
def board() -> StatusBoard:
    return StatusBoard("line", ("1", "2"), simulated=True)


MakePanel = Callable[..., Panel]


@pytest.fixture
def panel(board: StatusBoard, tmp_path: Path) -> Iterator[MakePanel]:
    """Panels at work that end with the test, and their guardians with them."""
    made: list[Panel] = []

    def make(*lamps: dict[str, Any], **more: Any) -> Panel:
        made.append(Panel(board, lamps, Messages.load("en"), tmp_path / "lamps.lock", **more))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.stop()
    end_guardian(tmp_path / "lamps.lock")


def guardian(lock: Path) -> int:
    """The process that holds the lamps."""
    pid: int = wait_for("a guardian", lambda: lock.exists() and int(lock.read_text() or 0))
    return pid


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def another_guardian(lock: Path, former: int) -> None:
    wait_for("another one", lambda: guardian(lock) != former)


def end_guardian(lock: Path) -> None:
    if lock.exists() and (pid := int(lock.read_text() or 0)) and alive(pid):
        os.kill(pid, signal.SIGKILL)


def test_the_lamps_follow_the_status_and_say_at_the_end_that_there_is_no_station(
    board: StatusBoard, leds: Leds, panel: MakePanel, tmp_path: Path
) -> None:
    lamps = panel({"slot": "1", **leds.settings})
    leds.shows()
    board.post(result("1", Outcome.FAIL))
    leds.shows("red")
    board.post(SlotStatus("1", SlotState.RUNNING))
    leds.shows("blue")
    dimmest = wait_for(
        "a breath", lambda: 0 < int((leds.folder / "1-blue" / "brightness").read_text() or 0) < 50 or None
    )
    assert dimmest
    holder = guardian(tmp_path / "lamps.lock")
    lamps.stop()
    leds.shows(*NO_STATION)
    wait_for("the guardian's end", lambda: not alive(holder))  # LEDs keep what they show


def test_a_lamp_that_hangs_or_is_missing_is_told_and_holds_up_no_other(
    board: StatusBoard, leds: Leds, panel: MakePanel, tmp_path: Path
) -> None:
    hanging = Leds(tmp_path / "hanging", "2")
    red = hanging.folder / "2-red" / "brightness"
    red.unlink()
    os.mkfifo(red)  # opening it to write blocks for as long as nobody reads
    missing = {"slot": WHOLE_LINE, "kind": "tower", "port": str(tmp_path / "nowhere"), "buzzer": False}
    with capture_logs() as logs:
        panel({"slot": "2", **hanging.settings}, missing, {"slot": "1", **leds.settings})
        board.post(result("1", Outcome.PASS))
        leds.shows("green")
        wait_for("both told", lambda: len(board.now().lamps) == 2)
        board.post(result("1", Outcome.FAIL))
        leds.shows("red")
    told = dict(board.now().lamps)
    assert told["2"] == "it does not answer"
    assert "nowhere" in told[WHOLE_LINE]
    assert sorted(entry["slot"] for entry in logs if entry["event"] == "a lamp does not work") == [WHOLE_LINE, "2"]
    assert stat.S_ISFIFO(red.stat().st_mode)


def test_a_lamp_that_comes_back_works_again(board: StatusBoard, panel: MakePanel, tmp_path: Path) -> None:
    late = {"kind": "leds", "folder": str(tmp_path / "late")} | {str(one): f"1-{one}" for one in Colour}
    panel({"slot": "1", **late})
    board.post(result("1", Outcome.ABORTED))
    wait_for("the complaint", lambda: board.now().lamps)
    leds = Leds(tmp_path / "late", "1")
    leds.shows("amber")
    wait_for("its end", lambda: not board.now().lamps)


def test_a_guardian_that_is_killed_or_hangs_is_replaced(
    board: StatusBoard, leds: Leds, panel: MakePanel, tmp_path: Path
) -> None:
    panel({"slot": "1", **leds.settings}, silence_s=2.0)
    board.post(result("1", Outcome.PASS))
    leds.shows("green")
    for number in (signal.SIGKILL, signal.SIGSTOP):
        holder = guardian(tmp_path / "lamps.lock")
        os.kill(holder, number)
        another_guardian(tmp_path / "lamps.lock", holder)
        assert not alive(holder)
    board.post(result("1", Outcome.FAIL))
    leds.shows("red")


STATION = """
import sys, time
from pathlib import Path
from station.config.messages import Messages
from station.lamps.panel import Panel
from station.model import Outcome
from station.status import SlotState, SlotStatus, StatusBoard
import json
board = StatusBoard("line", ("1",), simulated=True)
Panel(board, json.loads(sys.argv[1]), Messages.load("en"), Path(sys.argv[2]), silence_s=2.0).start()
board.post(SlotStatus("1", SlotState.RESULT, outcome=Outcome.PASS))
time.sleep(60)
"""


def killed_station(lamps: list[dict[str, Any]], lock: Path, leds: Leds) -> int:
    """A station that shows green and gets SIGKILL then; returns the guardian's process id."""
    import json

    station = subprocess.Popen([sys.executable, "-c", STATION, json.dumps(lamps), str(lock)])
    try:
        leds.shows("green")
        return guardian(lock)
    finally:
        station.kill()
        station.wait()


def test_a_guardian_with_lights_to_hold_outlives_a_killed_station_until_the_next_one_takes_over(
    board: StatusBoard, leds: Leds, panel: MakePanel, tmp_path: Path
) -> None:
    # The USB light is not there; it is of a kind that somebody has to hold.
    lamps = [{"slot": "1", **leds.settings}, {"slot": "2", "kind": "usb", "serial_number": "none"}]
    lock = tmp_path / "lamps.lock"
    holder = killed_station(lamps, lock, leds)
    leds.shows(*NO_STATION)
    assert alive(holder)
    panel(*lamps)
    board.post(result("1", Outcome.FAIL))
    leds.shows("red")
    assert not alive(holder)
    assert guardian(lock) != holder


def test_a_station_that_hangs_is_no_station_until_it_goes_on(
    board: StatusBoard, leds: Leds, panel: MakePanel, tmp_path: Path
) -> None:
    import json

    lamps = json.dumps([{"slot": "1", **leds.settings}])
    station = subprocess.Popen([sys.executable, "-c", STATION, lamps, str(tmp_path / "lamps.lock")])
    try:
        leds.shows("green")
        station.send_signal(signal.SIGSTOP)
        leds.shows(*NO_STATION)
        station.send_signal(signal.SIGCONT)
        leds.shows("green")
    finally:
        station.kill()
        station.wait()
    leds.shows(*NO_STATION)


def test_a_whole_station_that_is_killed_leaves_no_green_lamp(make_station: MakeStation, leds: Leds) -> None:
    station = make_station()
    station.settings["slots"][0]["lamp"] = leds.settings
    station.write_config()
    station.start()
    leds.shows()
    station.kill()
    leds.shows(*NO_STATION)
    station.start()
    leds.shows()
    assert station.stop() == 0
    leds.shows(*NO_STATION)


def test_a_result_is_heard_and_a_player_that_hangs_is_ended(
    board: StatusBoard, leds: Leds, panel: MakePanel, tmp_path: Path
) -> None:
    player = tmp_path / "play"
    player.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/heard\nexec sleep 60\n')
    player.chmod(0o755)
    files = {"PASS": "good.wav", "FAIL": "bad.wav"}
    sounds = {"command": [str(player)], "timeout_s": 0.2, "files": files}
    panel({"slot": "1", **leds.settings}, sounds=sounds)
    leds.shows()  # what the lamps began with makes no sound
    heard = tmp_path / "heard"
    for outcome, colour in ((Outcome.PASS, "green"), (Outcome.ABORTED, "amber"), (Outcome.FAIL, "red")):
        board.post(result("1", outcome))
        leds.shows(colour)
    wait_for("both sounds", lambda: heard.exists() and heard.read_text().split() == ["good.wav", "bad.wav"])
