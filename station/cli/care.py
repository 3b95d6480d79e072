"""Commands that look after a station: could every part work now; do the record and AWS IoT agree."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from station.cli.parsing import Commands, command, print_json, with_json

if TYPE_CHECKING:
    from station.config import Config
    from station.ledger.standing import Read

_LINE_S = 600.0  # every certificate of a big line
_PARTS_END_S = 4.2  # of the doctor's five seconds; the interpreter ends in the rest
_LEAST_S = 0.5  # for the doctor's parts, however slow the start was: what has not answered then is late
_DOCTOR = """\
Asks every part of the station at the same time, and takes less than 5 seconds. It changes no setting, board or
certificate, but logs in to the token: a wrong PIN costs one try and is latched. It may be run before the shift or
beside a station at work. Exit codes: 0 every part could work now (some may warn), 1 a part could
not: its line says what to do.

examples:
  station doctor                                     one line a part
  station doctor --json | jq -r '.[] | select(.level == "bad") | .part'
  sudo systemd-run --pipe --wait -p User=station -p LoadCredentialEncrypted=hsm-pin:/etc/station/hsm-pin.cred \\
      /opt/station/.venv/bin/station doctor          where the PIN is a systemd credential
"""


_RECONCILE = """\
Compares the ledger with AWS IoT, certificate by certificate, within AWS's throttles. Nothing is changed without --fix
or --revoke-unknown. Exit codes: 0 both sides agree, or what did not was mended; 1 differences are left.

--fix sets orphans INACTIVE, and activates what passed and still waits where this station is the activator; each is
asked about again right before. What somebody took out of service or deleted on purpose is told and left. Certificates
that this ledger does not know may be another station's: with --line those of the line's stations are left to them. The
rest is told, and revoked only by --revoke-unknown and a yes that is typed below their ids; on a line, --line
has to be given. What another station signs in these minutes may not be on the line's server yet: no station should be
at work.

examples:
  station reconcile
  station reconcile --fix
  station reconcile --revoke-unknown --line reader --password-file /root/reader
  station reconcile --json | jq '.found[] | select(.kind == "unknown here")'
"""


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    doctor = with_json(command(commands, "doctor", _doctor, "could every part work now, and if not, what to do"))
    doctor.description = _DOCTOR
    doctor.formatter_class = argparse.RawDescriptionHelpFormatter

    reconcile = with_json(command(commands, "reconcile", _reconcile, "do the ledger and AWS IoT agree, and mend it"))
    reconcile.description = _RECONCILE
    reconcile.formatter_class = argparse.RawDescriptionHelpFormatter
    reconcile.add_argument("--fix", action="store_true", help="mend what may be mended without a person")
    reconcile.add_argument(
        "--revoke-unknown", action="store_true", help="revoke what no record knows; shows it and asks"
    )
    reconcile.add_argument("--line", metavar="LOGIN", help="ask the line's PostgreSQL too, as this reader")
    reconcile.add_argument("--password-file", type=Path, help="its password, mode 0600 (none: the server trusts us)")


def _doctor(arguments: argparse.Namespace) -> int:
    from station import views  # with the rest of the start, whose time the parts do not have
    from station.config import load
    from station.doctor import Doctor, Level, examine
    from station.process import age_s

    doctor = Doctor(load(arguments.config))
    # What the start took is gone from the parts' time: the whole command is the shift's first five seconds.
    findings = examine(doctor.parts(), max(_LEAST_S, _PARTS_END_S - age_s()))
    if arguments.json:
        print_json([{**asdict(one), "fault": one.fault.code if one.fault else None} for one in findings])
    else:
        views.print_findings(findings)
    return int(any(one.level is Level.BAD for one in findings))


def _reconcile(arguments: argparse.Namespace) -> int:
    from station import views
    from station.aws.registry import Grant, Registry
    from station.config import load
    from station.ledger.readers import ledger_reader
    from station.reconcile import Kind, Sides

    config = load(arguments.config)
    aws = config.aws
    with ExitStack() as parts:
        line = _line(arguments, config, parts)
        record = parts.enter_context(ledger_reader(config.state / "ledger.sqlite"))
        registry = Registry(aws.region, api_url=aws.simulator.api_url if aws.simulator else None)
        sides = Sides(registry, aws.ca_certificate_id, record, line)
        with views.progress() as progress:
            result = sides.compare(progress)
        kinds = {Kind.ORPHAN, Kind.PENDING} if arguments.fix else set()
        strangers = [one.certificate_id for one in result.found if one.kind is Kind.UNKNOWN_HERE]
        if arguments.revoke_unknown and strangers and _revoke(strangers):
            kinds.add(Kind.UNKNOWN_HERE)
        if kinds:
            activation = aws.activation
            grant = Grant(activation.policy, activation.thing_type) if activation.by == "station" else None
            result = sides.mend(result, kinds, grant)
    if arguments.json:
        print_json({"counts": result.counts, "left": result.left, "found": [asdict(one) for one in result.found]})
    else:
        views.print_reconciled(result)
    return int(result.left > 0)


def _line(arguments: argparse.Namespace, config: Config, parts: ExitStack) -> Read | None:
    """The record of the line, where a reader's login is given; a station's own shows it no other station's rows."""
    from station.config.secrets import read_password
    from station.faults import Fault, FaultError

    if arguments.line is None:
        if arguments.revoke_unknown and config.line is not None:
            raise FaultError(
                Fault.CONFIG, "what is unknown here may be another station's of the line; next: add --line LOGIN"
            )
        return None
    if config.line is None:
        raise FaultError(Fault.CONFIG, "the settings have no section `line`: this station stands alone")
    from station.ledger.line import LineServer

    password = read_password(arguments.password_file) if arguments.password_file else ""
    server = parts.enter_context(closing(LineServer(config.line, password, arguments.line)))
    return lambda: server.transaction(_LINE_S)


def _revoke(strangers: list[str]) -> bool:
    """Whether a person says yes to revoking these, and no others."""
    for one in strangers:
        print(one, file=sys.stderr)
    print(f"Revoke these {len(strangers)}? No station can use them again. Type yes: ", end="", file=sys.stderr)
    sys.stderr.flush()
    try:
        agreed = input() == "yes"
    except EOFError:
        agreed = False
    if not agreed:
        print("none is revoked", file=sys.stderr)
    return agreed
