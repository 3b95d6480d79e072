"""The wire of the `console` protocol (``docs/new-board.md``, 1 to 3): frames, and one request at a time on a port.

Nothing here knows what a command means. All that comes from the board is hostile: lines, noise and time are bounded.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import time
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from station.boards.wire import NOISE_MAX, Wire
from station.faults import Fault, FaultError, printable
from station.interfaces import Stop
from station.transcript import Transcript

LINE_MAX: Final = 8_192  # bytes; a longer line is noise
FIRST_LINE: Final = 256  # bytes a request may have before `hello` told the board's own bound

_ATTEMPTS: Final = 4  # a request and its three repeats
_REPLY_S: Final = 1.0
_AT_ONCE_S: Final = 3.0  # what has so much time in all is answered at once: a damaged reply was the reply
_DAMAGED_S: Final = 0.1  # and is waited for so much longer, should the whole one stand behind it
_BUSY_S: Final = 0.1
_SEQ_MAX: Final = 9_999

_MARK: Final = b"<S1 "
_REPLY: Final = re.compile(
    rb"<S1 (?P<seq>0|[1-9][0-9]{0,3}) (?P<status>ok|err|wait)"
    rb"(?P<parts>(?: [a-z0-9_]++=[A-Za-z0-9._:,+/=-]++)*+) #(?P<crc>[0-9a-f]{8})"
)
_COMMAND: Final = re.compile(r"[a-z]+")
_KEY: Final = re.compile(r"[a-z0-9_]+")
_VALUE: Final = re.compile(r"[A-Za-z0-9._:,+/=-]+")
_NUMBER: Final = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Reply:
    """One valid frame from the board. Its values have the wire's alphabet, and no other promise."""

    seq: int
    status: str
    values: Mapping[str, str] = field(repr=False)

    @property
    def code(self) -> str:
        """The error code; empty for what is no error or names none."""
        return self.values.get("code", "") if self.status == "err" else ""

    @property
    def text(self) -> str:
        """What the board adds for engineers, printable and bounded; empty where it is no base64 of up to 96 bytes."""
        try:
            return printable(base64.b64decode(self.values.get("text", "")[:128], validate=True).decode("latin-1"), 96)
        except binascii.Error:
            return ""

    def word(self, key: str) -> str:
        """The value of ``key``. Raises `Fault.UNIT_GARBLED` where it is missing."""
        if key not in self.values:
            raise FaultError(Fault.UNIT_GARBLED, f"the answer has no {key}")
        return self.values[key]

    def number(self, key: str, lowest: int, highest: int) -> int:
        """A decimal of at most 10 digits. Raises `Fault.UNIT_GARBLED` for anything else or out of bounds."""
        word = self.word(key)
        if not _NUMBER.fullmatch(word) or not lowest <= int(word) <= highest:
            raise FaultError(Fault.UNIT_GARBLED, f"{key}={word[:40]} is no number from {lowest} to {highest}")
        return int(word)

    def data(self, key: str, most: int) -> bytes:
        """Base64 (RFC 4648 section 4, canonical) of up to ``most`` bytes. Raises `Fault.UNIT_GARBLED` for else."""
        word = self.word(key)
        try:
            found = base64.b64decode(word, validate=True)
        except binascii.Error as error:
            raise FaultError(Fault.UNIT_GARBLED, f"{key} is no base64: {error}") from None
        if len(found) > most or base64.b64encode(found).decode() != word:
            raise FaultError(Fault.UNIT_GARBLED, f"{key} is no base64 of at most {most} bytes")
        return found


def encode(seq: int, command: str, values: Mapping[str, str | int]) -> bytes:
    """A request as it goes over the wire, its line end included.

    Raises:
        ValueError: what the wire's alphabet cannot carry. The value itself is not told: it may be a key.
    """
    if not _COMMAND.fullmatch(command) or not 1 <= seq <= _SEQ_MAX:
        raise ValueError(f"no command: {command!r} with seq {seq}")
    parts = [f">S1 {seq} {command}"]
    for key, value in values.items():
        if not _KEY.fullmatch(key) or not _VALUE.fullmatch(str(value)):
            raise ValueError(f"the value of {key!r} for {command} is not of the wire's alphabet")
        parts.append(f"{key}={value}")
    body = " ".join(parts).encode("ascii")
    return body + b" #%08x\n" % zlib.crc32(body)


def replies(line: bytes) -> list[Reply]:
    """The valid frames in one line, whatever stands in front of them, between or behind."""
    return [reply for found in _REPLY.finditer(line) if (reply := _checked(found)) is not None]


def damaged(line: bytes) -> bool:
    """Whether a line was meant to hold a frame. To ask where `replies` found none."""
    return _MARK in line


def _checked(found: re.Match[bytes]) -> Reply | None:
    body = found[0][: -len(" #00000000")]
    if zlib.crc32(body) != int(found["crc"], 16):
        return None
    pairs = [part.partition("=")[::2] for part in found["parts"].decode("ascii").split()]
    values = dict(pairs)
    if len(values) != len(pairs):
        return None
    return Reply(int(found["seq"]), found["status"].decode("ascii"), values)


class Splitter:
    """Cuts what comes in into lines, without their ends. Holds at most `LINE_MAX` bytes; a longer line is dropped."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._dropping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes."""
        lines = []
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            self._hold(piece)
            if not self._dropping:
                lines.append(bytes(self._held))
            self._held.clear()
            self._dropping = False
        self._hold(rest)
        return lines

    def _hold(self, piece: bytes) -> None:
        if self._dropping or len(self._held) + len(piece) > LINE_MAX:
            self._held.clear()
            self._dropping = True
        else:
            self._held += piece


@dataclass(slots=True)
class _Tally:
    """What came while waiting for one reply, and was not it."""

    bytes: int = 0
    damaged: int = 0
    late: int = 0
    waits: int = 0

    def __str__(self) -> str:
        return f"{self.bytes} bytes came, {self.damaged} damaged frames, {self.late} late ones, {self.waits} waits"


class Link:
    """A board's port, and one request at a time on it.

    Attributes:
        line: the longest frame that the board takes, in bytes.

    Raises:
        FaultError: `Fault.LIFTED` where there is no such port; `Fault.PORT_DENIED` where it cannot be opened.
    """

    def __init__(self, port: str, baud: int, stop: Stop, transcript: Transcript) -> None:
        self.line = FIRST_LINE
        self._byte_s = 10 / baud
        self._seq = secrets.randbelow(_SEQ_MAX)  # a late answer to a former run shall not fit this one
        self._splitter = Splitter()
        self._wire = Wire(port, baud, stop, transcript)

    def ask(self, command: str, total_s: float, /, **values: str | int) -> Reply:
        """Send a request, repeat it as the protocol says, and return its `ok` or `err`.

        ``total_s`` bounds all attempts together, beside the time that the bytes take on the line.

        Raises:
            FaultError: `Fault.UNIT_SILENT` without any answer in time; `Fault.UNIT_GARBLED` where what came was damaged
                or too much; `Fault.UNIT_REFUSED` where the request does not fit the board's line; `Fault.LIFTED` where
                the port died; and what the run's stop raises.
        """
        tally, end = _Tally(), time.monotonic() + total_s + self.air_s
        attempts = 0
        while attempts < _ATTEMPTS and time.monotonic() < end:
            seq = self._send(command, values)
            patience = _DAMAGED_S if total_s <= _AT_ONCE_S else _REPLY_S
            reply = self._listen({seq}, time.monotonic() + _REPLY_S + self.air_s, end, tally, patience)
            if reply is not None and reply.code == "busy" and time.monotonic() + _BUSY_S < end:
                self._wire.wait(_BUSY_S)
                continue
            if reply is not None and reply.seq:
                return reply
            attempts += 1
        fault = Fault.UNIT_GARBLED if tally.damaged else Fault.UNIT_SILENT
        raise FaultError(fault, f"no answer to {command} in {attempts} attempts: {tally}")

    def knock(self, total_s: float) -> Reply:
        """Send `hello` again and again until any of them is answered: for a board that is restarting.

        Raises:
            FaultError: as `ask`.
        """
        tally, end, asked = _Tally(), time.monotonic() + total_s, set[int]()
        pause = 0.1 + FIRST_LINE * 2 * self._byte_s
        while time.monotonic() < end:
            asked.add(self._send("hello", {}))
            reply = self._listen(asked, time.monotonic() + pause, end, tally, pause)
            if reply is not None and reply.status == "ok":
                return reply
        raise FaultError(Fault.UNIT_SILENT, f"no answer to hello within {total_s:.1f} s of the restart: {tally}")

    @property
    def air_s(self) -> float:
        """The time that a request and a reply of full length take on the line, in seconds."""
        return 2 * self.line * self._byte_s

    def room(self, command: str, **values: str | int) -> int:
        """How many bytes of data (before base64) a request holds beside ``values``, in a further value `data`."""
        bare = len(encode(_SEQ_MAX, command, values)) + len(" data=")
        return (self.line - bare) // 4 * 3

    def private(self, what: str) -> AbstractContextManager[None]:
        """Nothing that passes within is transcribed."""
        return self._wire.private(what)

    def reopen(self, total_s: float) -> None:
        """Close, and open again as soon as the port is there; see `Wire.reopen`."""
        self._wire.reopen(total_s)
        self._splitter = Splitter()

    def close(self) -> None:
        """Give the port back. Never raises, and does not wait for a board that takes nothing."""
        self._wire.close()

    def _listen(self, asked: set[int], until: float, end: float, tally: _Tally, damaged_s: float) -> Reply | None:
        """The answer to one of ``asked``, or the complaint about a damaged request (seq 0); None once time is over.

        That is ``damaged_s`` seconds behind a damaged frame, if not sooner.
        """
        while True:
            chunk = self._wire.read()
            tally.bytes += len(chunk)
            if tally.bytes > NOISE_MAX:
                raise FaultError(Fault.UNIT_GARBLED, f"over {NOISE_MAX} bytes came instead of one answer")
            for line in self._splitter.feed(chunk):
                found = replies(line)
                if damaged(line) and not found:
                    tally.damaged += 1
                    until = min(until, time.monotonic() + damaged_s)
                for reply in found:
                    if reply.status == "wait" and reply.seq in asked:
                        tally.waits += 1
                        until = time.monotonic() + reply.number("ms", 1, 10_000) / 1000 + self.air_s
                    elif reply.status != "wait" and reply.seq in asked:
                        return reply
                    elif reply.seq == 0 and reply.code == "crc":
                        tally.damaged += 1
                        return reply
                    else:
                        tally.late += 1
            if time.monotonic() >= min(until, end):
                return None

    def _send(self, command: str, values: Mapping[str, str | int]) -> int:
        self._seq = self._seq % _SEQ_MAX + 1
        frame = encode(self._seq, command, values)
        if len(frame) > self.line:
            raise FaultError(
                Fault.UNIT_REFUSED, f"a {command} of {len(frame)} bytes does not fit the unit's line of {self.line}"
            )
        self._wire.write(b"\n" + frame)
        return self._seq
