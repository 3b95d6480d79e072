"""Commands that look after a station: could every part work now; do the record and AWS IoT agree."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from station.cli.parsing import Commands, command, print_json, with_json

_LEAST_S = 2.0  # for the doctor's parts, on however slow a machine
_DOCTOR = """\
Asks every part of the station at the same time, changes nothing, and takes less than 5 seconds. It may be run
before the shift or beside a station at work. Exit codes: 0 every part could work now (some may warn), 1 a part could
not: its line says what to do.

examples:
  station doctor                                     one line a part
  station doctor --json | jq -r '.[] | select(.level == "bad") | .part'
  sudo systemd-run --pipe --wait -p User=station -p LoadCredentialEncrypted=hsm-pin:/etc/station/hsm-pin.cred \\
      /opt/station/.venv/bin/station doctor          where the PIN is a systemd credential
"""


_RECONCILE = """\
Compares the ledger with AWS IoT, certificate by certificate, within AWS's throttles. Nothing is changed without --fix.
Exit codes: 0 both sides agree, or what did not was mended; 1 differences are left.

--fix sets orphans INACTIVE, and activates what passed and still waits where this station is the activator. What
somebody took out of service or deleted on purpose is told and left. Certificates that this ledger does not know may be
another station's: they are told, and revoked only by --revoke-unknown and a typed yes.

examples:
  station reconcile
  station reconcile --fix
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
    reconcile.add_argument("--revoke-unknown", action="store_true", help="revoke what this ledger does not know; asks")


def _doctor(arguments: argparse.Namespace) -> int:
    from station.config import load
    from station.doctor import LIMIT_S, Doctor, Level, examine
    from station.process import age_s

    doctor = Doctor(load(arguments.config))
    # What the start took is gone from the parts' time: the whole command is the shift's first five seconds.
    findings = examine(doctor.parts(), max(_LEAST_S, LIMIT_S - age_s()))
    if arguments.json:
        print_json([{**asdict(one), "fault": one.fault.code if one.fault else None} for one in findings])
    else:
        from station import views

        views.print_findings(findings)
    return int(any(one.level is Level.BAD for one in findings))


def _reconcile(arguments: argparse.Namespace) -> int:
    from station import views
    from station.aws.registry import Grant, Registry
    from station.ca import load_ca_certificate
    from station.config import load
    from station.ledger.readers import ledger_reader
    from station.reconcile import Repair, compare

    config = load(arguments.config)
    aws, revoke = config.aws, arguments.revoke_unknown
    if revoke and input("Revoke every certificate that this ledger does not know? Type yes to go on: ") != "yes":
        print("nothing was done", file=sys.stderr)
        return 1
    registry = Registry(aws.region, api_url=aws.simulator.api_url if aws.simulator else None)
    repair = None
    if arguments.fix or revoke:
        activation = aws.activation
        grant = Grant(activation.policy, activation.thing_type) if activation.by == "station" else None
        repair = Repair(load_ca_certificate(config.ca.certificate), grant, revoke=revoke)
    with ledger_reader(config.state / "ledger.sqlite") as read, views.progress() as progress:
        result = compare(read, registry, aws.ca_certificate_id, progress, repair)
    if arguments.json:
        print_json({"counts": result.counts, "left": result.left, "found": [asdict(one) for one in result.found]})
    else:
        views.print_reconciled(result)
    return int(result.left > 0)
