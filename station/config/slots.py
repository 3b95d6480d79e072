"""The settings of the jig: its slots, where each one is, and how a board in it is noticed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from station.config.lamps import Lamp
from station.config.loader import FilePath, Location, Name, Strict

SLOTS_MAX = 64
MAP_FILE = "jig.yaml"

_LOCATION = re.compile(
    r"(?P<location>[A-Za-z0-9][A-Za-z0-9:._-]*-usb-[0-9]+:[0-9]+(\.[0-9]+)*)(:[0-9]+\.[0-9]+)?(-port[0-9]+)?"
)
_LEARN = "`station jig list` prints what is plugged in, and `station jig learn` writes the right one"


def _location(text: str) -> str:
    if text.startswith("/"):
        raise ValueError(f"should be a USB location such as pci-0000:00:14.0-usb-0:1.2, not a path; {_LEARN}")
    found = _LOCATION.fullmatch(text)
    if found is None:
        raise ValueError(f"should be a USB location such as pci-0000:00:14.0-usb-0:1.2; {_LEARN}")
    if found["location"] != text:
        raise ValueError(f"holds an interface; say {found['location']} here, and the interface by itself")
    return text


class UsbLocation(Strict):
    """A place on the USB: always the same for the same socket, whatever is plugged in (udev's ID_PATH)."""

    path: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9:._/-]+$"), AfterValidator(_location)]
    # A board with two CDC ports shows them as two interfaces; a multi-port adapter as two numbers behind one.
    interface: Annotated[int, Field(ge=0, le=255)] | None = None
    number: Annotated[int, Field(ge=0, le=255)] | None = None


class ByPort(Strict):
    """A board is in while its port is there: boards with USB, and adapters that are lifted with their board."""

    kind: Literal["port"]


class ByProbe(Strict):
    """The adapter stays; the board is asked, as a unit of ``product``."""

    kind: Literal["probe"]
    product: Name


class ByLine(Strict):
    """The adapter stays; a board pulls one of its modem lines."""

    kind: Literal["line"]
    line: Literal["cts", "dsr", "dcd", "ri"]
    active: Literal["high", "low"] = "high"


class GpioLine(Strict):
    """One line of a GPIO chip, as `gpioinfo` prints them."""

    chip: FilePath
    line: Annotated[int, Field(ge=0, le=1023)]
    active_low: bool = False


class BySwitch(GpioLine):
    """The adapter stays; a lid switch, or any contact, says that a board is in."""

    kind: Literal["switch"]


class HubPower(Strict):
    """A port of a USB hub that can switch its power, as `uhubctl` prints them."""

    kind: Literal["hub"]
    location: Annotated[str, Field(pattern=r"^[0-9]{1,3}(-[0-9]{1,3}(\.[0-9]{1,3}){0,6})?$")]
    port: Annotated[int, Field(ge=1, le=32)]
    for_runs: bool = False


class RelayPower(GpioLine):
    """A relay on a GPIO line."""

    kind: Literal["relay"]
    for_runs: bool = False


PresenceSettings: TypeAlias = Annotated[ByPort | ByProbe | ByLine | BySwitch, Field(discriminator="kind")]
PowerSettings: TypeAlias = Annotated[HubPower | RelayPower, Field(discriminator="kind")]


class SlotSettings(Strict):
    """One nest of the jig. Its place is ``usb`` or ``port``; where it says neither, the slot map does."""

    name: Name
    usb: UsbLocation | None = None
    port: FilePath | None = None
    presence: PresenceSettings = ByPort(kind="port")
    power: PowerSettings | None = None
    lamp: Lamp

    @model_validator(mode="after")
    def _one_place(self) -> SlotSettings:
        if self.usb is not None and self.port is not None:
            raise ValueError("should name one of `usb` and `port`, not both")
        return self

    @model_validator(mode="after")
    def _power_hides_no_board(self) -> SlotSettings:
        if self.power is not None and self.power.for_runs and self.presence.kind != "switch":
            raise ValueError(
                "`for_runs` needs `presence: {kind: switch, ...}`: without power, nothing else says that a board is in"
            )
        return self


class SlotTimes(Strict):
    """How long a board must be seen before it counts as plugged, and be gone before it counts as lifted."""

    debounce_ms: Annotated[int, Field(ge=0, le=10_000)] = 300
    lifted_ms: Annotated[int, Field(ge=100, le=10_000)] = 1000


class MapFile(Strict):
    """``jig.yaml``: where the slots of this one machine are, as ``station jig learn`` found it."""

    slots: Annotated[dict[Name, UsbLocation], Field(max_length=SLOTS_MAX)]


def refuse_doubles(slots: Sequence[SlotSettings]) -> None:
    """Each slot has its own name and place. Raises ValueError."""
    if not slots:
        raise ValueError("should name at least one slot")
    ports = [str(slot.port) for slot in slots if slot.port is not None]
    for what, values in (("name", [slot.name for slot in slots]), ("port", ports)):
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise ValueError(f"two slots have the {what} {min(twice)!r}; each has its own")


def placed(slots: Sequence[SlotSettings], found: MapFile | None) -> tuple[SlotSettings, ...]:
    """The slots, each with its place: its own, or the map's."""
    places = found.slots if found else {}
    return tuple(
        slot.model_copy(update={"usb": places[slot.name]}) if _mapped(slot) and slot.name in places else slot
        for slot in slots
    )


def map_problems(slots: Sequence[SlotSettings], found: MapFile) -> Iterator[tuple[Location, str]]:
    """What in the map does not go with the slots of ``station.yaml``."""
    known = {slot.name: slot for slot in slots}
    for name in found.slots:
        if name not in known:
            yield ("slots", name), f"no slot of that name is in station.yaml; it has {', '.join(known)}"
        elif not _mapped(known[name]):
            yield ("slots", name), "the slot's place is in station.yaml too; keep one of the two"


def place_problems(slots: Sequence[SlotSettings]) -> Iterator[tuple[Location, str]]:
    """Slots without a place, and two in one place. To ask once `placed`."""
    for index, slot in enumerate(slots):
        if _mapped(slot):
            yield (
                ("slots", index),
                f"slot {slot.name!r} has no place; say `usb` or `port`, or have it found out: station jig learn",
            )
        for other in slots[:index]:
            if slot.usb is not None and other.usb is not None and _same_port(slot.usb, other.usb):
                yield ("slots", index), f"slots {other.name!r} and {slot.name!r} are in one place, {slot.usb.path}"


def _mapped(slot: SlotSettings) -> bool:
    return slot.usb is None and slot.port is None


def _same_port(one: UsbLocation, other: UsbLocation) -> bool:
    return (
        one.path == other.path
        and (one.interface is None or other.interface is None or one.interface == other.interface)
        and (one.number is None or other.number is None or one.number == other.number)
    )


def map_path(settings: Path) -> Path:
    """The slot map that belongs to a ``station.yaml``."""
    return settings.with_name(MAP_FILE)


def map_text(places: Mapping[str, UsbLocation]) -> str:
    """The text of a slot map. What JSON quotes, YAML reads as the same."""
    lines = ["# Written by `station jig learn`: where the slots of this machine's jig are on its USB.", "slots:"]
    for name, place in places.items():
        told = place.model_dump(exclude_none=True)
        values = ", ".join(f"{key}: {json.dumps(value)}" for key, value in told.items())
        lines.append(f"  {json.dumps(name)}: {{{values}}}")
    return "\n".join(lines) + "\n"
