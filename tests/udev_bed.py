"""umockdev's test bed, in a process of the system's Python (it has GObject's bindings). Obeys JSON lines on stdin.

Run as ``umockdev-wrapper /usr/bin/python3 udev_bed.py``; ends when stdin closes.
"""

from __future__ import annotations

import json
import sys

import gi

gi.require_version("UMockdev", "1.0")
from gi.repository import UMockdev  # noqa: E402 - the version is asked for first


def main() -> None:
    bed = UMockdev.Testbed.new()
    _say(bed.get_root_dir())
    for line in sys.stdin:
        match json.loads(line):
            case {"add": text}:
                bed.add_from_string(text)
            case {"remove": path}:
                bed.uevent(path, "remove")
                bed.remove_device(path)
            case {"uevent": path, "action": action}:
                bed.uevent(path, action)
        _say("done")


def _say(text: str) -> None:
    print(json.dumps(text), flush=True)  # noqa: T201 - its answer


main()
