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
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from station.cli import main
from station.config import load_slots
from station.config.slots import UsbLocation
from station.faults import Fault, FaultError
from station.jig.learn import write_map

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
        self._in: dict[str, list[str]] = {}
        self.environment = {**os.environ, "UMOCKDEV_DIR": str(self.root)}

    def _do(self, **command: str) -> None:
        assert self._bed.stdin is not None
        self._bed.stdin.write(json.dumps(command).encode() + b"\n")
        self._bed.stdin.flush()
        assert self._lines.next() == "done"

    def plug(self, socket: str, *ttys: str, interfaces: tuple[int, ...] = (0,), link: bool = True) -> None:
        """A board comes into a socket, and shows a tty for each interface."""
        lines: list[str] = []
        for tty, interface in zip(ttys, interfaces, strict=True):
            usb = f"/devices/pci0000:00/0000:00:14.0/usb1/1-{socket}"
            where = f"{usb}/1-{socket}:1.{interface}/{tty}/tty/{tty}"
            # Node and link are made by hand: umockdev makes no node of the same name a second time.
            (self.root / "dev" / tty).touch()
            if link:
                self.make_link(socket, tty, interface)
            lines += [*self._once(usb, "usb_device"), *self._once(f"{usb}/1-{socket}:1.{interface}", "usb_interface")]
            lines += [
                f"P: {where}",
                f"E: DEVNAME=/dev/{tty}",
                "E: SUBSYSTEM=tty",
                "E: MAJOR=188",
                f"E: MINOR={tty[6:]}",
            ]
            lines += ["E: ID_BUS=usb", "E: ID_VENDOR_ID=10c4", "E: ID_MODEL_ID=ea60", "E: ID_MODEL=CP2102N"]
            lines += [f"E: ID_PATH={HUB}:{socket}:1.{interface}", f"E: ID_USB_INTERFACE_NUM={interface:02x}", ""]
            self._in.setdefault(socket, []).append(f"/sys{where}")
        self._do(add="\n".join(lines))

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

    def unplug(self, socket: str, *, clear: bool = True) -> None:
        """The board goes. Its links and nodes may outlive the news; ``clear`` takes them away."""
        for where in self._in.pop(socket):
            tty = where.rsplit("/", 1)[1]
            self._do(remove=where)
            if clear:
                for link in (self.root / "dev/serial/by-path").iterdir():
                    if link.readlink().name == tty:
                        link.unlink()
                (self.root / "dev" / tty).unlink(missing_ok=True)

    def unplug_all(self) -> None:
        for socket in list(self._in):
            self.unplug(socket)

    @staticmethod
    def link_name(socket: str, interface: int = 0) -> str:
        return f"{HUB}:{socket}:1.{interface}-port0"

    def link(self, socket: str, interface: int = 0) -> str:
        return f"/dev/serial/by-path/{self.link_name(socket, interface)}"

    def leads_to(self, link: str) -> str:
        """The tty behind a by-path link, now."""
        return (self.root / link.removeprefix("/")).readlink().name


def _start(parts: ExitStack, command: list[str], **more: Any) -> subprocess.Popen[Any]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more)
    parts.callback(_end, process)
    return process


def _end(process: subprocess.Popen[Any]) -> None:
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
        self._boards: set[str] = set()

    def says(self) -> dict[str, Any]:
        said: dict[str, Any] = self._lines.next()
        (self._boards.add if said["sees"] == "board" else self._boards.discard)(said["slot"])
        return said

    def is_empty(self) -> None:
        """Wait until every board that it saw was lifted."""
        while self._boards:
            self.says()

    def is_quiet(self) -> None:
        """Nothing more is said for longer than debounce and the looks for late links take."""
        with pytest.raises(TimeoutError):
            self._lines.next(_QUIET_S)

    def named(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


def at(socket: str, **more: Any) -> dict[str, Any]:
    return {"usb": {"path": f"{HUB}:{socket}", **more}}


@pytest.fixture(scope="module")
def parts() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def usb(parts: ExitStack) -> Bus:
    return Bus(parts)


@pytest.fixture
def bus(usb: Bus) -> Iterator[Bus]:
    yield usb
    usb.unplug_all()


@pytest.fixture(scope="module")
def by_news(usb: Bus, tmp_path_factory: pytest.TempPathFactory, parts: ExitStack) -> JigAtWork:
    """A jig that lives by udev's news alone. Slot N is at socket 1.N; slot 4 names an interface."""
    slots = [at(f"1.{number}", **({"interface": 2} if number == 4 else {})) for number in range(1, 7)]
    usb.onboard("ttyS0")
    return JigAtWork(usb, tmp_path_factory.mktemp("news"), parts, *slots, reconcile_s=600.0)


@pytest.fixture
def jig(bus: Bus, by_news: JigAtWork) -> Iterator[JigAtWork]:
    yield by_news
    bus.unplug_all()
    by_news.is_empty()


def test_a_board_comes_into_its_slot_and_goes(bus: Bus, jig: JigAtWork) -> None:
    for _ in range(2):
        bus.plug("1.2", "ttyUSB0")
        said = jig.says()
        assert said == {"slot": "2", "sees": "board", "port": str(jig.links / "2"), "link": bus.link("1.2")}
        bus.unplug("1.2")
        assert jig.says() == {"slot": "2", "sees": "nothing"}
    jig.is_quiet()


def test_the_names_of_ttys_mean_nothing(bus: Bus, jig: JigAtWork) -> None:
    bus.plug("1.1", "ttyUSB0")
    assert jig.says()["slot"] == "1"
    bus.unplug("1.1")
    assert jig.says() == {"slot": "1", "sees": "nothing"}
    bus.plug("1.2", "ttyUSB0")
    assert jig.says()["link"] == bus.link("1.2")
    bus.plug("1.1", "ttyUSB1")
    assert jig.says()["link"] == bus.link("1.1")


def test_a_board_that_resets_its_usb_stays_in_its_slot_under_a_new_name(bus: Bus, jig: JigAtWork) -> None:
    bus.plug("1.3", "ttyUSB0")
    assert jig.says()["slot"] == "3"
    bus.unplug("1.3", clear=False)
    bus.plug("1.3", "ttyUSB1")
    jig.is_quiet()
    assert bus.leads_to(str((jig.links / "3").readlink())) == "ttyUSB1"


def test_in_the_middle_of_a_run_the_slots_link_follows_to_another_interface(bus: Bus, jig: JigAtWork) -> None:
    bus.plug("1.3", "ttyUSB0")
    port = Path(jig.says()["port"])
    bus.unplug("1.3")
    bus.plug("1.3", "ttyUSB1", interfaces=(2,))
    deadline = time.monotonic() + _PATIENCE_S
    while str(port.readlink()) != bus.link("1.3", 2):
        assert time.monotonic() < deadline, port.readlink()
        time.sleep(0.01)
    jig.is_quiet()


def test_of_two_ports_the_slot_takes_the_interface_that_it_names(bus: Bus, jig: JigAtWork) -> None:
    bus.plug("1.4", "ttyACM0", "ttyACM1", interfaces=(0, 2))
    assert jig.says()["link"] == bus.link("1.4", 2)
    assert (bus.link("1.4", 0), "the slot here takes interface 2") in [(one["port"], one["why"]) for one in jig.named()]


def test_the_interface_that_a_slot_does_not_name_is_no_board(bus: Bus, jig: JigAtWork) -> None:
    bus.plug("1.4", "ttyACM0")
    jig.is_quiet()


def test_two_ports_and_none_named_is_a_fault_that_says_what_to_name(bus: Bus, jig: JigAtWork) -> None:
    bus.plug("1.5", "ttyACM0", "ttyACM1", interfaces=(0, 2))
    said = jig.says()
    assert said["fault"] == "J205"
    assert "(interface 0 port 0, interface 2 port 0)" in said["detail"]


def test_a_link_that_comes_late_is_waited_for(bus: Bus, jig: JigAtWork) -> None:
    bus.plug("1.6", "ttyUSB0", link=False)
    jig.is_quiet()
    bus.make_link("1.6", "ttyUSB0")
    assert jig.says()["link"] == bus.link("1.6")


def test_what_is_no_slot_is_ignored_and_named_once(bus: Bus, jig: JigAtWork) -> None:
    for _ in range(3):
        bus.plug("1.9", "ttyUSB0")
        bus.unplug("1.9")
    bus.plug("1.1", "ttyUSB0")
    assert jig.says()["slot"] == "1"
    jig.is_quiet()
    (named,) = (one for one in jig.named() if one["port"] == bus.link("1.9"))
    assert (named["why"], named["product"]) == ("no slot is at this place", "CP2102N")
    assert "ttyS0" not in json.dumps(jig.named())


def test_boards_that_were_in_before_are_found_and_a_link_that_outlives_its_device_is_none(
    bus: Bus, tmp_path: Path, parts: ExitStack
) -> None:
    bus.plug("1.1", "ttyUSB0")
    bus.plug("1.2", "ttyUSB1")
    jig = JigAtWork(bus, tmp_path, parts, at("1.2"), at("1.1"), reconcile_s=0.05)
    said = sorted((jig.says(), jig.says()), key=lambda each: str(each["slot"]))
    assert [each["link"] for each in said] == [bus.link("1.2"), bus.link("1.1")]

    bus.unplug("1.2", clear=False)
    assert (bus.root / bus.link("1.2").removeprefix("/")).exists()
    assert jig.says() == {"slot": "1", "sees": "nothing"}

    # No news at all: only the reconciliation sees that the link of the other one leads nowhere.
    (bus.root / "dev/ttyUSB0").unlink()
    assert jig.says() == {"slot": "2", "sees": "nothing"}
    jig.is_quiet()


class TestCommands:
    """``station jig``, as a person or a script runs it, before and after the map is there."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Path:
        file = tmp_path / "station.yaml"
        values = yaml.safe_load((HERE.parent / "config/station.yaml").read_text())
        slot = {"lamp": {"kind": "terminal"}}
        values.update(
            runtime=str(tmp_path),
            slots=[{"name": "1", **slot}, {"name": "2", **slot}, {"name": "3", **slot, **at("1.7", interface=0)}],
        )
        file.write_text("# a comment of ours\n" + json.dumps(values))
        return file

    def command(self, settings: Path, *words: str) -> list[str]:
        return ["umockdev-wrapper", sys.executable, "-m", "station", "--config", str(settings), "jig", *words]

    def run(self, bus: Bus, settings: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(settings, *words),
            env=bus.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_list_tells_what_is_where_and_what_is_no_slot(self, bus: Bus, settings: Path) -> None:
        bus.plug("1.7", "ttyACM0", "ttyACM1", interfaces=(0, 2))
        bus.plug("1.4", "ttyUSB0")
        bus.onboard("ttyS1")
        done = self.run(bus, settings, "list", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        one, two, three = told["slots"]
        assert (one["place"], one["ports"], two["ports"]) == ("no place yet", [], [])
        assert [(port["tty"], port["usb"], port["product"]) for port in three["ports"]] == [
            ("/dev/ttyACM0", "10c4:ea60", "CP2102N")
        ]
        assert [(one["port"], one["why"]) for one in told["others"] if one["port"] != "/dev/ttyS0"] == [
            (bus.link("1.4"), "no slot is at this place"),
            (bus.link("1.7", 2), "the slot here takes interface 0"),
            ("/dev/ttyS1", "a port of this machine itself; only USB places are learnt"),
        ]
        text = self.run(bus, settings, "list").stdout
        assert "no place yet" in text
        assert "the slot here takes interface 0" in text
        assert "\x1b" not in text

    def test_learn_asks_for_a_board_in_each_slot_and_writes_the_map(
        self, bus: Bus, settings: Path, parts: ExitStack
    ) -> None:
        before = settings.read_text()
        bus.plug("1.9", "ttyUSB9")  # was in before: says nothing
        command = self.command(settings, "learn", "--interface", "2")
        process = _start(parts, command, env=bus.environment, text=True)
        assert process.stdout is not None
        says = process.stdout.readline
        assert says() == "Put a board in slot 1 now.\n"
        bus.plug("1.3", "ttyUSB0")
        assert says() == f"Slot 1 is {HUB}:1.3  (CP2102N).\n"
        assert says() == "Put a board in slot 2 now.\n"
        bus.unplug("1.3")
        bus.plug("1.3", "ttyUSB1")
        assert says() == "That is slot 1's place already. Put a board in slot 2.\n"
        bus.plug("1.5", "ttyACM0", "ttyACM1", interfaces=(0, 2))
        assert says() == f"Slot 2 is {HUB}:1.5, interface 2  (CP2102N).\n"
        assert process.wait(_PATIENCE_S) == 0
        assert settings.read_text() == before
        found = load_slots(settings)
        assert [(slot.usb.path, slot.usb.interface) for slot in found.slots if slot.usb] == [
            (f"{HUB}:1.3", None),
            (f"{HUB}:1.5", 2),
            (f"{HUB}:1.7", 0),
        ]
        assert [file.name for file in settings.parent.iterdir() if "jig" in file.name] == ["jig.yaml"]

    def test_learn_gives_up_when_no_board_comes(self, bus: Bus, settings: Path) -> None:
        done = self.run(bus, settings, "learn", "2", "--timeout", "0.3")
        assert done.returncode == 1
        assert done.stderr.split()[0] == "J208"
        assert not settings.with_name("jig.yaml").exists()

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("learn", "9"), "no slot is called 9; station.yaml has 1, 2, 3"),
            (("learn", "3"), "slot 3 names its place in station.yaml; take it out there first"),
            (("power", "9", "on"), "no slot is called 9"),
            (("power", "1", "cycle"), "slot 1 has no `power` in station.yaml"),
        ],
    )
    def test_what_makes_no_sense_is_refused_with_the_reason(
        self, settings: Path, words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--config", str(settings), "jig", *words]) == 1
        assert says in capsys.readouterr().err

    def test_learn_is_refused_while_the_station_runs(
        self, settings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("station.control.Control.status", lambda _: {})
        assert main(["--config", str(settings), "jig", "learn"]) == 1
        assert "systemctl stop station" in capsys.readouterr().err
        assert not settings.with_name("jig.yaml").exists()


def test_a_map_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "jig.yaml"
    write_map(file, {"1": UsbLocation(path=f"{HUB}:1")})
    before = file.read_text()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("station.disk.os.fsync", full)
    with pytest.raises(FaultError) as error:
        write_map(file, {"1": UsbLocation(path=f"{HUB}:2")})
    assert error.value.fault is Fault.CONFIG
    assert file.read_text() == before
    assert list(tmp_path.iterdir()) == [file]
