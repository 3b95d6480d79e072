"""What was said to a unit and by it, for the engineer who asks why: bounded, without secrets, compressed.

A secret is left out where it is sent, never cut out afterwards: the driver says `private` around the exchange, and
nothing of it is kept, an echo included.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_HEAD: Final = 49_152  # bytes from the beginning on, where the cause of most troubles is
_TAIL: Final = 49_152  # and of the end, where the run stopped
_PIECE: Final = 2_048  # bytes of one direction that are shown as one entry
_MAX_UNPACKED: Final = 4 * 1024 * 1024


class Way(StrEnum):
    """Who spoke: the station, the board, or the driver about what happened."""

    SENT = ">"
    RECEIVED = "<"
    NOTE = "#"


@dataclass(frozen=True, slots=True)
class Entry:
    """Some bytes of one direction, and when the first of them passed (milliseconds since the run's first)."""

    ms: int
    way: Way
    data: bytes


class Transcript:
    """One run's exchange with its board. Owned by the slot's thread."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._head: list[Entry] = []
        self._tail: deque[Entry] = deque()
        self._head_bytes = self._tail_bytes = self._dropped = 0
        self._private: list[int] | None = None

    def sent(self, data: bytes) -> None:
        """Bytes that went to the board."""
        self._add(Way.SENT, data)

    def received(self, data: bytes) -> None:
        """Bytes that came from the board."""
        self._add(Way.RECEIVED, data)

    def note(self, text: str) -> None:
        """What the driver did that no byte shows: reopened the port, started a flasher."""
        self._append(Entry(self._now(), Way.NOTE, text.encode("utf-8", "replace")[:_PIECE]))

    @contextmanager
    def private(self, what: str) -> Iterator[None]:
        """Keep nothing of what passes within, but how many bytes they were. What is nested stays within the outer."""
        outer, self._private = self._private, [0, 0]
        counts = self._private
        try:
            yield
        finally:
            self._private = outer
            self.note(f"not kept: {what}, {counts[0]} bytes sent, {counts[1]} received")

    def entries(self) -> list[Entry]:
        """What was kept, oldest first; a note stands where something was left out."""
        if not self._dropped:
            return [*self._head, *self._tail]
        gap = Entry(self._tail[0].ms, Way.NOTE, f"{self._dropped} bytes are left out here".encode())
        return [*self._head, gap, *self._tail]

    def packed(self) -> bytes:
        """Zlib over one JSON array an entry and line: ``[ms, way, text]``, the bytes as ISO 8859-1."""
        lines = [json.dumps([entry.ms, entry.way, entry.data.decode("latin-1")]) for entry in self.entries()]
        return zlib.compress("\n".join(lines).encode(), 6)

    def _add(self, way: Way, data: bytes) -> None:
        if not data:
            return
        if self._private is not None:
            self._private[way is Way.RECEIVED] += len(data)
            return
        last = self._tail[-1] if self._tail else self._head[-1] if self._head else None
        if last is not None and last.way is way and len(last.data) + len(data) <= _PIECE:
            self._grow(last, data)
        else:
            for start in range(0, len(data), _PIECE):
                self._append(Entry(self._now(), way, bytes(data[start : start + _PIECE])))

    def _grow(self, last: Entry, data: bytes) -> None:
        grown = Entry(last.ms, last.way, last.data + data)
        if self._tail:
            self._tail[-1] = grown
            self._tail_bytes += len(data)
            self._trim()
        else:
            self._head[-1] = grown
            self._head_bytes += len(data)

    def _append(self, entry: Entry) -> None:
        if not self._tail and self._head_bytes + len(entry.data) <= _HEAD:
            self._head.append(entry)
            self._head_bytes += len(entry.data)
            return
        self._tail.append(entry)
        self._tail_bytes += len(entry.data)
        self._trim()

    def _trim(self) -> None:
        while self._tail_bytes > _TAIL and len(self._tail) > 1:
            lost = len(self._tail.popleft().data)
            self._tail_bytes -= lost
            self._dropped += lost

    def _now(self) -> int:
        return round((time.monotonic() - self._began) * 1000)


def unpacked(packed: bytes) -> list[Entry]:
    """The entries of `Transcript.packed`.

    Raises:
        ValueError: for bytes that are none, or more than a transcript can be.
    """
    machine = zlib.decompressobj()
    try:
        text = machine.decompress(packed, _MAX_UNPACKED)
    except zlib.error as error:
        raise ValueError(f"no transcript: {error}") from error
    if machine.unconsumed_tail or not machine.eof:
        raise ValueError("no transcript: cut short, or of over 4 MiB")
    entries = []
    for line in text.decode("utf-8").splitlines():
        ms, way, data = json.loads(line)
        entries.append(Entry(int(ms), Way(way), str(data).encode("latin-1")))
    return entries
