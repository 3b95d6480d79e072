"""What the station does now, as one frozen value that anybody may wait for.

No event bus: a slot posts, a reader waits for anything newer than what it has seen. A late reader sees the present,
never a gap, and no reader can hold a slot's thread up.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from station.faults import Blame, Fault
from station.model import Outcome, Step


class SlotState(StrEnum):
    """A slot's life: EMPTY, RUNNING, the result latched until the board is lifted, EMPTY.

    WAITING: a board is in the slot, and the line is stopped (andon); its run, if it has one, goes on when that ends.
    OUT: out of service, until a person says otherwise.
    """

    EMPTY = "empty"
    WAITING = "waiting"
    RUNNING = "running"
    RESULT = "result"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One slot, now.

    ``outcome`` and ``fault`` speak in RESULT, and in EMPTY where a board was lifted too early; ``fault`` and ``detail``
    in OUT.
    """

    slot: str
    state: SlotState = SlotState.EMPTY
    run: str | None = None
    order: str | None = None
    serial: str | None = None
    step: Step | None = None
    outcome: Outcome | None = None
    fault: Fault | None = None
    detail: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Andon:
    """The whole line stands: why, whose move it is, since when, and how often the part was tried since."""

    fault: Fault
    blame: Blame
    detail: str
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    trials: int = 1


@dataclass(frozen=True, slots=True)
class LineLink:
    """How the station stands with its line, now.

    ``fault`` is None while it is in touch; ``since`` is when that, or the present fault, began. ``backlog`` is in links
    that the line's server does not have yet; ``left`` names for each open production order the units that this station
    may still pass without the server.
    """

    synced_at: datetime | None = None
    backlog: int = 0
    left: tuple[tuple[str, int], ...] = ()
    fault: Fault | None = None
    detail: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Unclosed:
    """A day whose head is not signed, archived or anchored everywhere yet; it is tried again every minute."""

    fault: Fault
    detail: str
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class StationStatus:
    """The whole station, now. ``version`` grows with each change.

    ``lamps`` names each lamp that does not work (by its slot; "" is the line's own), and why. ``line`` is None where
    the station stands alone.
    """

    version: int
    station: str
    simulated: bool
    slots: tuple[SlotStatus, ...]
    outbox: int = 0
    stopping: bool = False
    andon: Andon | None = None
    lamps: tuple[tuple[str, str], ...] = ()
    line: LineLink | None = None
    unclosed: Unclosed | None = None


class StatusBoard:
    """Holds the present `StationStatus`; safe from any thread."""

    def __init__(self, station: str, slots: tuple[str, ...], *, simulated: bool) -> None:
        self._changed = threading.Condition()
        self._now = StationStatus(1, station, simulated, tuple(SlotStatus(name) for name in slots))

    def post(self, slot: SlotStatus) -> None:
        """Replace the status of the slot of that name."""
        with self._changed:
            slots = tuple(slot if old.slot == slot.slot else old for old in self._now.slots)
            self._publish(replace(self._now, slots=slots))

    def post_outbox(self, waiting: int) -> None:
        """Say how many certificates still wait to be taken out of service."""
        with self._changed:
            if waiting != self._now.outbox:
                self._publish(replace(self._now, outbox=waiting))

    def post_stopping(self) -> None:
        """Say that the station goes down."""
        with self._changed:
            self._publish(replace(self._now, stopping=True))

    def post_andon(self, andon: Andon | None) -> None:
        """Say that the line stands, or (None) that it goes on."""
        with self._changed:
            if andon != self._now.andon:
                self._publish(replace(self._now, andon=andon))

    def post_lamps(self, broken: tuple[tuple[str, str], ...]) -> None:
        """Say which lamps do not work."""
        with self._changed:
            if broken != self._now.lamps:
                self._publish(replace(self._now, lamps=broken))

    def post_line(self, link: LineLink) -> None:
        """Say how the station stands with its line. One more good sync is no news that anybody waits for."""
        with self._changed:
            old = self._now.line
            if old is not None and replace(old, synced_at=link.synced_at) == link:
                self._now = replace(self._now, line=link)
            else:
                self._publish(replace(self._now, line=link))

    def post_unclosed(self, fault: Fault | None, detail: str = "") -> None:
        """Say why a day is not closed yet, or (None) that each is."""
        with self._changed:
            old = self._now.unclosed
            new = None if fault is None else Unclosed(fault, detail)
            if new is not None and old is not None:
                new = replace(new, since=old.since)
            if new != old:
                self._publish(replace(self._now, unclosed=new))

    def now(self) -> StationStatus:
        """The present."""
        return self._now

    def wait(self, newer_than: int, timeout_s: float) -> StationStatus:
        """The present, as soon as it is newer than a version, or after ``timeout_s`` as it is."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._now.version <= newer_than:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._now

    def _publish(self, new: StationStatus) -> None:
        self._now = replace(new, version=new.version + 1)
        self._changed.notify_all()
