"""The yield report: made of any days, and delivered."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from station.cli.parsing import Commands, command, print_json, with_json
from station.faults import Fault, FaultError

if TYPE_CHECKING:
    from station.config import Config
    from station.ledger.standing import Read
    from station.yields.making import Made

_LINE_S = 600.0  # a year of a big line

_EXAMPLES = """\
examples:
  station report                                     yesterday's (the last day that is over)
  station report --day 2026-11-24 --out /tmp/yield   one day's, into a folder of your own
  station report --from 2026-11-01 --to 2026-11-30 --format pdf,csv
  station report --order WO-118 --format json
  station report --line reader --station line-2      from the PostgreSQL that the stations share
  station report --deliver                           what the nightly timer runs: make every day's that is missing,
                                                     send them, retry older ones
  station report deliver                             only send what is not delivered yet
"""


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    report = with_json(command(commands, "report", _report, "yields, output, faults, slots, orders, certificates"))
    report.epilog, report.formatter_class = _EXAMPLES, argparse.RawDescriptionHelpFormatter
    report.add_argument("act", nargs="?", choices=("deliver",), help="make nothing; only send what waits")
    days = report.add_argument_group("days", "by the clock of report.timezone; without any, the last day that is over")
    days.add_argument("--day", type=_day, help="as 2026-11-24")
    days.add_argument("--from", dest="first", type=_day, help="the first of several days")
    days.add_argument("--to", dest="last", type=_day, help="the last of them")
    report.add_argument("--order", help="only what ran under this order")
    report.add_argument("--station", help="only what this station ran")
    report.add_argument(
        "--format", type=_formats, default=(), help="html,pdf,csv,json,openhtf (default: report.formats)"
    )
    report.add_argument("--out", type=Path, help="the folder of reports (default: report.folder)")
    report.add_argument("--line", metavar="LOGIN", help="of all stations: read the line's PostgreSQL as this reader")
    report.add_argument("--password-file", type=Path, help="its password, mode 0600 (none: the server trusts us)")
    report.add_argument("--deliver", action="store_true", help="then send it by e-mail and to S3, as the settings say")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2026-11-24") from error


def _formats(text: str) -> tuple[str, ...]:
    from station.config.report import FORMATS

    wanted = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown or not wanted:
        raise argparse.ArgumentTypeError(f"should be some of {','.join(FORMATS)}")
    return wanted


def _report(arguments: argparse.Namespace) -> None:
    from station.config import load
    from station.diary import FILE as DIARY
    from station.yields.making import Maker, Wanted

    if arguments.day and (arguments.first or arguments.last):
        raise FaultError(Fault.REPORT_WINDOW, "--day is one day; --from and --to are several")
    config = load(arguments.config)
    with _record(arguments, config) as read:
        maker = Maker(
            read=read,
            settings=config.report,
            station=config.line.database if arguments.line and config.line else config.station,
            software=version("provisioning-station"),
            language=config.language,
            folder=arguments.out or config.report.folder_in(config.state),
            diary=None if arguments.line else config.state / DIARY,
            line=arguments.line is not None,
        )
        names = ("day", "first", "last", "order", "station", "deliver")
        wanted = Wanted(formats=arguments.format, **{name: getattr(arguments, name) for name in names})
        if arguments.act is None:
            now = datetime.now(UTC)
            due = maker.due(wanted, now)
            for one in due:
                _say(maker.make(one, now), as_json=arguments.json)
            if not due:
                print("every day that is over has its report", file=sys.stderr)
        if arguments.deliver or arguments.act == "deliver":
            maker.deliver(lambda line: print(line, file=sys.stderr))


def _say(made: Made, *, as_json: bool) -> None:
    if as_json:
        listed = sorted(file.name for file in made.folder.iterdir())
        print_json({"folder": str(made.folder), "files": listed, "verdict": made.sentence})
    else:
        print(f"{made.sentence}\n{made.folder}")
    sys.stdout.flush()


@contextmanager
def _record(arguments: argparse.Namespace, config: Config) -> Iterator[Read]:
    """The station's own record, or the line's."""
    if arguments.line is None:
        from station.ledger.identity import mark_of
        from station.ledger.store import Store

        ledger = config.state / "ledger.sqlite"
        if not (ledger.exists() or mark_of(ledger).exists()):  # to be made by the station, as its own user
            raise FaultError(Fault.LEDGER_DOWN, f"there is no ledger {ledger} yet: the station's first start makes it")
        store = Store(ledger, simulated=config.simulate)
        try:
            yield store.read
        finally:
            store.dispose()
        return
    from station.config.secrets import read_password
    from station.ledger.line import LineServer

    if config.line is None:
        raise FaultError(Fault.CONFIG, "the settings have no section `line`: this station stands alone")
    password = read_password(arguments.password_file) if arguments.password_file else ""
    with closing(LineServer(config.line, password, arguments.line)) as server:
        yield lambda: server.transaction(_LINE_S)
