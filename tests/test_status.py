"""The status is a value to wait on: a late reader sees the present, an early one wakes at the change."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime

from station.faults import Fault
from station.model import Step
from station.status import LineLink, SlotState, SlotStatus, StationStatus, StatusBoard


def test_a_reader_that_knows_the_present_waits_for_the_next() -> None:
    board = StatusBoard("line", ("1", "2"), simulated=False)
    seen: list[StationStatus] = []
    reader = threading.Thread(target=lambda: seen.append(board.wait(board.now().version, 10)))
    reader.start()
    board.post(SlotStatus("2", SlotState.RUNNING, step=Step.ADMIT))
    reader.join(10)
    assert [slot.state for slot in seen[0].slots] == [SlotState.EMPTY, SlotState.RUNNING]


def test_a_late_reader_sees_the_present_at_once() -> None:
    board = StatusBoard("line", ("1",), simulated=False)
    for step in Step:
        board.post(SlotStatus("1", SlotState.RUNNING, step=step))
    assert board.wait(0, 10).slots[0].step is Step.CONNECT


def test_waiting_ends_at_the_deadline_with_the_present() -> None:
    board = StatusBoard("line", ("1",), simulated=False)
    assert board.wait(board.now().version, 0.01) is board.now()


def test_only_a_change_of_the_outbox_is_news() -> None:
    board = StatusBoard("line", ("1",), simulated=False)
    board.post_outbox(0)
    assert board.now().version == 1
    board.post_outbox(2)
    assert (board.now().version, board.now().outbox) == (2, 2)


def test_stopping_is_told() -> None:
    board = StatusBoard("line", ("1",), simulated=False)
    board.post_stopping()
    assert board.now().stopping


def test_one_more_good_sync_is_seen_and_wakes_nobody() -> None:
    board = StatusBoard("line", ("1",), simulated=False)
    begun = LineLink()
    board.post_line(begun)
    assert board.now().version == 2
    later = replace(begun, synced_at=datetime.now(UTC))
    board.post_line(later)
    assert (board.now().version, board.now().line) == (2, later)
    board.post_line(replace(later, fault=Fault.LINE_AWAY))
    assert board.now().version == 3
