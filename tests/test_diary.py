"""What kept the station from working is told with its time, through crashes, torn lines and a disk that is away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from station import diary
from station.diary import Diary, Told, What, read
from station.faults import Blame, Fault
from station.model import Outcome
from station.sim.line import wait_for
from station.status import Andon, SlotState, SlotStatus, StatusBoard

EVER = datetime(2000, 1, 1, tzinfo=UTC)
OUT = SlotStatus("2", SlotState.OUT, fault=Fault.SLOT_OUT, detail="kim bị cong (by Nguyễn Thị Hoa)")
STANDS = Andon(Fault.HSM_DOWN, Blame.CA, "the token does not answer")
REFUSED = SlotStatus("1", SlotState.RESULT, outcome=Outcome.ERROR, fault=Fault.NO_ORDER, detail="none is open")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A diary looks as soon as it may: what is waited for here is its thread."""
    monkeypatch.setattr(diary, "_LOOK_S", 0.02)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "diary.jsonl"


@contextmanager
def kept(file: Path) -> Iterator[StatusBoard]:
    """A station at work that keeps a diary, until it is told to stop."""
    status = StatusBoard("s1", ("1", "2"), simulated=False)
    one = Diary(file, status)
    one.start()
    try:
        yield status
    finally:
        one.stop()


def told(file: Path, now: datetime | None = None) -> Told:
    return read(file, EVER, datetime(2100, 1, 1, tzinfo=UTC), now or datetime.now(UTC))


def written(file: Path, text: str, times: int = 1) -> None:
    wait_for(text, lambda: file.exists() and file.read_text().count(text) >= times)


def test_what_stands_is_told_from_its_beginning_to_its_end_and_who_said_so(file: Path) -> None:
    with kept(file) as status:
        status.post_andon(STANDS)
        status.post(OUT)
        status.post(REFUSED)
        written(file, '"refused"')
        status.post_andon(
            Andon(STANDS.fault, STANDS.blame, "still not", STANDS.since, 2)
        )  # another trial, no other fault
        status.post_andon(Andon(Fault.HSM_PIN, Blame.CA, "wrong PIN", STANDS.since, 3))
        written(file, "wrong PIN")
        status.post_andon(None)
        written(file, '"over"', 2)
        inside = told(file)
    by = {(one.what, one.fault): one for one in inside.troubles}
    assert len(inside.troubles) == 4
    down, pin = by[What.LINE, STANDS.fault.code], by[What.LINE, Fault.HSM_PIN.code]
    assert down.began == pin.began == STANDS.since
    assert down.ended is not None
    assert pin.ended is not None
    assert down.ended <= pin.ended
    slot = by[What.SLOT, Fault.SLOT_OUT.code]
    assert (slot.place, slot.detail, slot.began, slot.ended) == ("2", OUT.detail, OUT.since, None)
    refused = by[What.REFUSED, Fault.NO_ORDER.code]
    assert refused.began == refused.ended == REFUSED.since
    assert inside.unreadable == 0


def test_a_board_that_stays_is_refused_once(file: Path) -> None:
    with kept(file) as status:
        status.post(REFUSED)
        written(file, '"refused"')
        status.post_outbox(1)
        status.post(OUT)
        written(file, '"began"')
    assert [one.what for one in told(file).troubles].count(What.REFUSED) == 1


def test_what_flickers_all_day_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diary, "_MOST_A_DAY", 3)
    status = StatusBoard("s1", ("1", "2"), simulated=False)
    one = Diary(file, status)
    for index in range(10):
        status.post_lamps((("1", "gone"),) if index % 2 else ())
        one.take(status.now())
    one._write()
    assert file.read_text().count('"event": "began"') == 3
    assert file.read_text().count('"over"') >= 3


def test_the_time_between_a_stop_and_the_next_start_is_off_and_ends_what_stood(file: Path) -> None:
    with kept(file) as status:
        status.post(OUT)
        written(file, '"began"')
    after = told(file)
    (slot,) = [one for one in after.troubles if one.what is What.SLOT]
    (off,) = [one for one in after.troubles if one.what is What.OFF]
    assert slot.ended == off.began
    assert off.ended is None
    with kept(file):
        written(file, '"on"', 2)
        (off,) = [one for one in told(file).troubles if one.what is What.OFF]
        assert off.ended is not None


def test_a_crash_is_off_from_the_last_sign_of_life(file: Path) -> None:
    with kept(file) as status:
        status.post_andon(STANDS)
        written(file, '"began"')
        crashed = file.read_bytes()
    died = datetime.now(UTC) - timedelta(hours=2)
    file.write_bytes(
        crashed.replace(STANDS.since.isoformat().encode(), (died - timedelta(hours=1)).isoformat().encode())
    )
    os.utime(file, (died.timestamp(), died.timestamp()))
    dead = told(file)  # before anybody starts it again
    assert [(one.what, one.ended) for one in dead.troubles if one.what is not What.OFF] == [
        (What.LINE, datetime.fromtimestamp(file.stat().st_mtime, UTC))
    ]
    with kept(file):
        written(file, '"on"', 2)
        (off,) = [one for one in told(file).troubles if one.what is What.OFF]
        assert off.ended is not None
        assert (off.ended - off.began) == pytest.approx(timedelta(hours=2), abs=timedelta(minutes=1))


@pytest.mark.parametrize(
    "bad",
    ["torn", "[]", "null", '{"at": "2026-11-24T00:00:00", "event": "on"}', '{"event": "began"}', "x" * 9000, "\x00"],
)
def test_a_line_that_is_not_as_it_was_written_is_counted_and_costs_no_other(file: Path, bad: str) -> None:
    file.write_text(bad)  # cut short by a crash: no end of line
    with kept(file) as status:
        status.post(OUT)
        written(file, '"place": "2"')
    found = told(file)
    assert found.unreadable >= 1
    assert What.SLOT in [one.what for one in found.troubles]


def test_what_the_disk_does_not_take_is_written_later_and_the_window_chooses(tmp_path: Path) -> None:
    file = tmp_path / "not yet" / "diary.jsonl"
    with kept(file) as status:
        status.post(OUT)
        status.post_andon(STANDS)
        file.parent.mkdir()
        written(file, '"began"', 2)
    assert {one.what for one in told(file).troubles} == {What.SLOT, What.LINE, What.OFF}
    assert read(file, EVER, EVER + timedelta(days=1), datetime.now(UTC)).troubles == []
    assert told(tmp_path / "nowhere").since is None
