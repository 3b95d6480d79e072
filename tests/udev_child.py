"""A jig at work under umockdev, as a process: tells what its slots see, a JSON line each. Ends when stdin closes.

Run as ``umockdev-wrapper python udev_child.py LINKS SLOTS_JSON``, with UMOCKDEV_DIR set.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import structlog

from station.config import SlotSettings, SlotTimes
from station.faults import FaultError
from station.jig import Nest, build_jig, watch

DEBOUNCE_MS, LIFTED_MS = 50, 700
_TELLING = threading.Lock()


class Never:
    """No reason to stop."""

    def check(self) -> None:
        """Go on."""

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


def tell(**what: object) -> None:
    with _TELLING:  # the slots' threads tell at the same moment
        print(json.dumps(what), flush=True)  # noqa: T201 - what the test reads


def follow(nest: Nest) -> None:
    """Say when a board is in, by which port, and when it was lifted; as a slot's thread would learn it."""
    while True:
        while not nest.presence.plugged():
            nest.presence.wait(nest.listen())
        try:
            port = nest.ready(Never())
            tell(slot=nest.name, sees="board", port=port, link=str(Path(port).readlink()))
        except FaultError as error:
            tell(slot=nest.name, sees="board", fault=error.fault.code, detail=error.detail)
        while not nest.presence.lifted():
            nest.presence.wait(nest.listen())
        tell(slot=nest.name, sees="nothing")


def main() -> None:
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    links, slots, reconcile_s = sys.argv[1:]
    watch._RECONCILE_S = float(reconcile_s)  # type: ignore[misc]
    settings = [SlotSettings.model_validate_json(json.dumps(slot)) for slot in json.loads(slots)]
    times = SlotTimes(debounce_ms=DEBOUNCE_MS, lifted_ms=LIFTED_MS)
    jig = build_jig(settings, times, Path(links), lambda _: lambda _: False)
    for nest in jig.nests:
        threading.Thread(target=follow, args=(nest,), daemon=True).start()
    jig.start()
    tell(sees="ready")
    sys.stdin.read()
    jig.stop()


main()
