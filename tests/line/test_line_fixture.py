"""A whole line on a fixture whose adapter stays: the daemon asks the board itself whether it is there."""

from __future__ import annotations

from typing import Any

from whole_line import Bench, MakeStation

from station.sim.jig import SimJig


def test_a_board_that_answers_is_run_and_its_result_is_shown_on_when_it_is_silent(
    make_station: MakeStation, jig: SimJig, cloud_api: Any
) -> None:
    station = make_station()
    station.settings["slots"][0]["presence"] = {"kind": "probe", "product": "console-station-key"}
    station.write_config()
    station.start()
    station.order("WO-1", "console-station-key", 5)
    bench = Bench(station, jig, cloud_api)
    result = bench.run("SN-1")
    assert result["outcome"] == "PASS"
    # A dead board would look as lifted as this one does: so what it got stays to be seen.
    slot = station.slot()
    assert (slot["state"], slot["outcome"], slot["serial"]) == ("empty", "PASS", "SN-1")
    assert bench.run("SN-2")["outcome"] == "PASS"
