"""A board is in the slot when it stayed, and lifted when it is really gone; the jig's thread says so at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from station.config import SlotSettings, SlotTimes, Terminal
from station.faults import Fault, FaultError
from station.jig import Jig, Nest, Presence, build_jig
from station.jig import watch as jig_watch


def soon(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def awaited(presence: Presence, there: Callable[[], bool]) -> float:
    """Wait as a slot does: seconds that it took. One long `wait` would show in them."""
    began = time.monotonic()
    while not there():
        presence.wait(30)
        assert time.monotonic() - began < 10
    return time.monotonic() - began


BOARD, OTHER = ("/dev/ttyUSB0", 48128), ("/dev/ttyUSB1", 48129)


def test_a_board_counts_only_after_it_stayed() -> None:
    presence = Presence(debounce_s=0.15, lifted_s=9)
    presence.see(BOARD)
    assert not presence.plugged()
    assert awaited(presence, presence.plugged) >= 0.14


def test_a_contact_that_bounces_begins_anew() -> None:
    presence = Presence(debounce_s=0.2, lifted_s=9)
    presence.see(BOARD)
    presence.wait(0.15)
    presence.see(None)
    presence.see(BOARD)
    assert not presence.plugged()
    assert awaited(presence, presence.plugged) >= 0.19


def test_another_board_in_the_same_place_begins_anew() -> None:
    presence = Presence(debounce_s=0.2, lifted_s=9)
    presence.see(BOARD)
    awaited(presence, presence.plugged)
    presence.see(OTHER)
    assert not presence.plugged()
    assert not presence.lifted()


def test_the_same_told_again_changes_nothing() -> None:
    presence = Presence(debounce_s=0.1, lifted_s=9)
    presence.see(BOARD)
    began = time.monotonic()
    while not presence.plugged():
        presence.see(BOARD)
        assert time.monotonic() - began < 10
        time.sleep(0.01)


def test_a_short_absence_is_no_lift() -> None:
    presence = Presence(debounce_s=0, lifted_s=5)
    presence.see(BOARD)
    presence.see(None)
    assert not presence.lifted()
    presence.see(OTHER)
    assert not presence.lifted()


def test_a_board_that_stays_away_is_lifted() -> None:
    presence = Presence(debounce_s=0, lifted_s=0.05)
    presence.see(BOARD)
    presence.see(None)
    assert awaited(presence, presence.lifted) >= 0.04


def test_news_between_the_look_and_the_wait_are_not_missed() -> None:
    presence = Presence(debounce_s=0, lifted_s=0)
    assert not presence.plugged()
    presence.see(BOARD)
    assert awaited(presence, presence.plugged) < 5


def test_who_waits_for_a_board_can_be_woken_for_another_reason() -> None:
    presence = Presence(debounce_s=0, lifted_s=0)
    presence.wait(0)
    threading.Timer(0.05, presence.wake).start()
    began = time.monotonic()
    presence.wait(30)
    assert time.monotonic() - began < 10


class Never:
    """No reason to stop."""

    def check(self) -> None:
        """Go on."""

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


def no_prober(product: str) -> Callable[[str], bool]:
    raise AssertionError(product)


@contextmanager
def at_work(*ports: Path, debounce_ms: int = 0, lifted_ms: int = 100) -> Iterator[tuple[Nest, ...]]:
    """A jig of link slots that really watches; its nests."""
    lamp = Terminal(kind="terminal")
    slots = [SlotSettings(name=str(number), port=port, lamp=lamp) for number, port in enumerate(ports, 1)]
    jig = build_jig(slots, SlotTimes(debounce_ms=debounce_ms, lifted_ms=lifted_ms), Path(), no_prober)
    jig.start()
    try:
        yield jig.nests
    finally:
        jig.stop()
    assert not jig.is_alive()


def plug(port: Path, name: str = "board") -> None:
    """As udev and the simulated board do it: a name that nobody looks for, then the right one."""
    device = port.parent / name
    device.write_text("")
    new = port.with_name(f".#{port.name}")
    new.symlink_to(device)
    new.replace(port)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only news count: nothing is found by the reconciliation."""
    monkeypatch.setattr(jig_watch, "_RECONCILE_S", 600.0)


@pytest.mark.usefixtures("patient")
def test_a_link_that_appears_is_news(tmp_path: Path) -> None:
    with at_work(tmp_path / "slot1", tmp_path / "slot2") as (one, two):
        plug(tmp_path / "slot2")
        awaited(two.presence, two.presence.plugged)
        assert not one.presence.plugged()
        assert two.ready(Never()) == str(tmp_path / "slot2")


@pytest.mark.usefixtures("patient")
def test_a_board_that_was_there_before_the_station_is_found(tmp_path: Path) -> None:
    plug(tmp_path / "slot1")
    with at_work(tmp_path / "slot1") as (nest,):
        awaited(nest.presence, nest.presence.plugged)


@pytest.mark.usefixtures("patient")
def test_a_folder_that_comes_with_the_first_device_is_watched(tmp_path: Path) -> None:
    folder = tmp_path / "serial" / "by-path"
    with at_work(folder / "slot1") as (nest,):
        assert not nest.presence.plugged()
        folder.mkdir(parents=True)
        plug(folder / "slot1")
        awaited(nest.presence, nest.presence.plugged)
        (folder / "slot1").unlink()
        (folder / "board").unlink()
        folder.rmdir()
        awaited(nest.presence, nest.presence.lifted)
        folder.mkdir()
        plug(folder / "slot1")
        awaited(nest.presence, nest.presence.plugged)


@pytest.mark.usefixtures("patient")
def test_a_link_that_outlives_its_device_holds_no_board(tmp_path: Path) -> None:
    with at_work(tmp_path / "slot1") as (nest,):
        master, slave = os.openpty()
        (tmp_path / "slot1").symlink_to(os.ttyname(slave))
        awaited(nest.presence, nest.presence.plugged)
        os.close(slave)
        os.close(master)
        assert (tmp_path / "slot1").is_symlink()
        awaited(nest.presence, nest.presence.lifted)


@pytest.mark.usefixtures("patient")
def test_a_dangling_link_is_no_board(tmp_path: Path) -> None:
    (tmp_path / "slot1").symlink_to("/nowhere")
    with at_work(tmp_path / "slot1", tmp_path / "slot2") as (one, two):
        plug(tmp_path / "slot2")
        awaited(two.presence, two.presence.plugged)
        assert not one.presence.plugged()


def test_what_the_news_missed_is_found_by_the_reconciliation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jig_watch, "_RECONCILE_S", 0.05)

    class Deaf:
        """A source whose news are all lost."""

        def __init__(self) -> None:
            self._never, self._other = os.pipe()

        def fileno(self) -> int:
            return self._never

        def read(self) -> None:
            raise AssertionError

        def reconcile(self) -> None:
            """Nothing to find here; the nests look at their links."""

        def look(self) -> None:
            """Nothing is due."""

        def close(self) -> None:
            os.close(self._never)
            os.close(self._other)

    from station.jig.links import Link

    nest = Nest("1", Link(tmp_path / "slot1"), Presence(debounce_s=0, lifted_s=0.1))
    jig = Jig([nest], [Deaf()])
    jig.start()
    try:
        plug(tmp_path / "slot1")
        awaited(nest.presence, nest.presence.plugged)
    finally:
        jig.stop()


def test_a_kernel_that_gives_no_watch_is_a_fault_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")  # EMFILE: fs.inotify.max_user_instances

    monkeypatch.setattr("station.jig.links.INotify", refused)
    with pytest.raises(FaultError) as error, at_work(tmp_path / "slot1"):
        pass
    assert error.value.fault is Fault.JIG_BLIND
