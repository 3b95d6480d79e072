"""One slot's nest: where its port is, how a board in it is noticed, and what powers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from station.faults import Fault, FaultError
from station.interfaces import Stop
from station.jig.presence import Mark, Presence

_TICK_S: Final = 5.0  # a slot that waits is woken by news; this is for the watchdog
_ASK_S: Final = 0.5  # between two questions to an empty nest, where the board itself is asked
_PORT_S: Final = 10.0  # a board whose power was just switched on may take so long to show its port
_PIECE_S: Final = 0.02

log = structlog.get_logger()


class Place(Protocol):
    """Where a slot's port is found. Looked at by the jig's thread, opened by the slot's."""

    def find(self) -> Mark | None:
        """What is plugged in there now; None for nothing."""

    def again_s(self) -> float | None:
        """In how many seconds to look again even without news; None: at the jig's next reconciliation."""

    def here(self) -> bool:
        """Whether the last `find` found something."""

    def port(self) -> str:
        """The path to open now; it stays good when the board comes back under another name."""


class Sensor(Protocol):
    """Says whether a board is in a fixture whose port never vanishes."""

    def closed(self) -> bool:
        """Whether a board is in, by the last look."""


class Power(Protocol):
    """What gives the slot's board its power."""

    def on(self) -> None:
        """Switch it on. Raises `Fault.POWER_STUCK`."""

    def off(self) -> None:
        """Switch it off. Raises `Fault.POWER_STUCK`."""


class Nest:
    """What a slot's thread knows of its place.

    Args:
        name: The slot's.
        place: Where its port is.
        presence: What is told of the board.
        sensor: Says whether a board is in, where the port stays without one.
        ask: Asks the board itself, by the port's path, whether it is there; instead of a sensor. Returns within a
            second, and is called by the slot's thread between runs.
        power: Switched on for each run, and off after it.
    """

    def __init__(
        self,
        name: str,
        place: Place,
        presence: Presence,
        *,
        sensor: Sensor | None = None,
        ask: Callable[[str], bool] | None = None,
        power: Power | None = None,
    ) -> None:
        self.name, self.presence = name, presence
        self._place, self._sensor, self._ask, self._power = place, sensor, ask, power

    @property
    def blind(self) -> bool:
        """Whether a dead board looks like none: then its result must be shown on when it seems to be gone."""
        return self._ask is not None

    def look(self) -> float | None:
        """Tell `presence` what is there now (the jig's thread); return as `Place.again_s`."""
        found = self._place.find()
        if self._sensor is not None:
            found = ("closed",) if self._sensor.closed() else None
        if self._ask is None:
            self.presence.see(found)
        return self._place.again_s()

    def listen(self) -> float:
        """Ask the board where only it can tell (the slot's thread); return how long to wait for news then."""
        if self._ask is None:
            return _TICK_S
        try:
            there = self._place.here() and self._ask(self._place.port())
        except FaultError:
            there = True  # the run that this begins says why
        self.presence.see(("answers",) if there else None)
        return _ASK_S

    def ready(self, stop: Stop) -> str:
        """Make the nest ready for a run, and return the port's path (the slot's thread).

        Raises:
            FaultError: `Fault.POWER_STUCK`; `Fault.PORT_MISSING` where a board is in and there is no port for it;
                `Fault.PORT_AMBIGUOUS`; and what ``stop`` raises.
        """
        if self._power is not None:
            self._power.on()
        if self._sensor is not None:
            self._await_port(stop)
        return self._place.port()

    def rest(self) -> None:
        """After a run: power off, where it is switched. Never raises; a switch that sticks is named in the log."""
        if self._power is None:
            return
        try:
            self._power.off()
        except FaultError as error:
            log.error("the slot's power stays on", fault=error.fault.code, detail=error.detail)  # noqa: TRY400 - the detail says it

    def _await_port(self, stop: Stop) -> None:
        end = time.monotonic() + _PORT_S
        while not self._place.here():
            if time.monotonic() >= end:
                raise FaultError(Fault.PORT_MISSING, f"a board is in, and no port came within {_PORT_S:.0f} s")
            stop.wait(_PIECE_S)
