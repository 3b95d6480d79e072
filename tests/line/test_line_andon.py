"""What stops the whole line, what takes one slot out of service, and that neither costs a unit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from whole_line import Bench, MakeStation, order_troubles

from station.sim.jig import SimJig
from station.sim.line import Provider, Station, wait_for

MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(make_station: MakeStation, jig: SimJig, cloud_api: Any) -> MakeBench:
    def make(product: str = "console-station-key", **how: Any) -> Bench:
        station = make_station(slots=3, **how)
        station.start()
        station.order("WO-1", product, 50)
        return Bench(station, jig, cloud_api)

    return make


def andon(station: Station) -> Any:
    return station.control.status()["andon"]


def stands(station: Station) -> dict[str, Any]:
    found: dict[str, Any] = wait_for("the line to stand", lambda: andon(station))
    return found


def goes_on(station: Station) -> None:
    wait_for("the line to go on", lambda: not andon(station))


def kill_token(station: Station) -> None:
    assert station.process is not None
    pid = station.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"station.hsm.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)


def test_a_token_that_is_gone_stops_every_slot_and_boards_plugged_meanwhile_run_when_it_is_back(
    make_bench: MakeBench, own_token: Provider
) -> None:
    bench = make_bench(where=own_token)
    station, tokens = bench.station, own_token.folder / "tokens"
    shutil.move(tokens, tokens.with_name("away"))
    tokens.mkdir()
    kill_token(station)
    bench.plug("SN-1")
    first = station.result()
    assert (first["outcome"], first["fault"][0]) == ("ERROR", "C")
    assert stands(station)["blame"] == "ca"
    assert "the move is with: the certificate authority" in station.run("status")
    bench.plug("SN-2", slot=2)
    bench.plug("SN-3", slot=3)
    wait_for("two boards that wait", lambda: {station.slot(n)["state"] for n in (2, 3)} == {"waiting"})
    assert bench.history("SN-2") == []
    tried = andon(station)["trials"]
    wait_for("another trial", lambda: andon(station)["trials"] > tried)
    tokens.rmdir()
    shutil.move(tokens.with_name("away"), tokens)
    for number in (2, 3):
        assert station.result(number=number)["outcome"] == "PASS"
    assert andon(station) is None
    assert [len(bench.history(serial)) for serial in ("SN-1", "SN-2", "SN-3")] == [1, 1, 1]
    assert station.slot(1)["outcome"] == "ERROR"  # latched through all of it


def test_a_cloud_that_is_gone_stops_the_line_and_runs_on_their_way_wait_for_it(make_bench: MakeBench) -> None:
    bench = make_bench("console-board-key")
    station = bench.station
    bench.plug("SN-2", "slow=150", slot=2)
    wait_for("its run", lambda: station.slot(2)["step"] == "enroll")
    order_troubles(station.provider, api={"*": "AccessDeniedException"})
    bench.plug("SN-1")
    first = station.result()
    assert (first["outcome"], first["fault"]) == ("ERROR", "N421")
    assert (stands(station)["fault"], stands(station)["blame"]) == ("N421", "cloud")
    held = wait_for("a run that waits", lambda: station.slot(2)["state"] == "waiting" and station.slot(2))
    assert held["run"]
    assert held["step"] in {"issue", "connect"}
    order_troubles(station.provider)
    assert station.result(number=2)["outcome"] == "PASS"
    assert len(bench.history("SN-2")) == 1
    goes_on(station)


def test_a_ca_that_the_cloud_does_not_take_stops_the_line_until_it_does(make_bench: MakeBench, cloud_api: Any) -> None:
    bench = make_bench()
    bench.station.stop()
    bench.station.settings["aws"] |= {"connect_deadline_s": 2.0, "dial_timeout_s": 1.0}
    bench.station.write_config()
    bench.station.start()
    ca = bench.station.settings["aws"]["ca_certificate_id"]
    cloud_api.update_ca_certificate(certificateId=ca, newAutoRegistrationStatus="DISABLE")
    try:
        assert bench.run("SN-1")["fault"] == "N407"
        assert stands(bench.station)["fault"] == "N407"
    finally:
        cloud_api.update_ca_certificate(certificateId=ca, newAutoRegistrationStatus="ENABLE")
    goes_on(bench.station)
    assert bench.run("SN-1")["outcome"] == "PASS"


def test_one_board_without_a_network_stops_nobody_and_three_errors_take_its_slot_out(make_bench: MakeBench) -> None:
    bench = make_bench("console-board-key")
    station = bench.station
    for serial in ("SN-1", "SN-2"):
        # AWS cannot have taken it before it was registered: the cloud's fault, and not the whole line's.
        assert bench.run(serial, "dial-ending=acknowledged")["fault"] == "N409"
    board = bench.plug("SN-3", "dial-ending=acknowledged")
    station.result()
    assert andon(station) is None
    board.lift()
    out = wait_for("the slot out of service", lambda: station.slot()["state"] == "out" and station.slot())
    assert out["fault"] == "J210"
    assert "3 errors in a row, the last N409" in out["detail"]
    bench.plug("SN-4")
    bench.plug("SN-5", slot=2)
    assert station.result(number=2)["outcome"] == "PASS"
    assert bench.history("SN-4") == []
    assert station.stop() == 0
    station.start()
    assert station.slot()["state"] == "result"  # SN-4 was in it when the station started
    said = station.run("slot", "enable", "1", "--by", "linh")
    assert said == "slot 1 is in service\n"
    log = [json.loads(line) for line in station.log.read_text().splitlines()]
    assert [entry["by"] for entry in log if entry["event"] == "slot in service"] == ["linh"]
    station.stop()
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    made = json.loads(station.run("report", "--day", today, "--format", "json", "--json"))
    figures = json.loads((Path(made["folder"]) / f"yield-demo-line-{today}.json").read_text())["figures"]
    told = [(one["what"], one["place"], one["fault"], one["times"]) for one in figures["troubles"]["downtime"]]
    assert told == [("off", "", "", 2), ("slot", "1", "J210", 1), ("refused", "", "J211", 2)]


def test_a_slot_that_a_person_takes_out_ends_its_run_first(make_bench: MakeBench) -> None:
    bench = make_bench()
    station = bench.station
    board = bench.plug("SN-1", "slow=50")
    wait_for("its run", lambda: station.slot()["state"] == "running")
    station.run("slot", "disable", "1", "--by", "linh", "--why", "pogo pin bent")
    assert station.result()["outcome"] == "PASS"
    board.lift()
    out = wait_for("the slot out of service", lambda: station.slot()["state"] == "out" and station.slot())
    assert out["detail"] == "pogo pin bent (by linh)"
    assert "out  " in station.run("status")
    bench.plug("SN-2")
    station.run("slot", "enable", "1", "--by", "linh")
    assert station.result()["serial"] == "SN-2"


def test_a_board_that_was_there_at_the_start_is_lifted_first(make_bench: MakeBench) -> None:
    bench = make_bench()
    station = bench.station
    board = bench.plug("SN-1")
    assert station.result()["outcome"] == "PASS"
    assert station.stop() == 0
    station.start()
    found = station.result()
    assert (found["outcome"], found["fault"], found["run"]) == ("ABORTED", "J211", None)
    board.lift()
    station.empty()
    assert len(bench.history("SN-1")) == 1
    assert bench.run("SN-2")["outcome"] == "PASS"
