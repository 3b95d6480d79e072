"""Commands of the provider: activate what the line connects."""

from __future__ import annotations

import argparse
from pathlib import Path

from station.cli.parsing import Commands, command, group, print_json, with_by, with_json

_RUN = """\
Activates the certificates that the line is connecting now, until SIGTERM (station-activator.service starts this).
FILE is the provider's activator.yaml; see docs/activation.md. Certificates that no run of the line made are never
activated: they are put on record and told in the log.

examples:
  station activator run /etc/station/activator.yaml
  station activator once /etc/station/activator.yaml       one pass; exit code 1 where something must not be activated,
                                                           or could not be asked about in three tries
  station activator alarms /etc/station/activator.yaml     what was never activated, and why; exit code 1 where there is
  station activator alarms /etc/station/activator.yaml --seen ID       somebody saw to it: it is no alarm any more
"""


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    activator = group(commands, "activator", "the provider's side: activate what the line connects")
    run = command(activator, "run", _run, "activate until SIGTERM")
    run.description, run.formatter_class = _RUN, argparse.RawDescriptionHelpFormatter
    once = with_json(command(activator, "once", _once, "one pass over everything that waits, then end"))
    alarms = with_json(command(activator, "alarms", _alarms, "the certificates that must not be activated"))
    alarms.add_argument("--seen", metavar="ID", help="somebody saw to the alarm about this certificate")
    with_by(alarms)
    package = command(activator, "package", _package, "pack the Lambda function (config/aws/activator.yaml)")
    package.add_argument("zip", type=Path, help="the file to write")
    package.add_argument("--seal", type=Path, action="append", required=True, help="a station's public key; repeat it")
    package.add_argument("--vendored", type=Path, help="the folder that pip install --target filled")
    for one in (run, once, alarms):
        one.add_argument("file", type=Path, help="activator.yaml")


def _run(arguments: argparse.Namespace) -> None:
    from station.activator.daemon import run
    from station.config.activator import load_activator

    run(load_activator(arguments.file))


def _once(arguments: argparse.Namespace) -> int:
    from station.activator.daemon import once
    from station.config.activator import load_activator

    service = once(load_activator(arguments.file))
    counts = {verdict: count for verdict, count in service.counts.items() if count}
    if arguments.json:
        print_json(counts)
    else:
        for verdict, count in counts.items():
            print(f"{verdict.value:<10} {count}")
        if not counts and service.failure is None:
            print("nothing waits")
    if service.failure is not None:
        raise service.failure
    return int(any(verdict.alarming for verdict in counts))


def _alarms(arguments: argparse.Namespace) -> int:
    from station.activator.alarms import AlarmBook
    from station.config.activator import load_activator

    book = AlarmBook(load_activator(arguments.file).state / "alarms.jsonl")
    if arguments.seen:
        book.seen(arguments.seen, arguments.by)
    found = book.read()
    if arguments.json:
        print_json(found)
    elif not found:
        print("no alarm")
    else:
        for alarm in found:
            print(f"{alarm['at']}  {alarm['verdict']:<9} {alarm['certificate_id']}  {alarm['source_ip']}")
    return int(bool(found))


def _package(arguments: argparse.Namespace) -> None:
    from station.activator.package import package

    size = package(arguments.zip, arguments.seal, arguments.vendored)
    print(f"{arguments.zip}: {size / 2**20:.1f} MiB, {len(arguments.seal)} seal(s)")
    if arguments.vendored is None:
        print("without --vendored: a Lambda layer has to bring cryptography and structlog")
