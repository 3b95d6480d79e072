"""Commands of the jig: what is plugged in where, which place is which slot, a slot's power."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from station.cli.parsing import Commands, command, group, print_json, with_json
from station.faults import Fault, FaultError

if TYPE_CHECKING:
    from station.config.slots import UsbLocation
    from station.jig.ports import Port

_LEARN = """\
Asks for a board in each slot in turn, and writes where it came up into jig.yaml beside the settings, after each slot.
The station must not run meanwhile: it would work on the boards. An adapter that stays in its nest is pulled out and
plugged in again instead.

examples:
  station jig learn                  every slot that names no place in station.yaml
  station jig learn 3 4              these again, e.g. after a cable was changed
  station jig learn --interface 2    of boards that show several ports, this one
"""


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    jig = group(commands, "jig", "the jig: slots, places, power")
    with_json(command(jig, "list", _list, "the slots with what is in them now, and the ports that are no slot"))

    learn = command(jig, "learn", _learn, "find out which USB location is which slot, and write it down")
    learn.formatter_class = argparse.RawDescriptionHelpFormatter
    learn.epilog = _LEARN
    learn.add_argument("slot", nargs="*", help="only these slots (default: all that name no place)")
    learn.add_argument("--interface", type=int, help="which interface, where a board shows several ports")
    learn.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds to wait for each board (120)")

    power = command(jig, "power", _power, "switch a slot's power by hand")
    power.add_argument("slot")
    power.add_argument("action", choices=("on", "off", "cycle"))


def _list(arguments: argparse.Namespace) -> None:
    from station.config import load_slots
    from station.jig.survey import survey

    slots, others = survey(load_slots(arguments.config).slots)
    if arguments.json:
        from dataclasses import asdict

        print_json({"slots": [asdict(slot) for slot in slots], "others": [asdict(one) for one in others]})
        return
    from station import views

    views.print_jig(slots, others)


def _learn(arguments: argparse.Namespace) -> None:
    from station.config import load_slots
    from station.jig.learn import learn, to_learn, write_map

    found = load_slots(arguments.config)
    names = to_learn(found.own, arguments.slot)
    _refuse_beside_the_daemon(found.runtime)
    taken = {slot.name: slot.usb for slot in found.slots if slot.usb is not None}
    own = {slot.name for slot in found.own if slot.usb is not None}

    def keep(places: Mapping[str, UsbLocation]) -> None:
        write_map(found.map_path, {name: place for name, place in places.items() if name not in own})

    def choose(ports: Sequence[Port]) -> Port:
        return _chosen(ports, arguments.interface)

    learn(names, taken, lambda line: print(line, flush=True), choose, keep, timeout_s=arguments.timeout)
    print(f"{found.map_path} is written. Next: station config check, then start the station")


def _refuse_beside_the_daemon(runtime: Path) -> None:
    from station.control import Control

    try:
        Control(runtime / "control.sock").status()
    except FaultError as error:
        if error.fault is Fault.NOT_RUNNING:
            return
        raise
    raise FaultError(
        Fault.ALREADY_RUNNING, "it would work on the boards that are put in; first: systemctl stop station"
    )


def _chosen(ports: Sequence[Port], interface: int | None) -> Port:
    """The port that was named on the command line, else the one that the person picks."""
    shown = ", ".join(f"interface {port.device.interface} port {port.number}" for port in ports)
    if interface is not None:
        for port in ports:
            if port.device.interface == interface:
                return port
        raise FaultError(Fault.PORT_AMBIGUOUS, f"the board shows no interface {interface}; it shows {shown}")
    if not sys.stdin.isatty():
        raise FaultError(Fault.PORT_AMBIGUOUS, f"the board shows {shown}; say --interface")
    for number, port in enumerate(ports, 1):
        print(f"  {number}: interface {port.device.interface} port {port.number}  {port.device.node}")
    while True:
        answer = input(f"Which of its ports does the station talk to? (1 to {len(ports)}): ").strip()
        if answer.isdigit() and 1 <= int(answer) <= len(ports):
            return ports[int(answer) - 1]


def _power(arguments: argparse.Namespace) -> None:
    from station.config import load_slots
    from station.jig.build import power
    from station.jig.power import cycle

    slots = {slot.name: slot for slot in load_slots(arguments.config).slots}
    slot = slots.get(arguments.slot)
    if slot is None:
        raise FaultError(Fault.CONFIG, f"no slot is called {arguments.slot}; station.yaml has {', '.join(slots)}")
    if slot.power is None:
        raise FaultError(Fault.CONFIG, f"slot {slot.name} has no `power` in station.yaml")
    switch = power(slot.power)
    match arguments.action:
        case "on":
            switch.on()
        case "off":
            switch.off()
        case _:
            cycle(switch)
    print(f"slot {slot.name}: power {arguments.action}")
