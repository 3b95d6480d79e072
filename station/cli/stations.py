"""Commands of a line of stations: its database, who may join, and what the whole line does."""

from __future__ import annotations

import argparse
import json
import os
import secrets
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from station.cli.parsing import Commands, command, group, with_json

if TYPE_CHECKING:
    from station.config import Config
    from station.config.line import LineSettings
    from station.ledger.line import LineServer
    from station.ledger.line.status import LineStatus, StationLine

_SETUP = """\
The owner of the database runs these once; `line` in the settings says where it is. On the server itself:

  sudo -u postgres createdb line
  station line init --as postgres --password-file /root/pg
  station line admit line-1 --as postgres --password-file /root/pg --new-password line-1.password
  station line admit-reader boss --as postgres --password-file /root/pg --new-password boss.password

The new file goes to the station, 0600, where `line.password` names it; the login is the station's name.
"""


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    line = group(commands, "line", "a line of stations that share one PostgreSQL")
    init = command(line, "init", _init, "make or upgrade the line's database; may be repeated")
    init.epilog, init.formatter_class = _SETUP, argparse.RawDescriptionHelpFormatter
    admit = command(line, "admit", _admit, "give a station its login; again: a new password")
    admit.add_argument("station", help="its name, as `station` in its settings")
    reader = command(
        line, "admit-reader", _admit_reader, "give people and reports a login that reads and writes nothing"
    )
    reader.add_argument("role", help="the login's name")
    for parser in (admit, reader):
        parser.add_argument("--new-password", type=Path, required=True, help="a new file for the password, mode 0600")
    status = with_json(command(line, "status", _status, "every station: last seen, backlog, shares, yield; clashes"))
    for parser in (init, admit, reader, status):
        parser.add_argument(
            "--as", dest="login", required=True, help="the login: the owner's, or for status a reader's"
        )
        parser.add_argument("--password-file", type=Path, help="its password, mode 0600 (none: the server trusts us)")
    back = command(line, "give-back", _give_back, "give this station's rest of an order to the others")
    back.add_argument("order")


def _server(arguments: argparse.Namespace, config: Config) -> LineServer:
    from station.config.secrets import read_password
    from station.ledger.line import LineServer

    password = read_password(arguments.password_file) if arguments.password_file else ""
    return LineServer(_settings(config), password, arguments.login)


def _settings(config: Config) -> LineSettings:
    from station.faults import Fault, FaultError

    if config.line is None:
        raise FaultError(Fault.CONFIG, "the settings have no section `line`: this station stands alone")
    return config.line


def _init(arguments: argparse.Namespace) -> None:
    from station.config import load
    from station.ledger.line import setup

    config = load(arguments.config)
    with closing(_server(arguments, config)) as server, server.transaction(600.0) as connection:
        setup.prepare(connection, simulated=config.simulate)
    print("the line's database is ready; next: station line admit NAME")


def _admit(arguments: argparse.Namespace) -> None:
    from station.config import load
    from station.ledger.line import setup

    role = arguments.station.lower().replace(".", "_")
    with closing(_server(arguments, load(arguments.config))) as server, server.transaction() as connection:
        setup.admit(connection, arguments.station, role, _new_password(arguments.new_password))
    print(f"{arguments.station} may join as {role}; its password is in {arguments.new_password}")


def _admit_reader(arguments: argparse.Namespace) -> None:
    from station.config import load
    from station.ledger.line import setup

    with closing(_server(arguments, load(arguments.config))) as server, server.transaction() as connection:
        setup.admit_reader(connection, arguments.role, _new_password(arguments.new_password))
    print(f"{arguments.role} may read; the password is in {arguments.new_password}")


def _new_password(path: Path) -> str:
    """Made here and never shown: it goes from this file to the station's."""
    from station.faults import Fault, FaultError

    password = secrets.token_urlsafe(32)
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(password + "\n")
    except OSError as error:
        raise FaultError(Fault.CONFIG, f"{path} cannot be made: {error.strerror}; name a new file") from error
    return password


def _status(arguments: argparse.Namespace) -> None:
    from station.config import load
    from station.ledger.line.status import line_status

    with closing(_server(arguments, load(arguments.config))) as server, server.transaction() as connection:
        found = line_status(connection)
    if arguments.json:
        print(json.dumps(asdict(found), default=lambda value: value.isoformat(), separators=(",", ":")))
    else:
        _print(found)


def _print(found: LineStatus) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("station", "last seen", "backlog", "share", "FPY 24 h", "clock", box=None, pad_edge=False)
    for one in found.stations:
        shares = ", ".join(f"{share.order} {share.passed}/{share.leased}" for share in one.shares)
        table.add_row(escape(one.station), _seen(one), _number(one.backlog), escape(shares), _yield(one), _clock(one))
    console = Console(soft_wrap=True)
    console.print(table)
    for act in found.acts:
        console.print(escape(f"order {act.order} {act.act} at {act.station} by {act.by}"))
    for clash in found.clashes:
        state = "the later certificate is out of service" if clash.out_of_service else "the later one is still to go"
        console.print(
            escape(
                f"clash of {clash.kind} {clash.value}: {clash.earlier_station}, then {clash.later_station}; {state}"
            ),
            style="red",
        )


def _seen(one: StationLine) -> str:
    if one.seen_at is None:
        return "[yellow]never[/]"
    ago = int((datetime.now(UTC) - one.seen_at).total_seconds())
    return f"{ago} s ago" if ago < 120 else f"[yellow]{ago // 60} min ago[/]"


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _yield(one: StationLine) -> str:
    return f"{one.first_passed / one.units:.1%} of {one.units}" if one.units else ""


def _clock(one: StationLine) -> str:
    if one.clock_ahead_s is None or abs(one.clock_ahead_s) < 5:
        return ""
    return f"[yellow]{one.clock_ahead_s:+.0f} s[/]"


def _give_back(arguments: argparse.Namespace) -> int:
    from station.config import load
    from station.ledger.line.pull import give_back
    from station.ledger.store import Store

    config = load(arguments.config)
    _settings(config)
    store = Store(config.state / "ledger.sqlite", simulated=config.simulate)
    try:
        given = give_back(store, config.station, arguments.order)
    finally:
        store.dispose()
    print(f"{given} unit(s) of {arguments.order} go back to the line with the next sync")
    return 0 if given else 1
