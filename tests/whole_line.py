"""Words for tests of a whole line: what is plugged in, what came of it, what the registry says."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

from station.sim.jig import PluggedBoard, SimJig

from station.sim.line import Provider, Station

MakeStation = Callable[..., Station]


def order_troubles(provider: Provider, **troubles: Any) -> None:
    request = urllib.request.Request(  # noqa: S310 - our own simulator
        f"{provider.cloud['control_url']}/troubles",
        json.dumps(troubles).encode(),
        {"content-type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - our own simulator
        answer.read()


class Bench:
    """One station with its jig: what most tests do, in words."""

    def __init__(self, station: Station, jig: SimJig, api: Any) -> None:
        self.station, self.jig, self.api = station, jig, api
        self._plugged = 0

    def plug(self, serial: str, *faults: str, chip: str = "", **more: Any) -> PluggedBoard:
        return self.jig.plug(
            self.station.port,
            serial=serial,
            chip=chip or f"CHIP-{serial}",
            model="demo-board",
            faults=faults,
            **more,
        )

    def run(self, serial: str, *faults: str, **more: Any) -> dict[str, Any]:
        """Plug in, wait for the result, lift; return the slot's result."""
        board = self.plug(serial, *faults, **more)
        result = self.station.result()
        board.lift()
        self.station.empty()
        return result

    def history(self, serial: str) -> list[dict[str, Any]]:
        return self.station.control.unit(serial)

    def certificate_states(self, serial: str) -> list[str | None]:
        """What the registry says of each certificate ever issued to the unit; None where it knows nothing."""
        issued = [each["certificate_id"] for run in self.history(serial) for each in run["certificates"]]
        return [self._state(one) for one in issued if one]

    def _state(self, certificate_id: str) -> str | None:
        try:
            found = self.api.describe_certificate(certificateId=certificate_id)
        except self.api.exceptions.ResourceNotFoundException:
            return None
        return str(found["certificateDescription"]["status"])

    def nothing_active(self, serial: str) -> None:
        """Once the outbox has drained, the unit has no certificate that works, and none that could be activated."""
        self.station.drained()
        states = self.certificate_states(serial)
        assert all(state == "INACTIVE" for state in states), states
