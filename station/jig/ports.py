"""Serial ports as udev names them: a USB location, an interface, a port number. A tty's name is never an identity."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from station.faults import printable

BY_PATH: Final = "/dev/serial/by-path"

# udev's path_id for an interface of a USB device: the location, then configuration and interface.
_ID_PATH: Final = re.compile(r"(?P<location>[A-Za-z0-9][A-Za-z0-9:._-]*-usb-[0-9]+:[0-9.]+):[0-9]+\.[0-9]+")
_PORT_NUMBER: Final = re.compile(r"-port([0-9]{1,3})$")
# What a kernel calls ports on the main board; it lists dozens that lead nowhere, and one of them is the console.
_ON_BOARD: Final = re.compile(r"tty(S|AMA|MXS|PS|mxc|O)[0-9]+")


@dataclass(frozen=True, slots=True)
class Device:
    """One tty, as udev described it. What a USB device says of itself is cut, and printable."""

    sys_path: str
    node: str
    number: int
    location: str | None
    interface: int
    vendor: str
    product: str
    serial: str
    since: str  # when udev first saw it: two devices one after the other under one name differ

    @classmethod
    def read(cls, sys_path: str, node: str, number: int, properties: Mapping[str, str]) -> Device:
        """From udev's properties of a device of the subsystem tty."""
        place = _ID_PATH.fullmatch(properties.get("ID_PATH", ""))
        return cls(
            sys_path,
            node,
            number,
            place["location"] if place and properties.get("ID_BUS") == "usb" else None,
            _hex(properties.get("ID_USB_INTERFACE_NUM", "")),
            printable(f"{properties.get('ID_VENDOR_ID', '????')}:{properties.get('ID_MODEL_ID', '????')}", 9),
            printable(properties.get("ID_MODEL_FROM_DATABASE") or properties.get("ID_MODEL", ""), 60),
            printable(properties.get("ID_SERIAL_SHORT", ""), 60),
            properties.get("USEC_INITIALIZED", ""),
        )

    @property
    def on_board(self) -> bool:
        """Whether this is a port of the machine itself, by its name."""
        return _ON_BOARD.fullmatch(os.path.basename(self.node)) is not None  # noqa: PTH119 - a string is all it is


@dataclass(frozen=True, slots=True)
class Port:
    """A USB serial port that can be opened: its device, and udev's by-path link to it."""

    device: Device
    link: str
    number: int  # which of several ports behind one interface; 0 where there is one

    @property
    def location(self) -> str:
        """The place it is plugged into."""
        return self.device.location or ""


@dataclass(frozen=True, slots=True)
class Want:
    """What a slot takes of the ports at its location; None for the only one."""

    location: str
    interface: int | None = None
    number: int | None = None

    def takes(self, port: Port) -> bool:
        """Whether this is the slot's port."""
        return (
            port.location == self.location
            and self.interface in {None, port.device.interface}
            and self.number in {None, port.number}
        )

    def clashes(self, other: Want) -> bool:
        """Whether one port could be both."""
        return (
            self.location == other.location
            and (self.interface is None or other.interface is None or self.interface == other.interface)
            and (self.number is None or other.number is None or self.number == other.number)
        )

    def __str__(self) -> str:
        more = [f"interface {self.interface}"] if self.interface is not None else []
        more += [f"port {self.number}"] if self.number is not None else []
        return " ".join([self.location, *more])


def links() -> dict[str, list[str]]:
    """The by-path links of udev that lead somewhere, by the name of their device's node."""
    found: dict[str, list[str]] = {}
    try:
        names = sorted(os.listdir(BY_PATH))  # noqa: PTH208 - strings are all that is needed
    except OSError:
        return found  # the folder comes with the first device
    for name in names:
        link = f"{BY_PATH}/{name}"
        if name.startswith(".#") or not os.path.exists(link):  # noqa: PTH110 - as above
            continue  # udev makes a link under such a name, then renames it; or the device went first
        try:
            node = os.path.basename(os.readlink(link))  # noqa: PTH115, PTH119 - as above
        except OSError:
            continue
        found.setdefault(node, []).append(link)
    return found


def join(devices: Iterable[Device], linked: Mapping[str, list[str]]) -> tuple[list[Port], list[Device]]:
    """The USB devices with their links; and those whose link is not there yet."""
    ports, late = [], []
    for device in devices:
        if device.location is None:
            continue
        mine = [link for link in linked.get(os.path.basename(device.node), ()) if device.location in link]  # noqa: PTH119
        if not mine:
            late.append(device)
            continue
        number = _PORT_NUMBER.search(mine[0])
        ports.append(Port(device, mine[0], int(number[1]) if number else 0))
    return ports, late


def no_slot(port: Port, wants: Iterable[Want]) -> str | None:
    """Why a port is no slot's; None where it is one."""
    here = [want for want in wants if want.location == port.location]
    if any(want.takes(port) for want in here):
        return None
    if not here:
        return "no slot is at this place"
    taken = ", ".join(str(want).removeprefix(f"{want.location} ") for want in here)
    return f"the slot here takes {taken}"


def _hex(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0
