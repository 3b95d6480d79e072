"""The commands. Each reads its arguments, asks one part, prints; no logic lives here.

What a script may read goes to stdout (``--json``), what a person is to do goes to stderr. Exit codes: 0 done, 1 a fault
(one sentence and the next step are printed), 2 wrong usage, 3 the station is not running, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from station.cli import activation, care, ceremony, jig, ledger, line, report, setup, slot, stations
from station.faults import Fault, FaultError

_DEFAULT_CONFIG = "/etc/station/station.yaml"

_EXAMPLES = """\
examples:
  station config check                          is every setting right, and if not, where
  station doctor                                could every part work now, and if not, what to do
  station jig learn                             put a board in each slot: which place is which
  station run                                   work the line until SIGTERM
  station orders add WO-118 --product sensor-b --quantity 500
  station status --json | jq .slots             what each slot does now
  station slot disable 3 --why "pogo pin bent"   and: station slot enable 3
  station report                                yesterday's yields: page, PDF, figures
  station unit SB-000123                        everything on record about one unit
  station ledger verify                         is the record as it was written
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

    for module in (line, report, slot, ledger, stations, jig, ceremony, setup, care, activation):
        module.add_to(commands)
    return parser
