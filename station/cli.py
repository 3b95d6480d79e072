"""The commands. Each reads its arguments, asks one part, prints; no logic lives here.

What a script may read goes to stdout (``--json``), what a person is to do goes to stderr. Exit codes: 0 done, 1 a fault
(one sentence and the next step are printed), 2 wrong usage, 3 the station is not running, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING

from station.faults import Fault, FaultError

if TYPE_CHECKING:
    from station.control import Control

    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse gives it no other name

_DEFAULT_CONFIG = "/etc/station/station.yaml"

_EXAMPLES = """\
examples:
  station config check                          is every setting right, and if not, where
  station run                                   work the line until SIGTERM
  station orders add WO-118 --product sensor-b --quantity 500
  station status --json | jq .slots             what each slot does now
  station unit SB-000123                        everything on record about one unit
  station ceremony config/ceremony/root.yaml    make the CA key in its token
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments) or 0
        sys.stdout.flush()
    except FaultError as error:
        return _complain(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _complain(error: FaultError) -> int:
    from station.config import ConfigError
    from station.config.messages import Messages

    messages = Messages.load("en")
    print(f"{error.fault.code} {messages.title(error.fault)}", file=sys.stderr)
    if isinstance(error, ConfigError):
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
    elif error.detail:
        print(f"  {error.detail}", file=sys.stderr)
    print(f"  Next: {messages.remedy(error.fault)}", file=sys.stderr)
    return 3 if error.fault is Fault.NOT_RUNNING else 1


def _run(arguments: argparse.Namespace) -> None:
    from station.config import load
    from station.daemon import run

    run(load(arguments.config))


def _control(arguments: argparse.Namespace) -> Control:
    from station.config import load
    from station.control import Control

    return Control(load(arguments.config).runtime / "control.sock")


def _status(arguments: argparse.Namespace) -> None:
    status = _control(arguments).status()
    if arguments.json:
        _print_json(status)
        return
    from station import views

    views.print_status(status)


def _watch(arguments: argparse.Namespace) -> None:
    changes = _control(arguments).changes()
    if not arguments.json:
        from station import views

        views.print_changes(changes)
    for status in changes:
        _print_json(status)
        sys.stdout.flush()


def _print_json(value: object) -> None:
    print(json.dumps(value, separators=(",", ":")))


def _orders_list(arguments: argparse.Namespace) -> None:
    orders = _control(arguments).orders()
    if arguments.json:
        _print_json(orders)
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
    _control(arguments).add_order(order)
    print(f"order {arguments.number} is open")


def _orders_close(arguments: argparse.Namespace) -> None:
    _control(arguments).close_order(arguments.number, arguments.by)
    print(f"order {arguments.number} is closed")


def _unit(arguments: argparse.Namespace) -> int:
    runs = _control(arguments).unit(arguments.serial)
    if arguments.json:
        _print_json(runs)
    elif runs:
        from station import views

        views.print_unit(arguments.serial, runs)
    else:
        print(f"nothing is on record about {arguments.serial}", file=sys.stderr)
    return 0 if runs else 1


def _config_check(arguments: argparse.Namespace) -> None:
    from station.config import load

    config = load(arguments.config)
    print(f"{arguments.config} is right: {len(config.slots)} slot(s), products {', '.join(sorted(config.products))}")


def _ceremony(arguments: argparse.Namespace) -> int:
    from station import ceremony
    from station.config import load_ceremony

    act = load_ceremony(arguments.file)
    for line in ceremony.plan(act):
        print(line)
    if not arguments.yes and input("Type yes to go on: ").strip() != "yes":
        print("nothing was done", file=sys.stderr)
        return 1
    ceremony.perform(act, arguments.file, lambda line: print(line, flush=True))
    return 0


def _clear_pin(arguments: argparse.Namespace) -> None:
    from station.config import load
    from station.hsm.pin import PinLatch
    from station.hsm.uri import KeyUri

    config = load(arguments.config)
    PinLatch(config.state / "pin-latch", KeyUri.parse(config.hsm.key)).clear()
    print("the PIN latch is cleared; the next start logs in once")


def _board_try(arguments: argparse.Namespace) -> None:
    from station.boards.console import try_board

    for line in try_board(arguments.port, arguments.baud):
        print(line, flush=True)


def _demo(arguments: argparse.Namespace) -> int:
    from station.sim.demo import demo

    return demo(arguments.folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="station",
        description="Gives each board on the line its own AWS IoT certificate, and proves that it works.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(os.environ.get("STATION_CONFIG", _DEFAULT_CONFIG)),
        help=f"the station's settings (default: $STATION_CONFIG, else {_DEFAULT_CONFIG})",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    _command(commands, "run", _run, "work the line until SIGTERM (this is what systemd starts)")
    _json(_command(commands, "status", _status, "what each slot does now"))
    _json(_command(commands, "watch", _watch, "follow the slots; with --json one object a change"))

    orders = _group(commands, "orders", "work orders: permission to build")
    _json(_command(orders, "list", _orders_list, "all orders with their progress"))
    add = _command(orders, "add", _orders_add, "open an order")
    add.add_argument("number", help="the order's number, as the factory writes it")
    add.add_argument("--product", required=True, help="a name from config/products/")
    add.add_argument("--quantity", type=int, default=0, help="units to pass (production orders)")
    add.add_argument("--kind", choices=("production", "rework", "golden"), default="production")
    add.add_argument("--serial", action="append", default=[], help="a unit of a rework or golden order; repeat it")
    add.add_argument("--reason", default="", help="why a passed unit is made again (rework orders)")
    _by(add)
    close = _command(orders, "close", _orders_close, "close an order; running units end first")
    close.add_argument("number")
    _by(close)

    unit = _json(_command(commands, "unit", _unit, "everything on record about one unit"))
    unit.add_argument("serial")

    _command(_group(commands, "config", "settings"), "check", _config_check, "read all settings, name every mistake")

    act = _command(commands, "ceremony", _ceremony, "perform the act that a reviewed file describes; may be repeated")
    act.add_argument("file", type=Path)
    act.add_argument("--yes", action="store_true", help="do not ask after printing the plan")

    _command(
        _group(commands, "hsm", "the CA key's token"),
        "clear-pin",
        _clear_pin,
        "a wrong PIN was corrected: allow one try",
    )

    trial = _command(_group(commands, "board", "boards"), "try", _board_try, "speak the console protocol to one board")
    trial.add_argument("port")
    trial.add_argument("--baud", type=int, default=115_200)

    demo = _command(commands, "demo", _demo, "the whole line against simulators, in a folder of its own")
    demo.add_argument("folder", type=Path)
    return parser


def _command(
    group: _Commands, name: str, function: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    command = group.add_parser(name, help=text, description=text)
    command.set_defaults(command=function)
    return command


def _group(commands: _Commands, name: str, text: str) -> _Commands:
    return commands.add_parser(name, help=text, description=text).add_subparsers(required=True, metavar="COMMAND")


def _json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="for scripts")
    return parser


def _by(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", default=getuser(), help="who is on record for it (default: you)")
