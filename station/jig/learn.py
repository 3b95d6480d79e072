"""Which USB location is which slot: asked of the person at the jig, one slot at a time, and written at once."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyudev

from station import disk
from station.config.slots import SlotSettings, UsbLocation, map_text
from station.faults import Fault, FaultError
from station.jig.ports import Port
from station.jig.survey import ports_now

_SETTLE_S: Final = 1.0  # a board with two ports shows them one after the other
_LOOK_S: Final = 0.2

Say = Callable[[str], None]
Choose = Callable[[Sequence[Port]], Port]


def to_learn(slots: Sequence[SlotSettings], only: Sequence[str]) -> list[str]:
    """The slots to ask for: those named, else all that have no place of their own in ``station.yaml``.

    Raises:
        FaultError: `Fault.CONFIG` for a name that is no slot's, and for slots whose place is not for the map.
    """
    free = [slot.name for slot in slots if slot.usb is None and slot.port is None]
    for name in only:
        if name not in {slot.name for slot in slots}:
            known = ", ".join(slot.name for slot in slots)
            raise FaultError(Fault.CONFIG, f"no slot is called {name}; station.yaml has {known}")
        if name not in free:
            raise FaultError(Fault.CONFIG, f"slot {name} names its place in station.yaml; take it out there first")
    if not free:
        raise FaultError(Fault.CONFIG, "every slot names its place in station.yaml; there is nothing to learn")
    return [name for name in free if name in only or not only]


def learn(
    names: Sequence[str],
    taken: Mapping[str, UsbLocation],
    say: Say,
    choose: Choose,
    keep: Callable[[Mapping[str, UsbLocation]], None],
    *,
    timeout_s: float,
) -> dict[str, UsbLocation]:
    """Ask for a board in each slot in turn; return the places of all slots.

    Args:
        names: The slots to ask for, in this order.
        taken: Places that are known and stay.
        say: Tells the person what to do.
        choose: Picks one of several ports of one board.
        keep: Called with all places after each slot, so that a session that is cut short loses nothing.
        timeout_s: How long to wait for each board.

    Raises:
        FaultError: `Fault.NO_BOARD` where none came in time; `Fault.JIG_BLIND`; and what ``choose`` and ``keep`` raise.
    """
    places = {name: place for name, place in taken.items() if name not in names}
    arrivals = _Arrivals()
    for name in names:
        say(f"Put a board in slot {name} now.")
        while True:
            ports = arrivals.next(name, timeout_s, say)
            owner = next((slot for slot, place in places.items() if place.path == ports[0].location), None)
            if owner is None:
                break
            say(f"That is slot {owner}'s place already. Put a board in slot {name}.")
        places[name] = _place(ports, choose)
        keep(places)
        say(f"Slot {name} is {_words(places[name])}  ({ports[0].device.product or ports[0].device.vendor}).")
    return places


def write_map(path: Path, places: Mapping[str, UsbLocation]) -> None:
    """Write the slot map in one step: there is the old file or the new one, whatever happens.

    Raises:
        FaultError: `Fault.CONFIG` where it cannot be written.
    """
    try:
        disk.put(path, map_text(places).encode(), 0o644)
    except OSError as error:
        raise FaultError(Fault.CONFIG, f"{path} cannot be written: {error.strerror}") from error


class _Arrivals:
    """Boards that come in after it began to look. One that is in already counts once it was lifted."""

    def __init__(self) -> None:
        try:
            self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
            self._monitor.filter_by("tty")
            self._monitor.start()
        except OSError as error:
            raise FaultError(Fault.JIG_BLIND, f"udev cannot be listened to: {error}") from error
        self._known = _seen()

    def next(self, name: str, timeout_s: float, say: Say) -> list[Port]:
        """The ports of the next board, once they stayed the same for a moment."""
        deadline = time.monotonic() + timeout_s
        new: dict[tuple[str, str], Port] = {}
        since = time.monotonic()
        while time.monotonic() < deadline:
            select.select([self._monitor.fileno()], [], [], _LOOK_S)
            while self._monitor.poll(timeout=0) is not None:
                pass  # only that there is news matters; what they say is read from all that there is
            now = _seen()
            self._known = {key: port for key, port in self._known.items() if key in now}
            fresh = {key: port for key, port in now.items() if key not in self._known}
            if fresh != new:
                new, since = fresh, time.monotonic()
            if not new or time.monotonic() - since < _SETTLE_S:
                continue
            self._known = now
            if len({port.location for port in new.values()}) == 1:
                return list(new.values())
            say(f"Several boards came at once. Lift them, and put one in slot {name}.")
        raise FaultError(Fault.NO_BOARD, f"slot {name}: no new USB serial port within {timeout_s:g} s")


def _seen() -> dict[tuple[str, str], Port]:
    """Each port by what a replug changes: its device's path under /sys, and when udev first saw it."""
    return {(port.device.sys_path, port.device.since): port for port in ports_now()[0]}


def _place(ports: Sequence[Port], choose: Choose) -> UsbLocation:
    """As little as names the port: a board with one port may come back with another interface."""
    if len(ports) == 1:
        return UsbLocation(path=ports[0].location)
    chosen = choose(ports)
    interface = chosen.device.interface
    twins = [port for port in ports if port.device.interface == interface]
    return UsbLocation(path=chosen.location, interface=interface, number=chosen.number if len(twins) > 1 else None)


def _words(place: UsbLocation) -> str:
    more = "" if place.interface is None else f", interface {place.interface}"
    return place.path + more + ("" if place.number is None else f", port {place.number}")
