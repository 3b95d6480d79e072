"""One slot's nest: where its port is, whether a board is in it."""

from __future__ import annotations

from typing import Protocol

from station.jig.presence import Mark, Presence


class Place(Protocol):
    """Where a slot's port is found. Looked at by the jig's thread, opened by the slot's."""

    def find(self) -> Mark | None:
        """What is plugged in there now; None for nothing."""

    def again_s(self) -> float | None:
        """In how many seconds to look again even without news; None: at the jig's next reconciliation."""

    def port(self) -> str:
        """The path to open now; it stays good when the board comes back under another name."""


class Nest:
    """What a slot's thread knows of its place."""

    def __init__(self, name: str, place: Place, presence: Presence) -> None:
        self.name, self.presence = name, presence
        self._place = place

    def look(self) -> float | None:
        """Tell `presence` what is there now (the jig's thread); return as `Place.again_s`."""
        self.presence.see(self._place.find())
        return self._place.again_s()

    def ready(self) -> str:
        """Make the nest ready for a run, and return the port's path (the slot's thread)."""
        return self._place.port()
