"""A host for the console protocol, written by hand from docs/new-board.md for the tests of the simulated board."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import select
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from station.sim.jig import SimJig

REPLY = re.compile(
    rb"(<S1 (\d{1,4}) (ok|err|wait)((?: [a-z0-9_]+=[A-Za-z0-9._:,+/=-]+)*)) #([0-9a-f]{8})\r\n",
)
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Answer:
    seq: int
    status: str
    fields: dict[str, str]
    waits: int = 0

    @property
    def code(self) -> str:
        """The error's code; empty for an ok."""
        return self.fields["code"] if self.status == "err" else ""

    def blob(self, key: str) -> bytes:
        return base64.b64decode(self.fields[key], validate=True)


class SilenceError(Exception):
    """No reply within the time."""


class Host:
    """One end of a board's port; keeps all it has heard."""

    def __init__(self, port: Path) -> None:
        self._fd = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self.heard = bytearray()
        self._at = 0
        self._seq = 0

    def close(self) -> None:
        os.close(self._fd)

    def send(self, data: bytes) -> None:
        while data:
            select.select([], [self._fd], [], PATIENCE_S)
            data = data[os.write(self._fd, data) :]

    def listen(self, seconds: float) -> bool:
        """Hear one more piece; False where none came within the time."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return False
        piece = os.read(self._fd, 65_536)
        self.heard += piece
        return bool(piece)

    def reply(self, timeout_s: float = PATIENCE_S) -> Answer:
        """The next valid reply frame."""
        deadline = time.monotonic() + timeout_s
        while True:
            for found in REPLY.finditer(self.heard, self._at):
                self._at = found.end()
                if zlib.crc32(found[1]) == int(found[5], 16):
                    pairs = [pair.partition("=") for pair in found[4].decode().split()]
                    return Answer(int(found[2]), found[3].decode(), {key: value for key, _, value in pairs})
            rest = deadline - time.monotonic()
            if rest <= 0 or not self.listen(rest):
                raise SilenceError

    def say(self, command: str, **values: str | int) -> int:
        """Send one request, and return its seq."""
        self._seq += 1
        text = " ".join([f">S1 {self._seq} {command}", *(f"{key}={value}" for key, value in values.items())])
        self.send(b"\n" + framed(text))
        return self._seq

    def ask(self, command: str, **values: str | int) -> Answer:
        """Send one request and return its last word."""
        seq, waits = self.say(command, **values), 0
        while True:
            answer = self.reply()
            assert answer.seq == seq
            if answer.status != "wait":
                return Answer(seq, answer.status, answer.fields, waits)
            assert 1 <= int(answer.fields["ms"]) <= 10_000
            waits += 1

    def restarted(self) -> bytes:
        """What the board prints after its last reply, up to the end of its boot messages."""
        deadline = time.monotonic() + PATIENCE_S
        while b"chip revision" not in self.heard[self._at :]:
            if not self.listen(max(0.0, deadline - time.monotonic())):
                raise SilenceError
        return bytes(self.heard[self._at :])

    def is_silent(self) -> bool:
        """Whether a hello gets no reply in a time that is long for a board on a pty."""
        self.say("hello")
        try:
            self.reply(0.3)
        except SilenceError:
            return True
        return False

    def write(self, item: str, data: bytes, piece: int = 600) -> Answer:
        """Stage an item; the last answer."""
        for offset in range(0, len(data), piece):
            part = data[offset : offset + piece]
            answer = self.ask("write", item=item, offset=offset, total=len(data), data=b64(part))
            if answer.status == "err":
                break
        return answer

    def commit(self, item: str, data: bytes) -> Answer:
        return self.ask("commit", item=item, total=len(data), sha256=hashlib.sha256(data).hexdigest())

    def install(self, item: str, data: bytes) -> None:
        assert self.write(item, data).status == "ok"
        assert self.commit(item, data).status == "ok"

    def read(self, item: str) -> bytes:
        """An item as it reads back, piece by piece."""
        data = b""
        while True:
            answer = self.ask("read", item=item, offset=len(data))
            assert answer.status == "ok", answer
            assert int(answer.fields["offset"]) == len(data)
            if "data" not in answer.fields:
                assert int(answer.fields["total"]) == len(data)
                return data
            data += answer.blob("data")


class Bench:
    """A jig and one slot: plugs SN-1 in with these faults, and opens its port."""

    def __init__(self, folder: Path) -> None:
        self.port = folder / "slot1"
        self._parts = ExitStack()
        self.jig = self._parts.enter_context(SimJig(folder / "boards"))

    def plug(self, *faults: str, **more: Any) -> Host:
        named = {"serial": "SN-1", "chip": "C1", "model": "demo-board"} | more
        self.board = self.jig.plug(self.port, faults=faults, **named)
        host = Host(self.port)
        self._parts.callback(host.close)
        return host

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()


def gone(there: Callable[[], bool]) -> bool:
    """Whether something that ends by itself has ended within the patience."""
    deadline = time.monotonic() + PATIENCE_S
    while there():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)  # between two looks of a poll with a deadline
    return True


def framed(text: str) -> bytes:
    return f"{text} #{zlib.crc32(text.encode()):08x}\n".encode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
