"""The commands as people and scripts meet them: help, exit codes, a sentence and a next step for every error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from station.cli import _parser, main, parsing
from station.ledger import SqliteLedger
from station.model import Step
from station.service import SlotService
from station.status import SlotState, SlotStatus, StatusBoard
from station.web import ControlServer, application

ROOT = Path(__file__).parent.parent


def station(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "station", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(env or {})},
    )


def commands() -> list[str]:
    """Every command there is, as one would type it."""
    found: list[str] = []

    def collect(parser: object, words: tuple[str, ...]) -> None:
        groups = [one for one in parser._actions if hasattr(one, "choices") and isinstance(one.choices, dict)]  # type: ignore[attr-defined]
        if not groups and words:
            found.append(" ".join(words))
        for group in groups:
            for word, below in group.choices.items():
                collect(below, (*words, word))

    collect(_parser(), ())
    return found


@pytest.mark.parametrize("command", ["", *commands()])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert "usage: station" in capsys.readouterr().out


def test_a_user_id_without_a_name_gets_help_as_everybody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody() -> str:  # a container's user, who is in no passwd(5); to become one needs root
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(parsing, "getuser", nobody)
    with pytest.raises(SystemExit):
        main(["orders", "add", "--help"])
    assert "who is on record" in capsys.readouterr().out


def test_the_readme_names_every_command_and_no_other() -> None:
    block = (ROOT / "README.md").read_text().split("## Commands")[1].split("```")[1]
    named = re.findall(r"^station ((?:[a-z-]+ ?)+)", block, re.MULTILINE)
    known = commands()
    told = {next((one for one in known if f"{words} ".startswith(f"{one} ")), words) for words in named}
    assert told == set(known) - {"demo", "orders list", "orders close"}


def test_the_examples_of_the_help_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    examples = re.findall(r"^  station ([a-z]+)", capsys.readouterr().out.split("examples:")[1], re.MULTILINE)
    assert len(examples) >= 5
    assert {word.split()[0] for word in commands()} >= set(examples)


def test_wrong_usage_is_exit_2() -> None:
    assert station("orders").returncode == 2
    assert station("fly").returncode == 2


def test_settings_that_are_right_are_exit_0(settings: Path) -> None:
    done = station("config", "check", env={"STATION_CONFIG": str(settings)})
    assert (done.returncode, done.stderr) == (0, "")
    assert "is right: 1 slot(s), products console-board-key" in done.stdout


def test_settings_that_are_wrong_are_exit_1_with_each_mistake_and_the_next_step(settings: Path) -> None:
    settings.write_text(settings.read_text().replace("language: vi", "language: fr").replace("port: 8883", "port: x"))
    done = station("--config", str(settings), "config", "check")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("S606 The settings are wrong\n")
    assert done.stderr.count(f"{settings}:") == 2
    assert "Next: Correct the file at the line named" in done.stderr


@pytest.mark.parametrize("command", ["status", "watch", "orders list", "orders close WO-1", "unit SN-1"])
def test_a_station_that_does_not_run_is_exit_3(settings: Path, command: str) -> None:
    done = station("--config", str(settings), *command.split())
    assert done.returncode == 3
    assert done.stderr.startswith("S609 The station does not run\n")
    assert "Next: Start it" in done.stderr


def test_watch_outlasts_a_restart_of_the_daemon_and_says_so(settings: Path, ledger: SqliteLedger) -> None:
    runtime = settings.parent
    service = SlotService(runtime / "out.json", ("1",))

    def daemon(*slots: SlotStatus) -> ControlServer:
        status = StatusBoard("line-1", ("1",), simulated=False)
        for slot in slots:
            status.post(slot)
        server = ControlServer(application(status, ledger, frozenset(), service), runtime / "control.sock")
        server.start()
        return server

    running = SlotStatus("1", SlotState.RUNNING, serial="SN-1", step=Step.FLASH)
    server = daemon(running, running)
    with subprocess.Popen(
        [sys.executable, "-m", "station", "--config", str(settings), "watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        try:
            assert "slot 1  running  SN-1  flash" in watching.stdout.readline()
            server.stop()
            assert watching.stderr.readline() == "the station does not answer; watching for it to start again\n"
            server = daemon()  # its versions begin anew, below what was seen
            assert watching.stderr.readline() == "the station answers again\n"
            assert watching.stdout.readline().endswith("slot 1  empty\n")
        finally:
            server.stop()
            watching.kill()


def test_a_reader_that_leaves_early_is_no_error(settings: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m station --config {settings} config check | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("answer", ["no\n", ""], ids=["no", "nobody there"])
def test_a_ceremony_asks_before_it_does_anything(tmp_path: Path, answer: str) -> None:
    act = tmp_path / "root.yaml"
    act.write_bytes((ROOT / "config/ceremony/root.yaml").read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "station", "ceremony", str(act)],
        input=answer,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Act root:" in done.stdout
    assert "nothing was done" in done.stderr
    assert list(tmp_path.iterdir()) == [act]


def test_a_latched_pin_is_cleared_by_hand(settings: Path) -> None:
    from station.config import load
    from station.hsm.pin import PinLatch
    from station.hsm.uri import KeyUri

    latch = PinLatch(settings.parent / "pin-latch", KeyUri.parse(load(settings).hsm.key))
    latch.set("PinIncorrect")
    done = station("--config", str(settings), "hsm", "clear-pin")
    assert (done.returncode, done.stdout) == (0, "the PIN latch is cleared; the next start logs in once\n")
    latch.check()


def test_commands_load_only_what_they_need() -> None:
    code = (
        "import sys\n"
        "from station.cli import main\n"
        "main(['--config', sys.argv[1], 'status'])\n"
        "heavy = {'boto3', 'paho', 'sqlalchemy', 'alembic', 'starlette', 'uvicorn', 'pkcs11', 'serial', 'rich'}\n"
        "boards = {name for name in sys.modules if name.startswith('station.boards.')}\n"
        "print(sorted(heavy & set(sys.modules) | boards))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "/nowhere/station.yaml"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "[]\n"


def test_a_board_can_be_tried_from_the_command_line(tmp_path: Path) -> None:
    from station.sim.jig import SimJig

    with SimJig(tmp_path) as jig:
        jig.plug(tmp_path / "port", serial="SN-1", chip="C-1", model="demo-board")
        done = station("board", "try", str(tmp_path / "port"))
        assert done.returncode == 0, done.stderr
        assert "SN-1" in done.stdout
    missing = station("board", "try", str(tmp_path / "none"))
    assert missing.returncode == 1
    assert missing.stderr.startswith("J201")


def test_status_as_json_is_one_document_a_line(settings: Path, tmp_path: Path) -> None:
    from station.control import Control
    from station.status import StatusBoard
    from station.web import ControlServer, application

    class Nothing:
        def orders(self) -> list[object]:
            return []

    board = StatusBoard("line-1", ("1",), simulated=False)
    server = ControlServer(application(board, Nothing(), frozenset(), Nothing()), tmp_path / "control.sock")  # type: ignore[arg-type]
    server.start()
    try:
        assert Control(tmp_path / "control.sock").status()["station"] == "line-1"
        said = json.loads(station("--config", str(settings), "status", "--json").stdout)
        assert said["slots"][0]["state"] == "empty"
        text = station("--config", str(settings), "status").stdout
        assert text.startswith("line-1")
        assert "\x1b" not in text
        assert station("--config", str(settings), "orders", "list").stdout.startswith("no work order yet; open one")
    finally:
        server.stop()
