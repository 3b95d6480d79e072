"""Cut at each step: the right outcome and fault, nothing green, nothing lost, no certificate that works."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from whole_line import Bench, MakeStation, fresh_serial, order_troubles

from station.sim.jig import SimJig
from station.sim.line import Provider, wait_for


@pytest.mark.parametrize(
    ("command", "step"),
    [
        ("hello", "identify"),
        ("keygen", "enroll"),
        ("csr", "enroll"),
        ("read", "enroll"),
        ("write", "install"),
        ("commit", "install"),
        ("reset", "verify"),
        ("sign", "verify"),
        ("dial", "connect"),
    ],
)
def test_a_board_lifted_in_the_middle_is_aborted(lasting_bench: Bench, command: str, step: str) -> None:
    bench, serial, before = lasting_bench, fresh_serial(), lasting_bench.station.slot()["since"]
    bench.plug(serial, f"vanish-at={command}")

    def aborted() -> dict[str, Any] | None:
        slot = bench.station.slot()
        return slot if slot["outcome"] and slot["since"] != before else None

    result = wait_for("a result", aborted)
    assert (result["outcome"], result["fault"], result["step"]) == ("ABORTED", "J201", step)
    if result["serial"]:
        bench.nothing_active(serial)
    bench.station.empty()
    assert bench.run(fresh_serial())["outcome"] == "PASS"


@pytest.mark.parametrize("step", ["enroll", "issue", "install", "verify", "connect"])
def test_a_daemon_that_is_killed_leaves_nothing_that_works(board_bench: Bench, step: str) -> None:
    bench = board_bench
    order_troubles(bench.station.provider, pending_delay_s=1.0)
    board = bench.plug("SN-1", "slow=60")
    wait_for(step, lambda: f'"step": "{step}"' in bench.station.log.read_text())
    bench.station.kill()
    board.lift()
    order_troubles(bench.station.provider)
    bench.station.start()
    (run,) = bench.history("SN-1")
    assert (run["outcome"], run["fault"]) == ("ERROR", "S603")
    bench.nothing_active("SN-1")
    assert bench.run("SN-1")["outcome"] == "PASS"
    bench.station.drained()
    assert bench.certificate_states("SN-1")[-1] == "ACTIVE"


def token_children(station: Any) -> list[int]:
    """The pids of the daemon's token processes."""
    # A child belongs to the thread that started it: one that was started anew, to a slot's.
    tasks = Path(f"/proc/{station.process.pid}/task")
    found = [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    return [child for child in found if b"station.hsm.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_killed_token_process_costs_no_unit(lasting_bench: Bench) -> None:
    assert lasting_bench.run(fresh_serial())["outcome"] == "PASS"
    (child,) = token_children(lasting_bench.station)
    os.kill(child, signal.SIGKILL)
    assert lasting_bench.run(fresh_serial())["outcome"] == "PASS"


def test_a_hanging_module_is_killed_and_costs_no_unit(lasting_bench: Bench) -> None:
    (child,) = token_children(lasting_bench.station)
    os.kill(child, signal.SIGSTOP)
    assert lasting_bench.run(fresh_serial())["outcome"] == "PASS"
    assert child not in token_children(lasting_bench.station)


def test_a_token_that_is_gone_is_the_cas_fault_and_the_line_goes_on_when_it_is_back(
    make_station: MakeStation, own_token: Provider, jig: SimJig, cloud_api: Any
) -> None:
    station = make_station(where=own_token)
    station.start()
    station.order("WO-1", "console-station-key", 5)
    bench = Bench(station, jig, cloud_api)
    tokens = own_token.folder / "tokens"
    shutil.move(tokens, tokens.with_name("away"))
    tokens.mkdir()
    (child,) = token_children(station)
    os.kill(child, signal.SIGKILL)
    result = bench.run("SN-1")
    assert result["outcome"] == "ERROR"
    assert result["fault"][0] == "C"
    assert result["step"] == "issue"
    (run,) = bench.history("SN-1")
    assert [certificate["certificate_id"] for certificate in run["certificates"]] == [None]
    tokens.rmdir()
    shutil.move(tokens.with_name("away"), tokens)
    assert bench.run("SN-1")["outcome"] == "PASS"


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        ("silent", "N403"),
        ("close", "N405"),
        ("reset", "N405"),
        ("connack-5", "N405"),
        ("alert-after-handshake", "N405"),
    ],
)
def test_a_cloud_that_never_registers_is_the_clouds_fault(
    make_station: MakeStation, jig: SimJig, cloud_api: Any, ending: str, fault: str
) -> None:
    station = make_station()
    station.settings["aws"] |= {"connect_deadline_s": 3.0, "dial_timeout_s": 1.0}
    station.write_config()
    station.start()
    station.order("WO-1", "console-station-key", 5)
    bench = Bench(station, jig, cloud_api)
    order_troubles(station.provider, endings_always=ending)
    result = bench.run("SN-1")
    assert (result["outcome"], result["fault"]) == ("ERROR", fault)
    order_troubles(station.provider)
    bench.nothing_active("SN-1")
    assert bench.run("SN-1")["outcome"] == "PASS"


@pytest.mark.parametrize(
    "ending", ["close", "reset", "alert-in-handshake", "alert-after-handshake", "silent", "connack-5"]
)
def test_a_lost_first_connect_in_any_form_costs_no_unit(lasting_bench: Bench, ending: str) -> None:
    order_troubles(lasting_bench.station.provider, endings=[ending])
    assert lasting_bench.run(fresh_serial())["outcome"] == "PASS"


def test_a_slow_registry_costs_no_unit(lasting_bench: Bench) -> None:
    order_troubles(lasting_bench.station.provider, pending_delay_s=2.0, throttle={"DescribeCertificate": 4})
    assert lasting_bench.run(fresh_serial())["outcome"] == "PASS"


def test_a_publish_that_is_never_acknowledged_is_not_a_pass(
    make_station: MakeStation, jig: SimJig, cloud_api: Any
) -> None:
    station = make_station()
    station.settings["aws"] |= {"connect_deadline_s": 4.0, "dial_timeout_s": 1.0}
    station.write_config()
    station.start()
    station.order("WO-1", "console-station-key", 5)
    bench = Bench(station, jig, cloud_api)
    order_troubles(station.provider, endings=["pass"] + ["connack-no-puback"] * 50)
    result = bench.run("SN-1")
    assert result["outcome"] == "ERROR"
    assert result["fault"] in {"N412", "N413"}
    order_troubles(station.provider)
    bench.nothing_active("SN-1")


def test_a_fresh_unit_that_connects_at_once_is_named(bench: Bench) -> None:
    result = bench.run("SN-1", "dial-ending=acknowledged")
    # The station dials for a key that it made: a board that lies about dialling is not even asked.
    assert result["outcome"] == "PASS"


def test_a_board_that_claims_to_have_connected_at_once_is_named(lasting_bench: Bench) -> None:
    serial = fresh_serial()
    result = lasting_bench.run(serial, "dial-ending=acknowledged")
    assert (result["outcome"], result["fault"]) == ("ERROR", "N409")
    lasting_bench.nothing_active(serial)


def test_sigterm_lets_a_run_end(bench: Bench) -> None:
    board = bench.plug("SN-1", "slow=30")
    wait_for("the run", lambda: bench.station.slot()["state"] == "running")
    assert bench.station.stop() == 0
    board.lift()
    bench.station.start()
    (run,) = bench.history("SN-1")
    assert run["outcome"] == "PASS"


def test_after_its_grace_a_run_is_aborted_cleanly(make_station: MakeStation, jig: SimJig, cloud_api: Any) -> None:
    station = make_station(stop_grace_s=0.1)
    station.start()
    station.order("WO-1", "console-station-key", 5)
    bench = Bench(station, jig, cloud_api)
    order_troubles(station.provider, pending_delay_s=10.0)
    board = bench.plug("SN-1")
    wait_for("CONNECT", lambda: bench.station.slot()["step"] == "connect")
    assert station.stop() == 0
    board.lift()
    order_troubles(station.provider)
    station.start()
    (run,) = bench.history("SN-1")
    assert (run["outcome"], run["fault"]) == ("ABORTED", "S604")
    bench.nothing_active("SN-1")


def test_a_ledger_that_takes_nothing_is_never_green_and_the_line_goes_on_when_it_does(bench: Bench) -> None:
    order_troubles(bench.station.provider, pending_delay_s=1.0)
    board = bench.plug("SN-1")
    wait_for("the connect", lambda: bench.station.slot()["step"] == "connect")
    hog = sqlite3.connect(bench.station.state / "ledger.sqlite", isolation_level=None)
    hog.execute("BEGIN IMMEDIATE")
    result = bench.station.result()
    assert (result["outcome"], result["fault"]) == ("ERROR", "S601")
    assert (bench.station.folder / "lamp.txt").read_text().count("PASS") == 0
    hog.execute("ROLLBACK")
    hog.close()
    order_troubles(bench.station.provider)
    wait_for("the end on record", lambda: bench.history("SN-1")[0]["outcome"])
    (run,) = bench.history("SN-1")
    assert (run["outcome"], run["fault"]) == ("ERROR", "S601")
    assert [step["step"] for step in run["steps"]][-1] == "connect"
    bench.nothing_active("SN-1")
    board.lift()
    bench.station.empty()
    assert bench.run("SN-2")["outcome"] == "PASS"
