"""USB serial ports by their location, with udev's news: only udev's, which come once links and owner are right."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyudev
import structlog

from station.faults import Fault, FaultError
from station.jig.ports import BY_PATH, Device, Port, Want, join, links, no_slot
from station.jig.presence import Mark

_LINK_SOON_S: Final = 0.05  # udev's news may be a moment ahead of its link
_LINK_LATE_S: Final = 10.0  # and after so long nobody waits for it
_NAMED_MAX: Final = 500

log = structlog.get_logger()


def devices_now(context: pyudev.Context) -> dict[str, Device]:
    """Every tty that udev knows, by its sys path."""
    found = (_device(one) for one in context.list_devices(subsystem="tty"))
    return {device.sys_path: device for device in found if device is not None}


def _device(found: pyudev.Device) -> Device | None:
    try:
        node, number = found.device_node, found.device_number
        return Device.read(found.sys_path, node, number, dict(found.properties)) if node else None
    except (OSError, pyudev.DeviceNotFoundError, UnicodeDecodeError):
        return None  # it went while it was looked at


class UsbPorts:
    """The table of USB serial ports, kept by udev's news and by looking again. Belongs to the jig's thread.

    Raises:
        FaultError: `Fault.JIG_BLIND` where udev cannot be listened to.
    """

    def __init__(self, wants: Sequence[Want]) -> None:
        self._wants = tuple(wants)
        self._devices: dict[str, Device] = {}
        self._news = 0
        self._ports: dict[str, list[tuple[Port, int]]] = {}
        self._born: dict[tuple[str, str], int] = {}
        self._late_until = float("inf")
        self._late: tuple[str, ...] = ()
        self._looked: object = None
        self._named: set[tuple[str, str]] = set()
        try:
            self._context = pyudev.Context()
            self._monitor = pyudev.Monitor.from_netlink(self._context, source="udev")
            self._monitor.filter_by("tty")
            # Listening begins before the first enumeration (`reconcile`), or a board between the two is missed.
            self._monitor.start()
        except (OSError, ImportError) as error:
            raise FaultError(Fault.JIG_BLIND, f"udev cannot be listened to: {error}") from error

    def fileno(self) -> int:
        """To wait on."""
        fd: int = self._monitor.fileno()
        return fd

    def read(self) -> None:
        """Take all news."""
        try:
            while (found := self._monitor.poll(timeout=0)) is not None:
                self._take(found)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            log.warning("udev's news were too many; looking at everything")
            self._looked = None
            self.reconcile()
        self._join()

    def reconcile(self) -> None:
        """Ask udev for everything, where the folder of links is not as it was or the last answer was a surprise.

        To ask costs milliseconds, and sixteen empty slots shall cost nothing. A device that is just going may still be
        in the answer: so one that told something new is asked for again.
        """
        looks = _fingerprint()
        if looks == self._looked:
            return
        found = devices_now(self._context)
        self._looked = looks if found == self._devices else None
        self._devices = found
        self._join()

    def close(self) -> None:
        """Nothing to give back by hand: the monitor's socket goes with it."""

    def at(self, want: Want) -> list[tuple[Port, int]]:
        """The ports that a slot could take, each with a number that a replug changes."""
        return [(port, born) for port, born in self._ports.get(want.location, ()) if want.takes(port)]

    def look(self) -> float | None:
        """Look again for links that were not there with their device's news, while that may still be."""
        if self._late and time.monotonic() >= self._late_until:
            for node in self._late:
                self._say(node, f"udev made no link to it in {BY_PATH}")
            self._late = ()
        if self._late:
            self._join()
        return _LINK_SOON_S if self._late else None

    def _take(self, found: pyudev.Device) -> None:
        path = found.sys_path
        if found.action == "remove":
            self._devices.pop(path, None)
            return
        device = _device(found)
        if device is not None:
            self._devices[path] = device
            if found.action == "add":
                self._born.pop((path, device.since), None)

    def _join(self) -> None:
        ports, late = join(self._devices.values(), links())
        self._ports, born_before, self._born = {}, self._born, {}
        for port in sorted(ports, key=lambda each: (each.device.interface, each.number)):
            key = (port.device.sys_path, port.device.since)
            if key not in born_before:
                self._news += 1
            self._born[key] = born_before.get(key, self._news)
            self._ports.setdefault(port.location, []).append((port, self._born[key]))
            self._name(port)
        places = {want.location for want in self._wants}
        awaited = tuple(sorted(device.node for device in late if device.location in places))
        if awaited != self._late:
            self._late, self._late_until = awaited, time.monotonic() + _LINK_LATE_S

    def _name(self, port: Port) -> None:
        why = no_slot(port, self._wants)
        if why is not None:
            self._say(port.link, why, tty=port.device.node, usb=port.device.vendor, product=port.device.product)

    def _say(self, what: str, why: str, **more: str) -> None:
        """Once for each reason: a port that comes and goes must not fill the log."""
        if (what, why) not in self._named and len(self._named) < _NAMED_MAX:
            self._named.add((what, why))
            log.info("a port is no slot, and ignored", port=what, why=why, **more)


class UsbPlace:
    """A slot at a USB location. Its port is a link of the station's own, which follows the board from name to name.

    A board that resets may come back with another tty, another by-path link even (a boot loader has other interfaces);
    ``link`` leads to whatever is in the slot now.
    """

    def __init__(self, want: Want, ports: UsbPorts, link: Path) -> None:
        self.want, self._ports, self._link = want, ports, link
        self._found: tuple[Port, ...] = ()

    def find(self) -> Mark | None:
        """Real path and device number of the slot's port, and which plug-in it is."""
        found = self._ports.at(self.want)
        ports = tuple(port for port, _ in found)
        if ports and ports != self._found:
            _relink(self._link, ports[0].link)
        self._found = ports
        return tuple(part for port, born in found for part in (port.device.node, port.device.number, born)) or None

    def again_s(self) -> float | None:
        """Never by itself: udev has news of everything that comes and goes."""
        return None

    def port(self) -> str:
        """The slot's link. Raises `Fault.PORT_AMBIGUOUS` where there are several ports and the slot names none."""
        found = self._found
        if len(found) > 1:
            shown = ", ".join(f"interface {each.device.interface} port {each.number}" for each in found)
            raise FaultError(
                Fault.PORT_AMBIGUOUS, f"{self.want.location} shows {len(found)} ports ({shown}); name one in the slot"
            )
        return str(self._link)

    def here(self) -> bool:
        """Whether a port is there now."""
        return bool(self._found)


def _relink(link: Path, target: str) -> None:
    """Point ``link`` to ``target`` in one step: who opens it meanwhile gets the one or the other."""
    new = link.with_name(f".#{link.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


def _fingerprint() -> object:
    """What the folder of links looks like; changes with every link that is made anew."""
    try:
        with os.scandir(BY_PATH) as entries:
            return sorted((entry.name, entry.inode(), os.path.exists(entry.path)) for entry in entries)  # noqa: PTH110
    except OSError:
        return ()
