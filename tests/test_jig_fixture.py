"""Fixtures in which the adapter stays: a switch, a modem line or the board itself says that a board is in; and power.

No GPIO chip, no modem line and no switchable hub is to be had here (docs/hardware.md). What stands in for them is at
the outermost edge: the line request of libgpiod, the ioctl, the program uhubctl.
"""

from __future__ import annotations

import os
import stat
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gpiod
import pytest
from gpiod.line import Value
from test_jig import Never, awaited, no_prober, plug

from station.boards.console import ConsoleBoard
from station.config import SlotSettings, SlotTimes, Terminal
from station.config.slots import ByProbe, HubPower
from station.faults import Fault, FaultError
from station.jig import Jig, Nest, Presence, build_jig, nest
from station.jig.links import Link
from station.jig.power import HubPower as HubSwitch
from station.jig.power import RelayPower, cycle
from station.jig.sensors import LINES, LineSensor, SwitchSensor
from station.model import KeyOrigin, KeyType, Product, Profile
from station.sim.jig import SimJig

PRODUCT = Product("p", "console", "demo-board", KeyType.P256, KeyOrigin.BOARD, Profile(30, 60))


class Chip:
    """A GPIO chip of one line: what `gpiod.request_lines` gives, with a pipe for its edges."""

    def __init__(self, value: Value = Value.INACTIVE) -> None:
        self.value, self.released, self.gone = value, False, False
        self.config: dict[int, gpiod.LineSettings] = {}
        self.fd, self._edge = os.pipe()
        self.history: list[Value] = []

    def request(self, path: str, consumer: str, config: dict[int, gpiod.LineSettings]) -> gpiod.LineRequest:
        assert (path, consumer) == ("/dev/gpiochip9", "station")
        self.config = config
        (settings,) = config.values()
        if settings.direction is gpiod.line.Direction.OUTPUT:
            self.set_value(17, settings.output_value)
        return cast("gpiod.LineRequest", self)

    def get_value(self, line: int) -> Value:
        assert line == 17
        if self.gone:
            raise OSError(19, "No such device")
        return self.value

    def set_value(self, line: int, value: Value) -> None:
        assert line == 17
        self.value = value
        self.history.append(value)

    def turn(self, value: Value) -> None:
        """The switch moves: an edge."""
        self.value = value
        os.write(self._edge, b"e")

    def read_edge_events(self) -> list[Any]:
        return [os.read(self.fd, 1)]

    def release(self) -> None:
        os.close(self.fd)
        os.close(self._edge)
        self.released = True


def fixture(tmp_path: Path, sensor: SwitchSensor | LineSensor, **more: Any) -> tuple[Jig, Nest]:
    """A jig of one slot whose port is a link, at work."""
    made = Nest("1", Link(tmp_path / "slot1"), Presence(debounce_s=0, lifted_s=0.05), sensor=sensor, **more)
    jig = Jig([made], [sensor])
    jig.start()
    return jig, made


def switch(chip: Chip) -> SwitchSensor:
    return SwitchSensor(Path("/dev/gpiochip9"), 17, active_low=True, request=chip.request)


class TestSwitch:
    def test_a_lid_that_closes_is_a_board_and_one_that_opens_none(self, tmp_path: Path) -> None:
        chip = Chip()
        jig, slot = fixture(tmp_path, switch(chip))
        try:
            plug(tmp_path / "slot1")
            assert not slot.presence.plugged()
            for _ in range(2):
                chip.turn(Value.ACTIVE)
                awaited(slot.presence, slot.presence.plugged)
                chip.turn(Value.INACTIVE)
                awaited(slot.presence, slot.presence.lifted)
        finally:
            jig.stop()
        assert chip.released

    def test_the_line_is_asked_for_as_the_switch_is_wired(self) -> None:
        chip = Chip()
        switch(chip).close()
        settings = chip.config[17]
        assert settings.active_low
        assert settings.bias is gpiod.line.Bias.PULL_UP
        assert settings.edge_detection is gpiod.line.Edge.BOTH

    def test_a_chip_that_goes_holds_no_board(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("station.jig.watch._RECONCILE_S", 0.05)
        chip = Chip(Value.ACTIVE)
        jig, slot = fixture(tmp_path, switch(chip))
        try:
            awaited(slot.presence, slot.presence.plugged)
            chip.gone = True
            awaited(slot.presence, slot.presence.lifted)
        finally:
            jig.stop()

    def test_a_line_that_is_not_there_is_a_fault_at_the_start(self) -> None:
        with pytest.raises(FaultError) as error:
            SwitchSensor(Path("/dev/gpiochip99"), 17, active_low=False)  # the real libgpiod
        assert error.value.fault is Fault.JIG_BLIND
        assert "line 17 of /dev/gpiochip99" in error.value.detail


class TestLine:
    @pytest.mark.parametrize("active_high", [True, False])
    def test_a_modem_line_says_that_a_board_is_in(self, tmp_path: Path, active_high: bool) -> None:
        bits = {"now": 0 if active_high else termios.TIOCM_CTS}
        plug(tmp_path / "slot1")
        sensor = LineSensor(
            lambda: str(tmp_path / "slot1"), "cts", active_high=active_high, read=lambda _: bits["now"] | LINES["dsr"]
        )
        jig, slot = fixture(tmp_path, sensor)
        try:
            time.sleep(0.1)
            assert not slot.presence.plugged()
            bits["now"] ^= termios.TIOCM_CTS
            awaited(slot.presence, slot.presence.plugged)
            bits["now"] ^= termios.TIOCM_CTS
            awaited(slot.presence, slot.presence.lifted)
        finally:
            jig.stop()

    def test_an_adapter_that_is_pulled_out_holds_no_board_until_it_is_back(self, tmp_path: Path) -> None:
        there = {"now": True}

        def read(_handle: int) -> int:
            if not there["now"]:
                raise OSError(5, "Input/output error")
            return termios.TIOCM_CTS

        plug(tmp_path / "slot1")
        sensor = LineSensor(lambda: str(tmp_path / "slot1"), "cts", active_high=True, read=read)
        jig, slot = fixture(tmp_path, sensor)
        try:
            awaited(slot.presence, slot.presence.plugged)
            there["now"] = False
            awaited(slot.presence, slot.presence.lifted)
            there["now"] = True
            awaited(slot.presence, slot.presence.plugged)
        finally:
            jig.stop()

    def test_a_port_without_modem_lines_holds_no_board(self, tmp_path: Path) -> None:
        master, slave = os.openpty()  # the real ioctl: a pty has none
        (tmp_path / "slot1").symlink_to(os.ttyname(slave))
        sensor = LineSensor(lambda: str(tmp_path / "slot1"), "cts", active_high=True)
        sensor.look()
        assert not sensor.closed()
        sensor.close()
        os.close(master)
        os.close(slave)


class TestProbe:
    def test_a_console_board_answers_and_an_empty_fixture_does_not(self, tmp_path: Path) -> None:
        port = tmp_path / "slot1"
        assert not ConsoleBoard.probe(str(port), PRODUCT)
        master, slave = os.openpty()
        assert not ConsoleBoard.probe(os.ttyname(slave), PRODUCT)
        os.close(master)
        os.close(slave)
        with SimJig(tmp_path / "boards") as jig:
            jig.plug(port, serial="SN-1", chip="C1", model="demo-board")
            assert ConsoleBoard.probe(str(port), PRODUCT)

    def test_the_slot_asks_while_it_waits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nest, "_ASK_S", 0.01)
        answers, asked = {"now": False}, []

        def ask(port: str) -> bool:
            asked.append(port)
            return answers["now"]

        slot = SlotSettings(
            name="1",
            port=tmp_path / "slot1",
            presence=ByProbe(kind="probe", product="p"),
            lamp=Terminal(kind="terminal"),
        )
        jig = build_jig([slot], SlotTimes(debounce_ms=0, lifted_ms=100), Path(), {"p": ask}.__getitem__)
        (slot1,) = jig.nests
        assert slot1.blind
        plug(tmp_path / "slot1")
        jig.start()
        try:
            self.listens(slot1, lambda: len(asked) >= 3)
            assert not slot1.presence.plugged()
            answers["now"] = True
            self.listens(slot1, slot1.presence.plugged)
            answers["now"] = False
            self.listens(slot1, slot1.presence.lifted)
            assert set(asked) == {str(tmp_path / "slot1")}
        finally:
            jig.stop()

    def test_a_port_that_cannot_be_asked_begins_a_run_that_says_why(self, tmp_path: Path) -> None:
        def ask(port: str) -> bool:
            raise FaultError(Fault.PORT_DENIED, port)

        plug(tmp_path / "slot1")
        slot = Nest("1", Link(tmp_path / "slot1"), Presence(debounce_s=0, lifted_s=0.1), ask=ask)
        slot.look()
        slot.listen()
        assert slot.presence.plugged()

    @staticmethod
    def listens(slot: Nest, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not there():
            assert time.monotonic() < deadline
            slot.presence.wait(slot.listen())


class TestPower:
    def test_each_run_has_power_and_only_a_run(self, tmp_path: Path) -> None:
        lid, relay = Chip(Value.ACTIVE), Chip()
        power = RelayPower(Path("/dev/gpiochip9"), 17, active_low=False, request=relay.request)
        plug(tmp_path / "slot1")
        jig, slot = fixture(tmp_path, switch(lid), power=power)
        try:
            slot.rest()
            assert slot.ready(Never()) == str(tmp_path / "slot1")
            slot.rest()
            assert relay.history == [Value.INACTIVE, Value.ACTIVE, Value.INACTIVE]
        finally:
            jig.stop()
            relay.release()

    def test_a_closed_lid_without_a_port_is_a_fault_of_the_jig(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nest, "_PORT_S", 0.05)
        jig, slot = fixture(tmp_path, switch(Chip(Value.ACTIVE)))
        try:
            with pytest.raises(FaultError) as error:
                slot.ready(Never())
            assert error.value.fault is Fault.PORT_MISSING
        finally:
            jig.stop()

    def test_a_cycle_is_off_then_on(self) -> None:
        relay = Chip()
        cycle(RelayPower(Path("/dev/gpiochip9"), 17, active_low=False, request=relay.request), 0)
        assert relay.history == [Value.INACTIVE, Value.ACTIVE]
        relay.release()

    def test_a_relay_that_is_not_there_is_named(self) -> None:
        with pytest.raises(FaultError) as error:
            RelayPower(Path("/dev/gpiochip99"), 17, active_low=False).on()
        assert error.value.fault is Fault.POWER_STUCK

    def uhubctl(self, folder: Path, script: str) -> str:
        program = folder / "uhubctl"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return str(program)

    def test_a_hubs_port_is_switched_by_uhubctl(self, tmp_path: Path) -> None:
        program = self.uhubctl(tmp_path, f'echo "$@" >> {tmp_path}/said')
        cycle(HubSwitch("1-1.4", 2, program=program), 0)
        assert (tmp_path / "said").read_text().splitlines() == [
            "--location 1-1.4 --ports 2 --action off",
            "--location 1-1.4 --ports 2 --action on",
        ]

    @pytest.mark.parametrize(
        ("script", "says"),
        [("echo 'No compatible devices detected at location 1-1.4!' >&2; exit 1", "exit 1: No compatible devices"),
         ("sleep 60", "no end within"),
         (None, "apt-get install uhubctl")],
    )  # fmt: skip
    def test_a_hub_that_does_not_switch_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, says: str
    ) -> None:
        monkeypatch.setattr("station.jig.power._UHUBCTL_S", 0.3)
        program = (
            self.uhubctl(tmp_path, f"exec {script}" if script == "sleep 60" else script)
            if script
            else "/nowhere/uhubctl"
        )
        with pytest.raises(FaultError) as error:
            HubSwitch("1-1.4", 2, program=program).on()
        assert error.value.fault is Fault.POWER_STUCK
        assert says in error.value.detail

    def test_the_real_uhubctl_knows_our_words(self) -> None:
        program = "/usr/sbin/uhubctl"
        if not Path(program).exists():
            pytest.skip("uhubctl is not installed; it is optional on a station")
        with pytest.raises(FaultError) as error:
            HubSwitch("1-1.4", 2, program=program).on()
        assert "No compatible" in error.value.detail or "usb" in error.value.detail.lower(), error.value.detail

    def test_power_that_sticks_after_a_run_stops_nothing(self, tmp_path: Path) -> None:
        class Stuck:
            def on(self) -> None:
                raise AssertionError

            def off(self) -> None:
                raise FaultError(Fault.POWER_STUCK, "it sticks")

        Nest("1", Link(tmp_path / "x"), Presence(debounce_s=0, lifted_s=0), power=Stuck()).rest()

    def test_power_by_hand_is_no_business_of_a_run(self, tmp_path: Path) -> None:
        by_hand = HubPower(kind="hub", location="1-1", port=1)
        slot = SlotSettings(name="1", port=tmp_path / "slot1", power=by_hand, lamp=Terminal(kind="terminal"))
        jig = build_jig([slot], SlotTimes(), Path(), no_prober)
        jig.nests[0].rest()  # uhubctl would be missing, or find no hub
        assert jig.nests[0].ready(Never()) == str(tmp_path / "slot1")
        jig.start()
        jig.stop()
