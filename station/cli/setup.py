"""Commands before a line works: settings, the token, one board by hand, the demo."""

from __future__ import annotations

import argparse
from pathlib import Path

from station.cli.parsing import Commands, command, group, print_json, with_json


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    command(group(commands, "config", "settings"), "check", _config_check, "read all settings, name every mistake")

    command(
        group(commands, "hsm", "the CA key's token"),
        "clear-pin",
        _clear_pin,
        "a wrong PIN was corrected: allow one try",
    )

    with_json(command(commands, "boards", _boards, "the board families, and what their firmware can hold"))
    trial = command(group(commands, "board", "boards"), "try", _board_try, "speak the console protocol to one board")
    trial.add_argument("port")
    trial.add_argument("--baud", type=int, default=115_200)

    demo = command(commands, "demo", _demo, "the whole line against simulators, in a folder of its own")
    demo.add_argument("folder", type=Path)
    demo.add_argument("--slots", type=_slots, default=1, help="as many side by side, up to 64 (default: 1)")


def _config_check(arguments: argparse.Namespace) -> None:
    from station import boards, fit
    from station.config import load

    config = load(arguments.config, boards.options)
    fit.check(config)
    print(f"{arguments.config} is right: {len(config.slots)} slot(s), products {', '.join(sorted(config.products))}")


def _clear_pin(arguments: argparse.Namespace) -> None:
    from station.config import load
    from station.hsm.pin import PinLatch
    from station.hsm.uri import KeyUri

    config = load(arguments.config)
    PinLatch(config.state / "pin-latch", KeyUri.parse(config.hsm.key)).clear()
    print("the PIN latch is cleared; the next start logs in once")


def _boards(arguments: argparse.Namespace) -> None:
    from station import boards

    found = [(name, boards.family(name)) for name in boards.families()]
    if not arguments.json:
        from station import views

        views.print_families(found)
        return
    from dataclasses import asdict

    print_json({name: asdict(family.limits(family.options.model_construct())) for name, family in found})


def _board_try(arguments: argparse.Namespace) -> None:
    from station.boards.console import try_board

    for line in try_board(arguments.port, arguments.baud):
        print(line, flush=True)


def _slots(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 64:
        raise argparse.ArgumentTypeError("is not from 1 to 64")
    return number


def _demo(arguments: argparse.Namespace) -> int:
    from station.sim.demo import demo

    return demo(arguments.folder, arguments.slots)
