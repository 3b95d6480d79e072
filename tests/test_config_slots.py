"""The settings of the jig: where a slot is, how a board in it is noticed, and the map that was learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from test_config import change, problems, sample  # noqa: F401 - the fixture

from station.config import load
from station.config.slots import UsbLocation
from station.faults import Fault

HUB = "pci-0000:00:14.0-usb-0"
LAMP = {"kind": "terminal"}
SWITCH = {"kind": "switch", "chip": "/dev/gpiochip0", "line": 17}


def slots(file: Path, *some: dict[str, Any]) -> None:
    change(
        file, lambda values: values.update(slots=[{"name": str(n), "lamp": LAMP, **s} for n, s in enumerate(some, 1)])
    )


def write_map(file: Path, **places: dict[str, Any]) -> Path:
    found = file.with_name("jig.yaml")
    found.write_text(yaml.safe_dump({"slots": places}))
    return found


@pytest.mark.parametrize(
    "path",
    [
        "pci-0000:00:14.0-usb-0:1",
        "pci-0000:00:14.0-usb-0:1.2.4",
        "platform-fd500000.pcie-pci-0000:01:00.0-usb-0:1.3",
        "platform-xhci-hcd.1-usb-0:2",
    ],
)
def test_a_place_on_the_usb_is_taken_as_udev_names_it(sample: Path, path: str) -> None:  # noqa: F811
    slots(sample, {"usb": {"path": path, "interface": 2}})
    assert load(sample).slots[0].usb == UsbLocation(path=path, interface=2)


@pytest.mark.parametrize(
    ("slot", "says"),
    [
        ({"usb": {"path": "/dev/ttyUSB0"}}, "should be a USB location such as"),
        ({"usb": {"path": f"/dev/serial/by-path/{HUB}:1:1.0-port0"}}, "not a path"),
        ({"usb": {"path": f"{HUB}:1.2:1.0"}}, f"say {HUB}:1.2 here, and the interface by itself"),
        ({"usb": {"path": "pci-0000:00:14.0"}}, "should be a USB location such as"),
        ({"usb": {"path": f"{HUB}:1", "interface": 256}}, "less than or equal to 255"),
        ({"usb": {"path": f"{HUB}:1", "iface": 2}}, "did you mean interface?"),
        ({"usb": {"path": f"{HUB}:1"}, "port": "/x/slot1"}, "one of `usb` and `port`, not both"),
        ({"port": "/x/1", "presence": {"kind": "probe", "product": "nothing"}}, "no product is called 'nothing'"),
        ({"port": "/x/1", "presence": {"kind": "line", "line": "rts"}}, "'cts', 'dsr', 'dcd' or 'ri'"),
        ({"port": "/x/1", "presence": {"kind": "camera"}}, "'port', 'probe', 'line', 'switch'"),
        ({"port": "/x/1", "presence": {**SWITCH, "line": -1}}, "greater than or equal to 0"),
        ({"port": "/x/1", "power": {"kind": "hub", "location": "/sys", "port": 1}}, "should match pattern"),
        ({"port": "/x/1", "power": {"kind": "hub", "location": "1-1", "port": 1, "for_runs": True}}, "needs `presence"),
    ],
)
def test_each_mistake_says_what_would_be_right(sample: Path, slot: dict[str, Any], says: str) -> None:  # noqa: F811
    slots(sample, slot)
    found = problems(sample)
    assert says in found[0], found
    assert ": slots.0" in found[0]


def test_power_for_runs_goes_with_a_switch(sample: Path) -> None:  # noqa: F811
    relay = {"kind": "relay", "chip": "/dev/gpiochip0", "line": 5, "for_runs": True}
    slots(sample, {"port": "/x/slot1", "presence": SWITCH, "power": relay})
    assert load(sample).slots[0].power is not None


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ({"name": "1", "port": "/x/a"}, {"name": "1", "port": "/x/b"}, "two slots have the name '1'"),
        ({"port": "/x/a"}, {"port": "/x/a"}, "two slots have the port"),
        ({"usb": {"path": f"{HUB}:1"}}, {"usb": {"path": f"{HUB}:1", "interface": 2}}, "are in one place"),
    ],
)
def test_two_slots_share_nothing(sample: Path, one: dict[str, Any], other: dict[str, Any], says: str) -> None:  # noqa: F811
    slots(sample, one, other)
    assert says in problems(sample)[0]


def test_two_interfaces_of_one_board_may_be_two_slots(sample: Path) -> None:  # noqa: F811
    slots(sample, {"usb": {"path": f"{HUB}:1", "interface": 0}}, {"usb": {"path": f"{HUB}:1", "interface": 2}})
    assert len(load(sample).slots) == 2


def test_this_machines_console_is_never_a_slot(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("station.config.guards._consoles", lambda: ["tty0", "ttyS0"])
    slots(sample, {"port": "/dev/ttyS0"})
    assert "this machine's own console" in problems(sample, Fault.SIMULATION_MIXED)[0]


class TestMap:
    """``jig.yaml``: a slot that names no place has it there."""

    def test_a_slot_without_a_place_has_the_maps(self, sample: Path) -> None:  # noqa: F811
        slots(sample, {}, {"port": "/x/slot2"})
        before = problems(sample)
        assert "slot '1' has no place" in before[0]
        assert "station jig learn" in before[0]
        write_map(sample, **{"1": {"path": f"{HUB}:1.3", "interface": 1}})
        first, second = load(sample).slots
        assert first.usb == UsbLocation(path=f"{HUB}:1.3", interface=1)
        assert (second.usb, second.port) == (None, Path("/x/slot2"))

    def test_it_is_part_of_what_names_the_settings_on_every_record(self, sample: Path) -> None:  # noqa: F811
        slots(sample, {})
        write_map(sample, **{"1": {"path": f"{HUB}:1"}})
        before = load(sample).hash
        write_map(sample, **{"1": {"path": f"{HUB}:2"}})
        assert load(sample).hash != before

    def test_a_place_in_both_files_is_refused(self, sample: Path) -> None:  # noqa: F811
        found = write_map(sample, **{"1": {"path": f"{HUB}:1"}})
        (problem,) = problems(sample)
        assert problem.startswith(f"{found}:2: slots.1: the slot's place is in station.yaml too")

    def test_a_slot_that_station_yaml_does_not_know_is_refused(self, sample: Path) -> None:  # noqa: F811
        slots(sample, {})
        write_map(sample, **{"1": {"path": f"{HUB}:1"}, "9": {"path": f"{HUB}:9"}})
        assert "slots.9: no slot of that name is in station.yaml; it has 1" in problems(sample)[0]

    def test_two_slots_in_one_learnt_place_are_refused(self, sample: Path) -> None:  # noqa: F811
        slots(sample, {}, {})
        write_map(sample, **{"1": {"path": f"{HUB}:1"}, "2": {"path": f"{HUB}:1"}})
        assert f"slots '1' and '2' are in one place, {HUB}:1" in problems(sample)[0]

    def test_its_mistakes_are_told_with_its_own_lines(self, sample: Path) -> None:  # noqa: F811
        slots(sample, {})
        found = sample.with_name("jig.yaml")
        found.write_text("slots:\n  '1':\n    path: ttyUSB0\n")
        assert problems(sample)[0].startswith(f"{found}:3: slots.1.path: should be a USB location")
