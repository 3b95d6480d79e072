"""Slots at USB locations, with the real libudev: umockdev stands behind it (sysfs, links, udev's events).

What no mock shows: the kernel's own timing, and permissions. See docs/hardware.md.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
HUB = "pci-0000:00:14.0-usb-0"
_PATIENCE_S = 15.0
_QUIET_S = 0.3

pytestmark = pytest.mark.skipif(
    shutil.which("umockdev-wrapper") is None, reason="umockdev is not installed; .ci/setup dev installs it"
)


class Lines:
    """The JSON lines of a child, each waited for with a deadline."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._out, self._held = process.stdout.fileno(), b""

    def next(self, patience_s: float = _PATIENCE_S) -> Any:
        deadline = time.monotonic() + patience_s
        while b"\n" not in self._held:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._out], [], [], left)[0]:
                raise TimeoutError(self._held)
            piece = os.read(self._out, 65536)
            assert piece, "the child ended"
            self._held += piece
        line, self._held = self._held.split(b"\n", 1)
        return json.loads(line)


class Bus:
    """A USB of which nothing is real but what libudev says about it."""

    def __init__(self, parts: ExitStack) -> None:
        self._bed = _start(parts, ["umockdev-wrapper", "/usr/bin/python3", str(HERE / "udev_bed.py")])
        self._lines = Lines(self._bed)
        self.root = Path(self._lines.next())
        (self.root / "dev").mkdir(exist_ok=True)
        self._known: set[str] = set()
        self.environment = {**os.environ, "UMOCKDEV_DIR": str(self.root)}

    def _do(self, **command: str) -> None:
        assert self._bed.stdin is not None
        self._bed.stdin.write(json.dumps(command).encode() + b"\n")
        self._bed.stdin.flush()
        assert self._lines.next() == "done"

    def plug(self, socket: str, tty: str, *, interface: int = 0, link: bool = True) -> str:
        """A board comes into a socket as a tty; returns its path under /sys."""
        usb = f"/devices/pci0000:00/0000:00:14.0/usb1/1-{socket}"
        where = f"{usb}/1-{socket}:1.{interface}/{tty}/tty/{tty}"
        minor = int(tty.removeprefix("ttyUSB").removeprefix("ttyACM"))
        # Node and link are made by hand: umockdev makes no node of the same name a second time.
        (self.root / "dev" / tty).touch()
        if link:
            self.make_link(socket, tty, interface)
        lines = [
            *self._once(usb, "usb_device"),
            *self._once(f"{usb}/1-{socket}:1.{interface}", "usb_interface"),
            f"P: {where}",
            *(f"E: DEVNAME=/dev/{tty}", "E: SUBSYSTEM=tty", "E: MAJOR=188", f"E: MINOR={minor}", "E: ID_BUS=usb"),
            *("E: ID_VENDOR_ID=10c4", "E: ID_MODEL_ID=ea60", "E: ID_MODEL=CP2102N"),
            *(f"E: ID_PATH={HUB}:{socket}:1.{interface}", f"E: ID_USB_INTERFACE_NUM={interface:02x}", ""),
        ]
        self._do(add="\n".join(lines))
        return f"/sys{where}"

    def _once(self, path: str, kind: str) -> list[str]:
        """The bed keeps what is above a tty when the tty goes, and takes nothing twice."""
        if path in self._known:
            return []
        self._known.add(path)
        return [f"P: {path}", f"E: DEVTYPE={kind}", "E: SUBSYSTEM=usb", ""]

    def onboard(self, tty: str) -> None:
        """A serial port on the main board: the kernel lists dozens, and one is the console."""
        (self.root / "dev" / tty).touch()
        lines = [f"P: /devices/platform/serial8250/tty/{tty}", f"E: DEVNAME=/dev/{tty}"]
        self._do(add="\n".join([*lines, "E: SUBSYSTEM=tty", "E: MAJOR=4", "E: MINOR=64", "A: type=4\\n", ""]))

    def make_link(self, socket: str, tty: str, interface: int = 0) -> None:
        """As udev does it: under another name first."""
        folder = self.root / "dev/serial/by-path"
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f".#{self.link_name(socket, interface)}"
        new.symlink_to(self.root / "dev" / tty)
        new.replace(folder / self.link_name(socket, interface))

    def unplug(self, where: str, *, clear: bool = True) -> None:
        """The board goes. Its link and node may outlive the news; ``clear`` takes them away."""
        tty = where.rsplit("/", 1)[1]
        self._do(remove=where)
        if clear:
            for link in (self.root / "dev/serial/by-path").iterdir():
                if os.path.basename(link.readlink()) == tty:  # noqa: PTH119 - the link's own text
                    link.unlink()
            (self.root / "dev" / tty).unlink()

    @staticmethod
    def link_name(socket: str, interface: int = 0) -> str:
        return f"{HUB}:{socket}:1.{interface}-port0"

    def link(self, socket: str, interface: int = 0) -> str:
        return f"/dev/serial/by-path/{self.link_name(socket, interface)}"

    def leads_to(self, link: str) -> str:
        """The tty behind a by-path link, now."""
        return (self.root / link.removeprefix("/")).readlink().name


def _start(parts: ExitStack, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more)
    parts.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


class JigAtWork:
    """The child that watches, and what it says."""

    def __init__(self, bus: Bus, folder: Path, parts: ExitStack, *slots: dict[str, Any], reconcile_s: float) -> None:
        named = [{"name": str(number), "lamp": {"kind": "terminal"}, **slot} for number, slot in enumerate(slots, 1)]
        self.links = folder / "slots"
        self._log = folder / "jig.log"
        command = [sys.executable, str(HERE / "udev_child.py"), str(self.links), json.dumps(named), str(reconcile_s)]
        with self._log.open("wb") as log:
            child = _start(parts, ["umockdev-wrapper", *command], env=bus.environment, stderr=log)
        self._lines = Lines(child)
        assert self._lines.next() == {"sees": "ready"}

    def says(self) -> dict[str, Any]:
        said: dict[str, Any] = self._lines.next()
        return said

    def is_quiet(self) -> None:
        """Nothing more is said for longer than debounce and the looks for late links take."""
        with pytest.raises(TimeoutError):
            self._lines.next(_QUIET_S)

    def named(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def parts() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def bus(parts: ExitStack) -> Bus:
    return Bus(parts)


@pytest.fixture
def watching(bus: Bus, tmp_path: Path, parts: ExitStack) -> Callable[..., JigAtWork]:
    def start(*slots: dict[str, Any], reconcile_s: float = 600.0) -> JigAtWork:
        return JigAtWork(bus, tmp_path, parts, *slots, reconcile_s=reconcile_s)

    return start


def at(socket: str, **more: Any) -> dict[str, Any]:
    return {"usb": {"path": f"{HUB}:{socket}", **more}}


def test_a_board_comes_into_its_slot_and_goes(bus: Bus, watching: Callable[..., JigAtWork]) -> None:
    jig = watching(at("1.1"), at("1.2"))
    for _ in range(2):
        where = bus.plug("1.2", "ttyUSB0")
        said = jig.says()
        assert said == {"slot": "2", "sees": "board", "port": str(jig.links / "2"), "link": bus.link("1.2")}
        bus.unplug(where)
        assert jig.says() == {"slot": "2", "sees": "nothing"}
    jig.is_quiet()


def test_boards_that_were_in_before_the_station_are_found(bus: Bus, watching: Callable[..., JigAtWork]) -> None:
    bus.plug("1.1", "ttyUSB0")
    bus.plug("1.2", "ttyUSB1")
    jig = watching(at("1.2"), at("1.1"))
    said = sorted((jig.says(), jig.says()), key=lambda each: str(each["slot"]))
    assert [each["link"] for each in said] == [bus.link("1.2"), bus.link("1.1")]


def test_the_names_of_ttys_mean_nothing(bus: Bus, watching: Callable[..., JigAtWork]) -> None:
    jig = watching(at("1.1"), at("1.2"))
    first = bus.plug("1.1", "ttyUSB0")
    assert jig.says()["slot"] == "1"
    bus.unplug(first)
    assert jig.says() == {"slot": "1", "sees": "nothing"}
    bus.plug("1.2", "ttyUSB0")
    assert jig.says()["link"] == bus.link("1.2")
    bus.plug("1.1", "ttyUSB1")
    assert jig.says()["link"] == bus.link("1.1")


def test_a_board_that_resets_its_usb_stays_in_its_slot_under_a_new_name(
    bus: Bus, watching: Callable[..., JigAtWork]
) -> None:
    jig = watching(at("1.1"))
    bus.unplug(bus.plug("1.1", "ttyUSB0"), clear=False)
    bus.plug("1.1", "ttyUSB1")
    said = jig.says()
    assert said["slot"] == "1"
    assert bus.leads_to(said["link"]) == "ttyUSB1"
    jig.is_quiet()


def test_in_the_middle_of_a_run_the_slots_link_follows_to_another_interface(
    bus: Bus, watching: Callable[..., JigAtWork]
) -> None:
    jig = watching(at("1.1"))
    application = bus.plug("1.1", "ttyUSB0", interface=0)
    port = Path(jig.says()["port"])
    bus.unplug(application)
    bus.plug("1.1", "ttyUSB1", interface=2)
    deadline = time.monotonic() + _PATIENCE_S
    while str(port.readlink()) != bus.link("1.1", 2):
        assert time.monotonic() < deadline, port.readlink()
        time.sleep(0.01)
    jig.is_quiet()


def test_of_two_ports_the_slot_takes_the_interface_that_it_names(bus: Bus, watching: Callable[..., JigAtWork]) -> None:
    jig = watching(at("1.1", interface=2))
    bus.plug("1.1", "ttyACM0", interface=0)
    jig.is_quiet()
    bus.plug("1.1", "ttyACM1", interface=2)
    assert jig.says()["link"] == bus.link("1.1", 2)
    assert [(one["port"], one["why"]) for one in jig.named()] == [
        (bus.link("1.1", 0), "the slot here takes interface 2")
    ]


def test_two_ports_and_none_named_is_a_fault_that_says_what_to_name(
    bus: Bus, watching: Callable[..., JigAtWork]
) -> None:
    bus.plug("1.1", "ttyACM0", interface=0)
    bus.plug("1.1", "ttyACM1", interface=2)
    said = watching(at("1.1")).says()
    assert said["fault"] == "J205"
    assert "(interface 0 port 0, interface 2 port 0)" in said["detail"]


def test_a_link_that_comes_late_is_waited_for(bus: Bus, watching: Callable[..., JigAtWork]) -> None:
    jig = watching(at("1.1"))
    bus.plug("1.1", "ttyUSB0", link=False)
    jig.is_quiet()
    bus.make_link("1.1", "ttyUSB0")
    assert jig.says()["link"] == bus.link("1.1")


def test_a_link_that_outlives_its_device_holds_no_board(bus: Bus, watching: Callable[..., JigAtWork]) -> None:
    jig = watching(at("1.1"), reconcile_s=0.05)
    where = bus.plug("1.1", "ttyUSB0")
    assert jig.says()["sees"] == "board"
    bus.unplug(where, clear=False)
    assert (bus.root / bus.link("1.1").removeprefix("/")).exists()
    assert jig.says() == {"slot": "1", "sees": "nothing"}
    jig.is_quiet()


def test_a_link_whose_device_went_without_news_holds_no_board(bus: Bus, watching: Callable[..., JigAtWork]) -> None:
    jig = watching(at("1.1"), reconcile_s=0.05)
    bus.plug("1.1", "ttyUSB0")
    assert jig.says()["sees"] == "board"
    (bus.root / "dev/ttyUSB0").unlink()
    assert jig.says() == {"slot": "1", "sees": "nothing"}


def test_what_is_no_slot_is_ignored_and_named_once(bus: Bus, watching: Callable[..., JigAtWork]) -> None:
    bus.onboard("ttyS0")
    jig = watching(at("1.1"))
    for _ in range(3):
        bus.unplug(bus.plug("1.4", "ttyUSB0"))
    bus.plug("1.1", "ttyUSB0")
    assert jig.says()["slot"] == "1"
    jig.is_quiet()
    (named,) = jig.named()
    assert (named["port"], named["why"]) == (bus.link("1.4"), "no slot is at this place")
    assert named["product"] == "CP2102N"
