"""Nordic's own nrfcredstore at one port: ``python nrfcredstore_stranger.py PORT ARGUMENT...``, as its command line.

``PORT shell`` has it read what it finds by Zephyr's ``cred`` shell instead, of which its command line knows nothing:
JSON orders on stdin, a method and its arguments each, their answers on stdout.

What it asks for and these talks never use (J-Link probes, menus, colours) is not installed: see
``.requirements/alone.in``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

sys.path.append(str(Path(sys.prefix) / "alone"))
for name in ("pynrfjprog", "inquirer", "coloredlogs"):
    sys.modules[name] = ModuleType(name)
sys.modules["pynrfjprog"].LowLevel = None  # type: ignore[attr-defined]

from serial.tools import list_ports  # noqa: E402 - behind what stands for the missing ones

port, *arguments = sys.argv[1:]
# It takes no port that is not listed, and a pty never is.
LISTED = [SimpleNamespace(device=os.path.realpath(port), hwid="")]
list_ports.comports = lambda: LISTED  # type: ignore[assignment, misc]

if arguments == ["shell"]:
    from nrfcredstore.command_interface import NrfCloudCredShellInterface
    from nrfcredstore.comms import Comms

    with Comms(port=port, line_ending="\r") as comms:
        interface = NrfCloudCredShellInterface(comms)
        for method, given in json.load(sys.stdin):
            sys.stdout.write(json.dumps(getattr(interface, method)(*given)) + "\n")
else:
    from nrfcredstore.cli import run

    run(["nrfcredstore", port, *arguments])
