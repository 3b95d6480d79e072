"""From the settings of the slots to the jig that watches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from station.config.slots import (
    ByLine,
    ByPort,
    ByProbe,
    BySwitch,
    HubPower,
    PowerSettings,
    SlotSettings,
    SlotTimes,
    UsbLocation,
)
from station.faults import Fault, FaultError
from station.jig.links import Link, LinkFolders
from station.jig.nest import Nest, Place, Power, Sensor
from station.jig.ports import Want
from station.jig.presence import Presence
from station.jig.watch import Jig, Source

if TYPE_CHECKING:
    from station.jig.usb import UsbPorts

Prober: TypeAlias = Callable[[str], Callable[[str], bool]]


def build_jig(slots: Sequence[SlotSettings], times: SlotTimes, links: Path, prober: Prober) -> Jig:
    """The jig, not started yet.

    Args:
        slots: The slots, each with its place.
        times: Debounce and lift time.
        links: A folder of the station's own, for its links to the ports of USB slots; made if it is missing.
        prober: From a product's name to what asks one board of it, at a port, whether it is there.

    Raises:
        FaultError: `Fault.JIG_BLIND` where the kernel, udev or a GPIO chip lets the station not watch; and what
            ``prober`` raises.
    """
    sources: list[Source] = []
    wants = [want(slot.usb) for slot in slots if slot.usb is not None]
    ports = _usb_ports(wants, links) if wants else None
    if ports is not None:
        sources.append(ports)
    paths = [slot.port for slot in slots if slot.port is not None]
    if paths:
        sources.append(LinkFolders(paths))
    nests = []
    for slot in slots:
        place = _place(slot, ports, links)
        nests.append(
            Nest(
                slot.name,
                place,
                Presence(debounce_s=times.debounce_ms / 1000, lifted_s=times.lifted_ms / 1000),
                sensor=_sensor(slot, place, sources),
                ask=prober(slot.presence.product) if isinstance(slot.presence, ByProbe) else None,
                power=power(slot.power) if slot.power is not None and slot.power.for_runs else None,
            )
        )
    return Jig(nests, sources)


def want(usb: UsbLocation) -> Want:
    """What a slot's setting asks for."""
    return Want(usb.path, usb.interface, usb.number)


def power(settings: PowerSettings) -> Power:
    """The switch that a slot's setting names. Nothing is switched yet."""
    from station.jig import power as switches  # noqa: PLC0415 - libgpiod is for stations that have such a thing

    if isinstance(settings, HubPower):
        return switches.HubPower(settings.location, settings.port)
    return switches.RelayPower(settings.chip, settings.line, active_low=settings.active_low)


def _usb_ports(wants: Sequence[Want], links: Path) -> UsbPorts:
    from station.jig.usb import UsbPorts  # noqa: PLC0415 - a simulated station has no udev, and needs none

    try:
        links.mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        raise FaultError(Fault.JIG_BLIND, f"{links} cannot be made: {error.strerror}") from error
    return UsbPorts(wants)


def _place(slot: SlotSettings, ports: UsbPorts | None, links: Path) -> Place:
    if slot.usb is not None and ports is not None:
        from station.jig.usb import UsbPlace  # noqa: PLC0415 - as above

        return UsbPlace(want(slot.usb), ports, links / slot.name)
    if slot.port is None:
        raise FaultError(Fault.CONFIG, f"slot {slot.name} has no place")
    return Link(slot.port)


def _sensor(slot: SlotSettings, place: Place, sources: list[Source]) -> Sensor | None:
    if isinstance(slot.presence, ByPort | ByProbe):
        return None
    from station.jig import sensors  # noqa: PLC0415 - libgpiod is for stations that have such a thing

    match slot.presence:
        case ByLine() as by:
            line = sensors.LineSensor(place.port, by.line, active_high=by.active == "high")
            sources.append(line)
            return line
        case BySwitch() as by:
            switch = sensors.SwitchSensor(by.chip, by.line, active_low=by.active_low)
            sources.append(switch)
            return switch
