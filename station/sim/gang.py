"""``make demo SLOTS=16``: slots side by side against simulators, live in the terminal, and a verdict at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from station.sim.jig import PluggedBoard, SimJig
from station.sim.line import LineError, Station, command, make_provider

_STYLES = {
    "PASS": "bold green",
    "FAIL": "bold red",
    "ERROR": "yellow",
    "ABORTED": "yellow",
    "running": "blue",
    "waiting": "magenta",
}
_PATIENCE_S = 120.0
_AT_ONCE = 8  # boards that start at once: each is a process of its own, and starting is what takes its time
_ROUNDS = (("board", "B"), ("station", "S"))


def gang(folder: Path, slots: int, console: Console, say: Callable[[str], None], parts: ExitStack) -> int:
    """Fill every slot twice, once with boards that make their key and once with boards that are given one.

    One board of the first round is bad. Returns 0 only if every board ended as expected.
    """
    provider = make_provider(folder / "provider", parts, say)
    station = Station(folder / "station", provider, slots=slots)
    command(["--config", str(station.config), "config", "check"], provider.environment)
    parts.enter_context(station)
    say(f"the station runs: {slots} slots")
    jig = parts.enter_context(SimJig(folder / "boards"))
    bad = f"GANG-B-{slots // 2:02}"
    runs: list[dict[str, Any]] = []
    took_s = []
    for origin, letter in _ROUNDS:
        serials = [f"GANG-{letter}-{number:02}" for number in range(1, slots + 1)]
        station.order(f"WO-{origin.upper()}-KEY", f"console-{origin}-key", slots)
        say(f"{slots} boards are plugged in, the key is made on the {origin}")
        began = time.monotonic()
        boards = _plug(jig, station, serials, bad)
        _follow(station, console)
        took_s.append(time.monotonic() - began)
        with ThreadPoolExecutor(_AT_ONCE) as hands:
            list(hands.map(PluggedBoard.lift, boards))
        for number in range(1, slots + 1):
            station.empty(number)
        runs += [station.control.unit(serial)[-1] for serial in serials]
        if origin == "board":
            station.control.close_order("WO-BOARD-KEY", "demo")
    station.drained()
    code = station.stop()
    say(f"the station ended (exit {code})")
    right = code == 0 and all(run["outcome"] == ("FAIL" if run["serial"] == bad else "PASS") for run in runs)
    _print_table(runs, console)
    console.print(f"ledger:  {station.state / 'ledger.sqlite'}", markup=False)
    console.print(f"log:     {station.log}", markup=False)
    console.print(f"lamp:    {station.folder / 'lamp.txt'}", markup=False)
    passed = sum(run["outcome"] == "PASS" for run in runs)
    each = ", ".join(f"{took:.1f}" for took in took_s)
    verdict = "as expected" if right else "NOT as expected"
    console.print(
        f"{verdict}: {passed} of {len(runs)} units passed, the bad one did not; {each} s from plug to the last result",
        style="bold green" if right else "bold red",
    )
    return 0 if right else 1


def _plug(jig: SimJig, station: Station, serials: list[str], bad: str) -> list[PluggedBoard]:
    def one(number: int) -> PluggedBoard:
        serial = serials[number]
        faults = ("flip=100",) if serial == bad else ()
        return jig.plug(station.ports[number], serial=serial, chip=f"CHIP-{serial}", model="demo-board", faults=faults)

    with ThreadPoolExecutor(_AT_ONCE) as hands:
        return list(hands.map(one, range(len(serials))))


def _follow(station: Station, console: Console) -> None:
    """Show the slots until each has a result: one table that changes on a terminal, else a line a result."""
    end, version, told = time.monotonic() + _PATIENCE_S, 0, set[str]()
    with ExitStack() as parts:
        live = parts.enter_context(Live(console=console, refresh_per_second=8)) if console.is_terminal else None
        while True:
            status = station.control.status(newer_than=version, wait_s=5)
            version = status["version"]
            if live:
                live.update(_slots(status))
            for slot in status["slots"]:
                if not live and slot["state"] == "result" and slot["slot"] not in told:
                    told.add(slot["slot"])
                    console.print(f"  slot {slot['slot']:>2}  {slot['serial']}  {slot['outcome']}", markup=False)
            if all(slot["state"] == "result" for slot in status["slots"]):
                return
            if time.monotonic() > end:
                raise LineError(f"after {_PATIENCE_S:g} s: {json.dumps([s['state'] for s in status['slots']])}")


def _slots(status: dict[str, Any]) -> Table:
    table = Table("slot", "unit", "state", box=None, pad_edge=False)
    for slot in status["slots"]:
        word = slot["outcome"] or slot["state"]
        doing = slot["step"] if slot["state"] == "running" else word
        table.add_row(slot["slot"], escape(slot["serial"] or ""), f"[{_STYLES.get(word, 'dim')}]{doing}[/]")
    return table


def _print_table(runs: list[dict[str, Any]], console: Console) -> None:
    steps = [step["step"] for step in runs[0]["steps"]]
    table = Table("unit", "slot", *steps, "total", "outcome", "fault", box=None, pad_edge=False)
    for run in runs:
        took = {step["step"]: step["duration_ms"] for step in run["steps"]}
        style = _STYLES[run["outcome"]]
        table.add_row(
            run["serial"],
            run["slot"],
            *(f"{took[step]:.0f}" if step in took else "-" for step in steps),
            f"{sum(took.values()):.0f}",
            f"[{style}]{run['outcome']}[/]",
            run["fault"] or "",
        )
    console.print("\nSteps in milliseconds:")
    Console(width=max(console.width, 124)).print(table)
    console.print()
