"""``make bench``, the jig: what sixteen empty slots cost, and how soon a plugged board is at work."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles

from bench import Line, idle_ms

from station.sim.jig import SimJig
from station.sim.line import Station, make_provider, wait_for

_SLOTS, _PLUGS = 16, 100


def plug_to_running(station: Station, tty: Path, number: int) -> float:
    """Milliseconds from the moment that a link stands in a slot to RUNNING, the debounce included."""
    port = station.ports[number]
    version = station.control.status()["version"]
    new = port.with_name(f".#{port.name}")
    new.symlink_to(tty)
    began = time.time()
    new.replace(port)
    while True:
        status = station.control.status(newer_than=version, wait_s=10)
        version, slot = status["version"], status["slots"][number]
        if slot["state"] == "running":
            break
    port.unlink()
    wait_for("an empty slot", lambda: station.control.status()["slots"][number]["state"] == "empty")
    return (datetime.fromisoformat(slot["since"]).timestamp() - began) * 1000


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as parts:
        folder = Path(name)
        provider = make_provider(folder / "provider", parts)
        station = parts.enter_context(Station(folder / "station", provider, slots=_SLOTS))
        assert station.process is not None
        time.sleep(2)  # what the start still does is no cost of waiting
        idle = Line(f"idle: CPU a second of the station, {_SLOTS} slots empty", idle_ms(station.process.pid, 20))
        print(f"{idle}  (goal: 5 ms)")
        station.order("WO-1", "console-station-key", 1000)
        jig = parts.enter_context(SimJig(folder / "boards"))
        # One silent board; its link is made anew in slot after slot, so that the moment is known.
        jig.plug(folder / "board", serial="SN-1", chip="C1", model="demo-board", faults=("silent",))
        tty = (folder / "board").readlink()
        took = [plug_to_running(station, tty, turn % _SLOTS) for turn in range(_PLUGS)]
        debounce = station.settings["slot_times"]["debounce_ms"]
        print(Line("plug to RUNNING, median", median(took), "the debounce", debounce))
        print(Line("plug to RUNNING, 99th percentile", quantiles(took, n=100)[98], "the debounce", debounce))


if __name__ == "__main__":
    main()
