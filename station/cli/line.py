"""Commands of a line at work: run it, look at it, give it orders, ask it about a unit."""

from __future__ import annotations

import argparse
import sys

from station.cli.parsing import Commands, command, control, group, print_json, with_by, with_json


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    command(commands, "run", _run, "work the line until SIGTERM (this is what systemd starts)")
    with_json(command(commands, "status", _status, "what each slot does now"))
    with_json(command(commands, "watch", _watch, "follow the slots; with --json one object a change"))

    orders = group(commands, "orders", "work orders: permission to build")
    with_json(command(orders, "list", _orders_list, "all orders with their progress"))
    add = command(orders, "add", _orders_add, "open an order")
    add.add_argument("number", help="the order's number, as the factory writes it")
    add.add_argument("--product", required=True, help="a name from config/products/")
    add.add_argument("--quantity", type=int, default=0, help="units to pass (production orders)")
    add.add_argument("--kind", choices=("production", "rework", "golden"), default="production")
    add.add_argument("--serial", action="append", default=[], help="a unit of a rework or golden order; repeat it")
    add.add_argument("--reason", default="", help="why a passed unit is made again (rework orders)")
    with_by(add)
    close = command(orders, "close", _orders_close, "close an order; running units end first")
    close.add_argument("number")
    with_by(close)

    unit = with_json(command(commands, "unit", _unit, "everything on record about one unit"))
    unit.add_argument("serial")
    unit.add_argument("--transcript", action="store_true", help="what was said to and by the board in its last run")
    unit.add_argument("--run", help="with --transcript: of this run instead")


def _run(arguments: argparse.Namespace) -> None:
    from station import boards
    from station.config import load
    from station.daemon import run

    run(load(arguments.config, boards.options))


def _status(arguments: argparse.Namespace) -> None:
    status = control(arguments).status()
    if arguments.json:
        print_json(status)
        return
    from station import views

    views.print_status(status)


def _watch(arguments: argparse.Namespace) -> None:
    changes = control(arguments).changes(lambda line: print(line, file=sys.stderr, flush=True))
    if not arguments.json:
        from station import views

        views.print_changes(changes)
    for status in changes:
        print_json(status)
        sys.stdout.flush()


def _orders_list(arguments: argparse.Namespace) -> None:
    orders = control(arguments).orders()
    if arguments.json:
        print_json(orders)
        return
    from station import views

    views.print_orders(orders)


def _orders_add(arguments: argparse.Namespace) -> None:
    order = {
        "number": arguments.number,
        "product": arguments.product,
        "kind": arguments.kind,
        "quantity": arguments.quantity or len(arguments.serial),
        "serials": arguments.serial,
        "reason": arguments.reason,
        "by": arguments.by,
    }
    control(arguments).add_order(order)
    print(f"order {arguments.number} is open")


def _orders_close(arguments: argparse.Namespace) -> None:
    control(arguments).close_order(arguments.number, arguments.by)
    print(f"order {arguments.number} is closed")


def _unit(arguments: argparse.Namespace) -> int:
    if arguments.transcript:
        return _transcript(arguments)
    runs = control(arguments).unit(arguments.serial)
    if arguments.json:
        print_json(runs)
    elif runs:
        from station import views

        views.print_unit(arguments.serial, runs)
    else:
        print(f"nothing is on record about {arguments.serial}", file=sys.stderr)
    return 0 if runs else 1


def _transcript(arguments: argparse.Namespace) -> int:
    found = control(arguments).transcript(arguments.serial, arguments.run)
    if arguments.json:
        print_json(found)
        return 0
    from station import views

    views.print_transcript(found)
    return 0
