"""The lamps' drivers on what stands in for their hardware. No lamp was ever lit by this suite: see docs/hardware.md."""

from __future__ import annotations

import inspect
import os
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpiod
import pytest
from busylight_core import FitStatUSB, NoLightsFoundError
from busylight_core.hardware import ConnectionType, Hardware
from gpiod.line import Direction, Value

from station.lamps.gpio import GpioLamp
from station.lamps.kinds import make
from station.lamps.leds import LedLamp
from station.lamps.signals import Colour, Frame, Pattern, Signal, frame
from station.lamps.terminal import TerminalLamp
from station.lamps.tower import TowerLamp
from station.lamps.usb import UsbLamp

DARK = Frame()


def moment(*colours: Colour, level: float = 1.0, buzzer: bool = False) -> Frame:
    return Frame(dict.fromkeys(colours, level), None, buzzer)


@pytest.fixture
def leds(tmp_path: Path) -> Path:
    """A folder like /sys/class/leds."""
    for colour in Colour:
        (tmp_path / f"slot1-{colour}").mkdir()
        (tmp_path / f"slot1-{colour}" / "brightness").write_text("7")
        (tmp_path / f"slot1-{colour}" / "max_brightness").write_text("255\n")
        (tmp_path / f"slot1-{colour}" / "trigger").write_text("heartbeat")
    return tmp_path


def brightness(leds: Path) -> dict[str, int]:
    return {str(colour): int((leds / f"slot1-{colour}" / "brightness").read_text()) for colour in Colour}


def test_leds_show_each_level_and_take_the_kernel_s_trigger_away(leds: Path) -> None:
    lamp = LedLamp(leds, {colour: f"slot1-{colour}" for colour in Colour})
    lamp.open()
    lamp.show(moment(Colour.GREEN), "")
    assert brightness(leds) == {"green": 255, "red": 0, "amber": 0, "blue": 0}
    assert (leds / "slot1-red" / "trigger").read_text() == "none"
    assert lamp.dims
    lamp.show(moment(Colour.BLUE, level=0.5), "")
    assert brightness(leds) == {"green": 0, "red": 0, "amber": 0, "blue": 128}
    lamp.close()
    assert brightness(leds)["blue"] == 128  # it keeps what it shows


def test_leds_that_know_only_on_and_off_are_not_dimmed(leds: Path) -> None:
    (leds / "slot1-blue" / "max_brightness").write_text("1")
    lamp = LedLamp(leds, {colour: f"slot1-{colour}" for colour in Colour})
    lamp.open()
    assert not lamp.dims


def test_leds_are_written_only_where_they_change(leds: Path) -> None:
    lamp = LedLamp(leds, {colour: f"slot1-{colour}" for colour in Colour})
    lamp.open()
    lamp.show(moment(Colour.RED), "")
    (leds / "slot1-red" / "brightness").write_text("3")
    lamp.show(moment(Colour.RED), "")
    assert brightness(leds)["red"] == 3


def test_leds_that_are_gone_are_an_error(leds: Path) -> None:
    with pytest.raises(OSError, match="trigger"):
        LedLamp(leds / "nowhere", {Colour.RED: "x"}).open()


class Lines:
    """Stands in for a chip's lines: this kernel has no GPIO at all (no gpio-sim, no /dev/gpiochip0)."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.values: dict[int | str, Value] = {}
        self.writes = 0

    def request(self, chip: str, **how: Any) -> Lines:
        inspect.signature(gpiod.request_lines).bind(chip, **how)  # gpiod itself would take these arguments
        self.asked = {"chip": chip, **how}
        return self

    def set_values(self, values: dict[int | str, Value]) -> None:
        self.values, self.writes = dict(values), self.writes + 1

    def release(self) -> None:
        self.asked = {}


def test_gpio_lines_are_requested_dark_and_set_together() -> None:
    lines = Lines()
    numbers: dict[Colour, int | str] = {Colour.GREEN: 4, Colour.RED: 17, Colour.AMBER: "LAMP_A", Colour.BLUE: 27}
    lamp = GpioLamp("/dev/gpiochip7", numbers, active_low=True, request=lines.request)
    lamp.open()
    ((offsets, settings),) = lines.asked["config"].items()
    assert (lines.asked["chip"], offsets) == ("/dev/gpiochip7", (4, 17, "LAMP_A", 27))
    assert (settings.direction, settings.active_low, settings.output_value) == (Direction.OUTPUT, True, Value.INACTIVE)
    lamp.show(moment(Colour.RED, Colour.AMBER), "")
    assert {line for line, value in lines.values.items() if value} == {17, "LAMP_A"}
    lamp.show(moment(Colour.RED, Colour.AMBER), "")
    assert lines.writes == 1
    lamp.show(moment(Colour.BLUE, level=0.4), "")
    assert not any(lines.values.values())
    lamp.close()
    assert lines.asked == {}
    assert not lamp.keeps


def test_a_gpio_chip_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        make(
            {"kind": "gpio", "chip": "/dev/gpiochip99", "green": 1, "red": 2, "amber": 3, "active_low": False}, "1"
        ).open()


@pytest.fixture
def wire() -> Iterator[tuple[int, str]]:
    """A pty: our end, and the name of the other."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    os.set_blocking(ours, False)
    yield ours, os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


def test_a_tower_is_told_each_light_at_first_and_then_what_changes(wire: tuple[int, str]) -> None:
    tower, port = wire
    lamp = TowerLamp(port, buzzer=True)
    lamp.open()
    lamp.show(DARK, "")
    assert os.read(tower, 99) == bytes([0x21, 0x22, 0x24, 0x28])
    lamp.show(moment(Colour.RED, buzzer=True), "")
    assert os.read(tower, 99) == bytes([0x11, 0x18])
    lamp.show(moment(Colour.RED), "")
    assert os.read(tower, 99) == bytes([0x28])
    lamp.show(moment(Colour.GREEN), "")
    assert os.read(tower, 99) == bytes([0x21, 0x14])
    lamp.show(moment(Colour.BLUE), "")  # a tower has none
    assert os.read(tower, 99) == bytes([0x12, 0x24])
    lamp.close()


def test_a_tower_without_leave_to_buzz_is_silent(wire: tuple[int, str]) -> None:
    tower, port = wire
    lamp = TowerLamp(port, buzzer=False)
    lamp.open()
    lamp.show(moment(Colour.RED, buzzer=True), "")
    assert 0x18 not in os.read(tower, 99)
    lamp.close()


def test_a_usb_light_gets_its_colour_by_its_maker_s_protocol(wire: tuple[int, str]) -> None:
    """A fit-statUSB, which is a serial port: its driver is busylight-core's own, the light is a pty."""
    light, port = wire
    asked: list[str | None] = []

    def find(serial_number: str | None) -> FitStatUSB:
        asked.append(serial_number)
        where = Hardware(ConnectionType.SERIAL, port.encode(), 0x2047, 0x03DF, "LAMP-1", "CompuLab")
        return FitStatUSB(where, reset=True, exclusive=True)

    lamp = UsbLamp("LAMP-1", find)
    lamp.open()
    assert asked == ["LAMP-1"]
    assert os.read(light, 99) == b"B#000000\n"
    colours = {
        (Colour.GREEN,): b"B#00ff00\n",
        (Colour.RED,): b"B#ff0000\n",
        (Colour.AMBER,): b"B#ff7800\n",
        (Colour.BLUE,): b"B#0000ff\n",
        (Colour.GREEN, Colour.BLUE): b"B#00ffff\n",
        (Colour.RED, Colour.AMBER): b"B#ff00ff\n",
    }
    for lit, told in colours.items():
        lamp.show(moment(*lit), "")
        assert os.read(light, 99) == told
    lamp.show(moment(Colour.BLUE, level=0.5), "")
    assert os.read(light, 99) == b"B#000080\n"
    lamp.show(DARK, "")
    assert os.read(light, 99) == b"B#000000\n"
    lamp.close()


def test_a_usb_light_that_is_not_there_is_an_error() -> None:
    with pytest.raises(NoLightsFoundError):
        UsbLamp("nobody has this number").open()


def test_the_terminal_prints_each_text_once_without_colours_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lamp = TerminalLamp("1")
    lamp.open()
    running = Signal(frozenset({Colour.BLUE}), Pattern.BREATHING)
    for at in range(5):
        lamp.show(frame(running, at, dims=False), "working [red]x")
    lamp.show(DARK, "ready")
    assert capsys.readouterr().out == "[1] working [red]x\n[1] ready\n"


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"kind": "leds", "folder": "/sys/class/leds", "green": "g", "red": "r", "amber": "a", "blue": None}, LedLamp),
        ({"kind": "tower", "port": "/dev/tower", "buzzer": False}, TowerLamp),
        ({"kind": "usb", "serial_number": None}, UsbLamp),
        ({"kind": "terminal"}, TerminalLamp),
    ],
)
def test_settings_make_the_lamp_that_they_name(settings: dict[str, Any], kind: type) -> None:
    assert isinstance(make(settings, "1"), kind)
