"""``make demo``: the whole line against simulators, live in the terminal, with a verdict at the end."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from station.sim.gang import gang
from station.sim.jig import SimJig
from station.sim.line import LineError, Station, command, make_provider

_STEPS = ("identify", "admit", "enroll", "issue", "install", "verify", "connect")
_STYLE = {"PASS": "green", "FAIL": "red", "ERROR": "yellow", "ABORTED": "yellow"}


@dataclass(frozen=True, slots=True)
class Plug:
    """One board that the demo plugs in, and what shall come of it."""

    serial: str
    order: str
    outcome: str = "PASS"
    faults: tuple[str, ...] = field(default=())


# The bad board stands between good ones: the line must go on after it. Its chain reads back with one byte changed.
_PLUGS = (
    Plug("DEMO-0001", "WO-BOARD-KEY"),
    Plug("DEMO-0002", "WO-BOARD-KEY", "FAIL", ("flip=100",)),
    Plug("DEMO-0003", "WO-BOARD-KEY"),
    Plug("DEMO-0004", "WO-STATION-KEY"),
    Plug("DEMO-0005", "WO-STATION-KEY"),
)


def demo(folder: Path, slots: int = 1) -> int:
    """Run the demo in ``folder``, which is made anew; return 0 only if every board ended as expected."""
    console = Console(soft_wrap=True, highlight=False)
    # A second Ctrl-C must not leave children behind: the first one unwinds the stack that ends them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    try:
        with ExitStack() as parts:
            if slots > 1:
                return gang(folder, slots, console, _stamped(console, began), parts)
            return _demo(folder, parts, console, began)
    except LineError as error:
        console.print(f"the demo did not come to its end: {error}", style="red", markup=False)
        return 1


def _demo(folder: Path, parts: ExitStack, console: Console, began: float) -> int:
    say = _stamped(console, began)
    provider = make_provider(folder / "provider", parts, say)
    station = Station(folder / "station", provider)
    station.settings["slots"][0]["lamp"] = {"kind": "terminal"}
    command(["--config", str(station.config), "config", "check"], provider.environment)
    parts.enter_context(station)
    say("the station runs: one slot")
    for order, origin in (("WO-BOARD-KEY", "board"), ("WO-STATION-KEY", "station")):
        orders = ["orders", "add", order, "--product", f"console-{origin}-key", "--quantity", "2", "--by", "demo"]
        command(["--config", str(station.config), *orders], provider.environment)
        say(f"work order {order}: 2 units, the key is made on the {origin}")
    jig = parts.enter_context(SimJig(folder / "boards"))
    runs = [_one(plug, station, jig, say) for plug in _PLUGS]
    station.drained()
    code = station.stop()
    say(f"the station ended (exit {code})")
    right = code == 0 and all(run["outcome"] == plug.outcome for run, plug in zip(runs, _PLUGS, strict=True))
    _print_table(runs, console)
    console.print(f"ledger:  {station.state / 'ledger.sqlite'}", markup=False)
    console.print(f"log:     {station.log}", markup=False)
    console.print(f"lamp:    {station.folder / 'lamp.txt'}", markup=False)
    verdict = "as expected: four units passed, the bad one failed" if right else "NOT as expected"
    console.print(f"{verdict}, {time.monotonic() - began:.1f} s in all", style="bold green" if right else "bold red")
    return 0 if right else 1


def _one(plug: Plug, station: Station, jig: SimJig, say: Any) -> dict[str, Any]:
    """Plug a board in, follow its run, lift it; return its last run as it is on record."""
    board = jig.plug(
        station.port, serial=plug.serial, chip=f"CHIP-{plug.serial}", model="demo-board", faults=plug.faults
    )
    for line in _follow(station):
        say(f"{plug.serial}  {line}")
    board.lift()
    station.empty()
    run: dict[str, Any] = json.loads(station.run("unit", plug.serial, "--json"))[-1]
    return run


def _follow(station: Station) -> Iterator[str]:
    """Each change of the slot, until its result is latched."""
    version, last = 0, ""
    while True:
        status = station.control.status(newer_than=version, wait_s=20)
        version, slot = status["version"], status["slots"][0]
        word = slot["step"] if slot["state"] == "running" else slot["outcome"] or ""
        if word and word != last:
            last = word
            fault = f"  {slot['fault']}: {slot['detail']}" if slot["fault"] else ""
            yield f"{word}{fault}"
        if slot["state"] == "result":
            return


def _stamped(console: Console, began: float) -> Any:
    def say(line: str) -> None:
        style = next((style for word, style in _STYLE.items() if f"  {word}" in line), None)
        console.print(f"{time.monotonic() - began:6.1f} s  {line}", style=style, markup=False)

    return say


def _print_table(runs: list[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("unit", "order", *_STEPS, "total", "outcome", "fault"):
        table.add_column(heading, no_wrap=True, justify="right" if heading in {*_STEPS, "total"} else "left")
    for run in runs:
        took = {step["step"]: step["duration_ms"] for step in run["steps"]}
        table.add_row(
            run["serial"],
            run["order"],
            *(f"{took[step]:.0f}" if step in took else "-" for step in _STEPS),
            f"{sum(took.values()):.0f}",
            f"[{_STYLE[run['outcome']]}]{run['outcome']}[/]",
            run["fault"] or "",
        )
    console.print("\nSteps in milliseconds:")
    # At full width even where the terminal is narrow, or is no terminal: a cut number misleads.
    Console(width=max(console.width, 124)).print(table)
    console.print()
