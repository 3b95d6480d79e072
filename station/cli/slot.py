"""Commands for one slot of the jig: out of service, and back."""

from __future__ import annotations

import argparse

from station.cli.parsing import Commands, command, control, group, with_by


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    slot = group(commands, "slot", "one slot of the jig")
    disable = command(slot, "disable", _disable, "take a slot out of service; what runs in it ends first")
    disable.add_argument("name", help="the slot's name, as `station status` prints it")
    disable.add_argument("--why", required=True, help="for those who wonder, e.g. 'pogo pin bent'")
    with_by(disable)
    enable = command(slot, "enable", _enable, "put a slot into service again")
    enable.add_argument("name", help="the slot's name, as `station status` prints it")
    with_by(enable)


def _disable(arguments: argparse.Namespace) -> None:
    control(arguments).disable_slot(arguments.name, arguments.by, arguments.why)
    print(f"slot {arguments.name} is out of service")


def _enable(arguments: argparse.Namespace) -> None:
    control(arguments).enable_slot(arguments.name, arguments.by)
    print(f"slot {arguments.name} is in service")
