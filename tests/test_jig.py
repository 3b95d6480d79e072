"""A board is in the slot when it stayed, and lifted when it is really gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from station.jig import Nest, Presence


@pytest.fixture
def nest(tmp_path: Path) -> Nest:
    return Nest(tmp_path / "slot1")


def soon(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def plug(nest: Nest, name: str = "board") -> None:
    device = nest.port.parent / name
    device.write_text("")
    nest.port.symlink_to(device)


def test_an_empty_nest_has_no_board(nest: Nest) -> None:
    assert nest.board() is None
    assert not Presence(nest, debounce_s=0, lifted_s=9).plugged()


def test_a_dangling_link_is_no_board(nest: Nest) -> None:
    nest.port.symlink_to("/nowhere")
    assert nest.board() is None


def test_a_board_counts_only_after_it_stayed(nest: Nest) -> None:
    presence = Presence(nest, debounce_s=0.15, lifted_s=9)
    plug(nest)
    assert not presence.plugged()
    began = time.monotonic()
    soon(presence.plugged)
    assert time.monotonic() - began >= 0.14


def test_a_contact_that_bounces_begins_anew(nest: Nest) -> None:
    presence = Presence(nest, debounce_s=0.2, lifted_s=9)
    plug(nest)
    assert not presence.plugged()
    nest.port.unlink()
    assert not presence.plugged()
    plug(nest, "same place, another device")
    began = time.monotonic()
    soon(presence.plugged)
    assert time.monotonic() - began >= 0.19


def test_a_short_absence_is_no_lift(nest: Nest) -> None:
    presence = Presence(nest, debounce_s=0, lifted_s=5)
    plug(nest)
    soon(presence.plugged)
    nest.port.unlink()
    assert not presence.lifted()
    plug(nest, "after its usb reset")
    assert not presence.lifted()


def test_a_board_that_stays_away_is_lifted(nest: Nest) -> None:
    presence = Presence(nest, debounce_s=0, lifted_s=0.05)
    plug(nest)
    soon(presence.plugged)
    nest.port.unlink()
    soon(presence.lifted)
