"""The diary: what kept the station from working, and when. Lines of JSON beside the ledger, for the yield report.

The ledger tells of runs; here stands what has no run: the whole line stood, a slot was out of service, a lamp was
broken, a board was refused before it had a run, the station itself was off. It is no part of the proof. A reader of the
status writes it, so that nothing at work waits for it, and what the disk does not take is written later.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import structlog

from station.faults import Fault, readable
from station.status import SlotState, SlotStatus, StationStatus, StatusBoard

FILE: Final = "diary.jsonl"
_LOOK_S: Final = 0.5
_BEAT_S: Final = 10.0  # how exactly the end of a station that crashed is known
_SILENT_S: Final = 6 * _BEAT_S
_MOST_WAITING: Final = 1000  # lines that the disk did not take yet
_MOST_A_DAY: Final = 2000  # beginnings: a lamp that flickers must not make the report of every later day slow
_MOST_LINE: Final = 4096
_MOST_DETAIL: Final = 200
_RECORD: Final = frozenset({Fault.LEDGER_DOWN, Fault.LEDGER_GONE})

log = structlog.get_logger()


class What(StrEnum):
    """What did not work. REFUSED is a moment, the others last."""

    OFF = "off"
    LINE = "line"
    SLOT = "slot"
    LAMP = "lamp"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One entry: since when, until when (None: still), and why. ``place`` is a slot; "" the whole station."""

    what: What
    place: str
    fault: str
    detail: str
    began: datetime
    ended: datetime | None = None


class Diary(threading.Thread):
    """Follows the status and writes what begins and ends.

    Args:
        file: is made where it is not there.
        status: what is followed.
    """

    def __init__(self, file: Path, status: StatusBoard) -> None:
        super().__init__(name="diary")
        self._file, self._status = file, status
        self._standing: dict[tuple[What, str], Trouble] = {}
        self._seen: dict[str, datetime] = {}
        self._waiting: list[str] = []
        self._today, self._noted = "", 0
        self._beaten = 0.0
        self._over = threading.Event()

    def stop(self) -> None:
        """Write down that the station goes off, and end."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Follow until `stop`."""
        self._note("on", {"alive": (_alive(self._file) or datetime.now(UTC)).isoformat()})
        version = 0
        while not self._over.is_set():
            now = self._status.wait(version, _LOOK_S)
            if now.version != version:
                self.take(now)
                version = now.version
            self._write()
        self._note("off", {})
        self._write()

    def take(self, now: StationStatus) -> None:
        """Note how one status differs from the one before."""
        standing = {(one.what, one.place): one for one in _standing(now)}
        for key, old in self._standing.items():
            new = standing.get(key)
            if new is None or new.fault != old.fault:
                self._note("over", {"what": old.what.value, "place": old.place})
        for key, new in standing.items():
            old_one = self._standing.get(key)
            if old_one is None or old_one.fault != new.fault:
                self._note("began", _said(new))
        self._standing = standing
        for slot in now.slots:
            if _refused(slot) and self._seen.get(slot.slot) != slot.since:
                one = Trouble(What.REFUSED, slot.slot, _code(slot.fault), slot.detail, slot.since)
                self._note("refused", _said(one))
            self._seen[slot.slot] = slot.since

    def _note(self, event: str, more: dict[str, Any]) -> None:
        at = datetime.now(UTC).isoformat()
        if event in {"began", "refused"}:
            self._noted = self._noted + 1 if self._today == at[:10] else 1
            self._today = at[:10]
            if self._noted > _MOST_A_DAY:
                return
        line = json.dumps({"at": at, "event": event, **more})
        self._waiting = [*self._waiting[-_MOST_WAITING:], line]

    def _write(self) -> None:
        """What waits, to the disk; now and then the file's time alone, which says until when the station lived."""
        try:
            if self._waiting:
                handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
                with os.fdopen(handle, "w", encoding="ascii") as file:
                    # A line that was cut short by a crash must not spoil the next one; an empty line is none.
                    file.write("\n" + "\n".join(self._waiting) + "\n")
                    file.flush()
                    os.fsync(handle)
                self._waiting = []
            elif time.monotonic() - self._beaten > _BEAT_S:
                os.utime(self._file)
                self._beaten = time.monotonic()
        except OSError as error:
            if time.monotonic() - self._beaten > _BEAT_S:
                log.warning("the diary is not written", file=str(self._file), detail=error.strerror)
                self._beaten = time.monotonic()


def _standing(now: StationStatus) -> Iterator[Trouble]:
    if now.andon is not None:
        yield Trouble(What.LINE, "", now.andon.fault.code, now.andon.detail, now.andon.since)
    for slot in now.slots:
        if slot.state is SlotState.OUT:
            yield Trouble(What.SLOT, slot.slot, _code(slot.fault), slot.detail, slot.since)
    for place, why in now.lamps:
        yield Trouble(What.LAMP, place, "", why, datetime.now(UTC))


def _refused(slot: SlotStatus) -> bool:
    """A board that got no run, or whose run's end the ledger does not take: the ledger cannot tell of either."""
    return slot.state is SlotState.RESULT and slot.fault is not None and (slot.run is None or slot.fault in _RECORD)


def _code(fault: Fault | None) -> str:
    return fault.code if fault else ""


def _said(one: Trouble) -> dict[str, Any]:
    detail = readable(one.detail, _MOST_DETAIL)
    began = one.began.astimezone(UTC).isoformat()
    return {"what": one.what.value, "place": one.place, "fault": one.fault, "detail": detail, "began": began}


def _alive(file: Path) -> datetime | None:
    """The last moment at which a station was known to live; None where none ever was."""
    try:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Told:
    """What a diary says of a time. ``since`` is its first entry's (None: it has none), ``unreadable`` its bad lines."""

    troubles: list[Trouble]
    since: datetime | None
    unreadable: int


def read(file: Path, start: datetime, end: datetime, now: datetime) -> Told:
    """What did not work at any moment from ``start`` to ``end`` (aware), in the order in which it began.

    What a crash left open ended with the last sign of life before it. A file that is not there is an empty diary.

    Raises:
        OSError: it cannot be read.
    """
    reader = _Reader(start, end)
    try:
        with file.open("rb") as lines:
            while line := lines.readline(_MOST_LINE):
                if line.strip():
                    reader.take(line)
    except FileNotFoundError:
        return Told([], None, 0)
    alive = _alive(file)
    if reader.on and alive is not None and (now - alive).total_seconds() > _SILENT_S:
        reader.off(alive)
    return Told(reader.all(), reader.since, reader.unreadable)


def _moment(text: str) -> datetime:
    """A moment of the diary. Raises ValueError for one of no zone: it cannot be compared."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a moment without its zone")
    return found


class _Reader:
    """Pairs beginnings with ends, and keeps what touches the window."""

    def __init__(self, start: datetime, end: datetime) -> None:
        self._start, self._end = start, end
        self._open: dict[tuple[What, str], Trouble] = {}
        self._found: list[Trouble] = []
        self.on = False
        self.since: datetime | None = None
        self.unreadable = 0

    def take(self, line: bytes) -> None:
        """One line; one that is not as it was written is counted and left."""
        try:
            said = json.loads(line)
            at = _moment(said["at"])
            self.since = self.since or at
            match said["event"]:
                case "on":
                    if self.on:
                        self.off(min(at, _moment(said["alive"])))
                    self._over(What.OFF, "", at)
                    self.on = True
                case "off":
                    self.off(at)
                case "began":
                    one = _trouble(said)
                    self._open[one.what, one.place] = one
                case "over":
                    self._over(What(said["what"]), said["place"], at)
                case "refused":
                    one = _trouble(said)
                    self._keep(replace(one, ended=one.began))
        except (ValueError, TypeError, KeyError):
            self.unreadable += 1

    def off(self, at: datetime) -> None:
        """The station went off: whatever stood ended with it."""
        for what, place in list(self._open):
            self._over(what, place, at)
        self._open[What.OFF, ""] = Trouble(What.OFF, "", "", "", at)
        self.on = False

    def _over(self, what: What, place: str, at: datetime) -> None:
        one = self._open.pop((what, place), None)
        if one is not None:
            self._keep(replace(one, ended=max(one.began, at)))

    def _keep(self, one: Trouble) -> None:
        if one.began < self._end and (one.ended is None or one.ended >= self._start):
            self._found.append(one)

    def all(self) -> list[Trouble]:
        """Everything that touches the window, by its beginning."""
        for one in self._open.values():
            self._keep(one)
        return sorted(self._found, key=lambda one: (one.began, one.what, one.place))


def _trouble(said: dict[str, Any]) -> Trouble:
    began = _moment(said["began"])
    fault, place, detail = (str(said[key]) for key in ("fault", "place", "detail"))
    return Trouble(What(said["what"]), place, fault, readable(detail, _MOST_DETAIL), began)
