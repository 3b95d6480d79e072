"""The daemon as systemd meets it: ready, alive, stopping; and what keeps it from starting, in a sentence."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from whole_line import MakeStation

from station.boards import family
from station.faults import Fault, FaultError
from station.sim.jig import SimJig
from station.sim.line import Provider, Station, wait_for


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The other end of NOTIFY_SOCKET (sd_notify(3))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(20)
        yield channel


def told(channel: socket.socket, word: str) -> str:
    """The next message that begins with ``word``."""
    while True:
        message = channel.recv(4096).decode()
        if message.startswith(word):
            return message


def test_systemd_is_told_ready_alive_and_stopping(make_station: MakeStation, systemd: socket.socket) -> None:
    station = make_station()
    address = str(systemd.getsockname())
    station.start({**station.provider.environment, "NOTIFY_SOCKET": address})
    assert told(systemd, "READY=1").splitlines()[1].startswith("STATUS=1 slots")
    assert told(systemd, "WATCHDOG=1")
    assert told(systemd, "WATCHDOG=1")
    assert station.stop() == 0
    assert told(systemd, "STOPPING=1")


def test_a_systemd_that_does_not_listen_stops_nothing(make_station: MakeStation, tmp_path: Path) -> None:
    station = make_station()
    station.start({**station.provider.environment, "NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert station.stop() == 0


def test_a_board_family_that_nobody_installed_is_named() -> None:
    with pytest.raises(FaultError, match=r"no board family is called 'toaster'; installed are .*console") as error:
        family("toaster")
    assert error.value.fault is Fault.CONFIG


def test_no_core_dump_and_no_debugger_gets_at_the_keys(station: Station) -> None:
    assert station.process is not None
    assert resource.prlimit(station.process.pid, resource.RLIMIT_CORE) == (0, 0)
    dropped = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*dropped, "cat", f"/proc/{station.process.pid}/environ"], capture_output=True, check=False, timeout=10
    )
    assert done.returncode != 0


def test_whoever_speaks_in_the_daemon_each_event_is_one_line_without_the_values_at_hand() -> None:
    code = (
        "import logging, structlog, threading, types\n"
        "from station.process import log_as_json\n"
        "log_as_json(station='line-1')\n"
        "def wrong():\n"
        "    key = 'a-private' + '-key'\n"
        "    raise ValueError('a' + chr(10) + 'b')\n"
        "try: wrong()\n"
        "except ValueError: logging.getLogger('uvicorn.error').exception('in the' + chr(10) + 'application')\n"
        "logging.getLogger('botocore').info('signed with ...')\n"
        "thread = threading.Thread(target=wrong, name='slot-1'); thread.start(); thread.join()\n"
        "structlog.get_logger().info('ours')\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True).stderr
    events = [json.loads(line) for line in said.splitlines()]
    assert [event["event"] for event in events] == ["in the\napplication", "a thread died", "ours"]
    assert [event["exception"][0]["exc_type"] for event in events[:2]] == ["ValueError", "ValueError"]
    assert events[1]["thread"] == "slot-1"
    assert "a-private-key" not in said


def refused(station: Station) -> str:
    """The station does not start; its complaint."""
    done = subprocess.run(
        [*station.command, "run"],
        env=dict(station.provider.environment),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_state_folder_that_is_not_there_is_told(make_station: MakeStation) -> None:
    station = make_station()
    station.state.rmdir()
    said = refused(station)
    assert said.splitlines()[0].startswith("S606")
    assert "state folder" in said


def test_a_token_that_is_not_there_is_told(make_station: MakeStation) -> None:
    station = make_station()
    station.settings["hsm"]["key"] = station.settings["hsm"]["key"].replace("token=demo", "token=other")
    station.write_config()
    assert refused(station).startswith("C307")


def test_a_simulated_ledger_is_refused_in_production_and_back(make_station: MakeStation) -> None:
    from station.ledger import SqliteLedger

    station = make_station()
    SqliteLedger(
        station.state / "ledger.sqlite", station="s", software="1", config_hash="c", token="t", simulated=False
    ).dispose()
    said = refused(station)
    assert said.startswith("S605")
    assert "ledger" in said


def test_the_lamp_on_the_terminal_speaks_the_station_s_language(
    make_station: MakeStation, jig: SimJig, cloud_api: Any
) -> None:
    from whole_line import Bench

    station = make_station()
    station.settings["language"] = "vi"
    station.write_config()
    station.start()
    station.order("WO-1", "console-station-key", 5)
    bench = Bench(station, jig, cloud_api)
    assert bench.run("SN-1")["outcome"] == "PASS"
    assert bench.run("SN-2", "forget")["outcome"] == "FAIL"
    lamp = (station.folder / "lamp.txt").read_text()
    assert "[1] ĐẠT  SN-1" in lamp
    assert "[1] HỎNG  SN-2  U122 Bo mạch bị mất chứng chỉ đã lưu." in lamp


def test_watch_and_unit_and_status_show_a_run(
    station: Station, jig: SimJig, cloud_api: Any, provider: Provider
) -> None:
    from whole_line import Bench

    station.order("WO-1", "console-station-key", 5)
    watching = subprocess.Popen(
        [*station.command, "watch"], stdout=subprocess.PIPE, text=True, env=dict(provider.environment)
    )
    assert watching.stdout is not None
    assert watching.stdout.readline().endswith("slot 1  empty\n")
    Bench(station, jig, cloud_api).run("SN-7", "flip=100")
    lines: list[str] = []
    while not any("FAIL" in line for line in lines):
        lines.append(watching.stdout.readline())
    watching.terminate()
    watching.stdout.close()
    watching.wait()
    assert any("running  SN-7" in line for line in lines)  # which steps, is the reader's speed: it sees the present
    assert "U121 The board stored something else (the chain: sent" in lines[-1]
    shown = station.run("unit", "SN-7")
    assert "SN-7: 1 run(s)" in shown
    assert "U121 The board stored something else" in shown
    assert station.run("orders", "list").splitlines()[1].split()[:5] == [
        "WO-1",
        "console-station-key",
        "production",
        "0",
        "5",
    ]
    assert "SIMULATED" in station.run("status")
    wait_for("empty", lambda: "empty" in station.run("status"))
