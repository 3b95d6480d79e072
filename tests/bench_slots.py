"""``make bench``: units an hour of 1, 4 and 16 slots at 115,200 baud, and the CPU of the station alone."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from station.sim.jig import PluggedBoard, SimJig
from station.sim.line import Station, make_provider, wait_for

BYTES_PER_S = 11_520


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def measure(folder: Path, slots: int, parts: ExitStack) -> str:
    """Fill every slot once, at the same time; each board is slow as a real line is."""
    provider = make_provider(folder / "provider", parts)
    station = parts.enter_context(Station(folder / "station", provider, slots=slots))
    jig = parts.enter_context(SimJig(folder / "boards"))
    assert station.process is not None
    pid = station.process.pid
    idle_before, began = cpu_s(pid), time.monotonic()
    time.sleep(5)
    idle = (cpu_s(pid) - idle_before) / (time.monotonic() - began) * 100
    station.order("WO-1", "console-station-key", 2 * slots)

    def plug(number: int) -> PluggedBoard:
        serial = f"SN-{number}"
        port = station.ports[number]
        return jig.plug(port, serial=serial, chip=f"C-{serial}", model="demo-board", baud_bytes=BYTES_PER_S)

    before, began = cpu_s(pid), time.monotonic()
    with ThreadPoolExecutor(8) as hands:
        list(hands.map(plug, range(slots)))
    wait_for(
        "all results", lambda: all(s["state"] == "result" for s in station.control.status()["slots"]), timeout_s=300
    )
    took = time.monotonic() - began
    used = (cpu_s(pid) - before) / slots * 1000
    passed = sum(s["outcome"] == "PASS" for s in station.control.status()["slots"])
    runs = [station.control.unit(f"SN-{number}")[-1] for number in range(slots)]
    longest = max(sum(step["duration_ms"] for step in run["steps"]) for run in runs) / 1000
    return (
        f"{slots:2} slots: {passed} passed in {took:5.1f} s ({slots / took * 3600:6.0f} an hour), longest run"
        f" {longest:5.1f} s; the station's CPU {used:4.0f} ms a unit, {idle:4.2f} % of a core while empty,"
        f" {memory_mb(pid):.0f} MB"
    )


def main() -> None:
    """Measure and print."""
    for slots in (int(argument) for argument in sys.argv[1:] or ("1", "4", "16")):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as parts:
            print(measure(Path(folder), slots, parts), flush=True)


if __name__ == "__main__":
    main()
