"""What is plugged in where, at one moment: for `station jig list`, the doctor, and learning."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from station.config.slots import SlotSettings
from station.faults import Fault, FaultError
from station.jig.build import want
from station.jig.ports import Device, Port, Want, join, links, no_slot


@dataclass(frozen=True, slots=True)
class Plugged:
    """A port, and what udev says is behind it. ``why`` is for ports that are no slot."""

    port: str
    tty: str
    usb: str = ""
    product: str = ""
    serial: str = ""
    location: str = ""
    interface: int = 0
    number: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class SlotView:
    """One slot: its place in words, and the ports in it. Where it could take several, its settings must name one."""

    name: str
    place: str
    ports: tuple[Plugged, ...]


def slots_now(slots: Sequence[SlotSettings]) -> tuple[SlotView, ...]:
    """The slots with what is in them; udev is asked only where a slot has its place on the USB.

    Raises:
        FaultError: `Fault.JIG_BLIND` where udev cannot be asked.
    """
    ports = ports_now()[0] if any(slot.usb is not None for slot in slots) else []
    return tuple(_view(slot, ports) for slot in slots)


def survey(slots: Sequence[SlotSettings]) -> tuple[tuple[SlotView, ...], tuple[Plugged, ...]]:
    """The slots with what is in them, and the ports that are no slot.

    Raises:
        FaultError: `Fault.JIG_BLIND` where udev cannot be asked.
    """
    ports, others = ports_now()
    wants = [want(slot.usb) for slot in slots if slot.usb is not None]
    own = {os.path.realpath(slot.port) for slot in slots if slot.port is not None}
    views = tuple(_view(slot, ports) for slot in slots)
    strangers = [_plugged(port, _why(port, wants, own)) for port in ports]
    strangers += [
        Plugged(device.node, device.node, why="a port of this machine itself; only USB places are learnt")
        for device in others
        if device.on_board and device.node not in own
    ]
    return views, tuple(one for one in strangers if one.why)


def ports_now() -> tuple[list[Port], list[Device]]:
    """The USB serial ports of this moment, and every other tty.

    Raises:
        FaultError: `Fault.JIG_BLIND` where udev cannot be asked.
    """
    try:
        import pyudev  # noqa: PLC0415 - the doctor of a simulated station has no udev to ask

        from station.jig.usb import devices_now  # noqa: PLC0415 - as above

        devices = devices_now(pyudev.Context()).values()
    except (OSError, ImportError) as error:
        raise FaultError(Fault.JIG_BLIND, f"udev cannot be asked: {error}") from error
    ports, _ = join(devices, links())
    ports.sort(key=lambda port: (port.location, port.device.interface, port.number))
    return ports, [device for device in devices if device.location is None]


def _view(slot: SlotSettings, ports: Sequence[Port]) -> SlotView:
    if slot.port is not None:
        there = slot.port.exists()
        real = os.path.realpath(slot.port)
        return SlotView(slot.name, str(slot.port), (Plugged(str(slot.port), real),) if there else ())
    if slot.usb is None:
        return SlotView(slot.name, "no place yet", ())
    here = want(slot.usb)
    return SlotView(slot.name, str(here), tuple(_plugged(port) for port in ports if here.takes(port)))


def _why(port: Port, wants: Sequence[Want], own: set[str]) -> str:
    return "" if os.path.realpath(port.link) in own else no_slot(port, wants) or ""


def _plugged(port: Port, why: str = "") -> Plugged:
    device = port.device
    return Plugged(
        port.link,
        device.node,
        device.vendor,
        device.product,
        device.serial,
        port.location,
        device.interface,
        port.number,
        why,
    )
