"""Commands that look after a station: could every part work now."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from station.cli.parsing import Commands, command, print_json, with_json

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


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    doctor = with_json(command(commands, "doctor", _doctor, "could every part work now, and if not, what to do"))
    doctor.description = _DOCTOR
    doctor.formatter_class = argparse.RawDescriptionHelpFormatter


def _doctor(arguments: argparse.Namespace) -> int:
    from station.config import load
    from station.doctor import Doctor, Level, examine

    findings = examine(Doctor(load(arguments.config)).parts())
    if arguments.json:
        print_json([{**asdict(one), "fault": one.fault.code if one.fault else None} for one in findings])
    else:
        from station import views

        views.print_findings(findings)
    return int(any(one.level is Level.BAD for one in findings))
