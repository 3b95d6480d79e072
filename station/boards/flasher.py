"""The station's end of `esptool_child.py`: orders and answers, bounded in time and bytes, and killed with the run.

Nothing that is written to a flash or read from it is transcribed: only the child's log is, and esptool puts none of it
there.
"""

from __future__ import annotations

import json
import os
import select
import struct
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from station.boards.child import LOG_MAX, started
from station.faults import Fault, FaultError
from station.interfaces import Stop

_CHILD: Final = Path(__file__).with_name("esptool_child.py")
_TICK_S: Final = 0.02
_CHUNK: Final = 65_536
_TEXT_MAX: Final = 65_536
_LENGTH: Final = struct.Struct(">I")


class OrderError(Exception):
    """The child could not do what it was ordered: ``kind`` is esptool's exception, the text its first line."""

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the child says, and the bytes that it read."""

    values: dict[str, Any]
    data: bytes = b""


class Flasher:
    """One child, from now to `close`. It loads esptool at once, while the station does other things.

    Raises:
        FaultError: `Fault.FLASHER_FAILED` where it does not start, dies or talks nonsense; `Fault.FLASHER_LATE` where
            an order's time is over; what ``stop`` raises. After any of these the child is dead.
    """

    def __init__(self, stop: Stop, log: Callable[[bytes], None]) -> None:
        self._stop, self._log, self._logged = stop, log, 0
        self._ends = ExitStack()
        process = self._ends.enter_context(started([sys.executable, "-I", str(_CHILD), str(os.getpid())], {}))
        assert process.stdin  # noqa: S101 - pipes were asked for
        assert process.stdout  # noqa: S101
        assert process.stderr  # noqa: S101
        self._stdin, self._stdout, self._stderr = (
            pipe.fileno() for pipe in (process.stdin, process.stdout, process.stderr)
        )
        self._closed = False
        self._left = memoryview(_framed({"do": "load"}, b""))
        self._held = bytearray()
        self._loading = True

    def ask(self, do: str, payload: bytes = b"", *, timeout_s: float, most: int = 0, **told: Any) -> Answer:
        """One order; the answer holds at most ``most`` bytes of data.

        Raises also `OrderError`, behind which the child goes on.
        """
        if self._closed:
            raise FaultError(Fault.FLASHER_FAILED, f"{do}: the flasher is dead already")
        end = time.monotonic() + timeout_s
        try:
            if self._loading:
                _succeeded(self._answer(end, "load", 0))
                self._loading = False
            self._left = memoryview(_framed({"do": do, **told}, payload))
            answer = self._answer(end, do, most)
        except (FaultError, OSError) as error:
            self.close()
            if isinstance(error, FaultError):
                raise
            raise FaultError(Fault.FLASHER_FAILED, f"{do}: {error.strerror}") from None
        return _succeeded(answer)

    def close(self) -> None:
        """End the child now, whatever it does. Closing twice does no harm."""
        self._closed = True
        self._ends.close()

    def _answer(self, end: float, do: str, most: int) -> Answer:
        while True:
            self._stop.check()
            if time.monotonic() > end:
                raise FaultError(Fault.FLASHER_LATE, f"{do}: no answer of the flasher in time")
            ready, room, _ = select.select(
                [self._stdout, self._stderr], [self._stdin] if self._left else [], [], _TICK_S
            )
            if self._stderr in ready:
                self._take_log()
            if room:
                self._left = self._left[os.write(self._stdin, self._left[:_CHUNK]) :]
            if self._stdout in ready:
                chunk = os.read(self._stdout, _CHUNK)
                if not chunk:
                    self._take_log()
                    raise FaultError(
                        Fault.FLASHER_FAILED, f"{do}: the flasher died; the transcript holds its last words"
                    )
                self._held += chunk
                if (answer := self._parsed(do, most)) is not None:
                    return answer

    def _parsed(self, do: str, most: int) -> Answer | None:
        """The answer, once all of it is there."""
        if len(self._held) < _LENGTH.size:
            return None
        length = _LENGTH.unpack_from(self._held)[0]
        start = _LENGTH.size + length
        if length > _TEXT_MAX:
            raise FaultError(Fault.FLASHER_FAILED, f"{do}: an answer of {length} bytes")
        if len(self._held) < start:
            return None
        try:
            values = json.loads(self._held[_LENGTH.size : start])
            size = int(values.pop("payload"))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise FaultError(Fault.FLASHER_FAILED, f"{do}: an answer that is none") from None
        if size > most:
            raise FaultError(Fault.FLASHER_FAILED, f"{do}: {size} bytes of data where at most {most} were asked")
        if len(self._held) < start + size:
            return None
        data = bytes(self._held[start : start + size])
        self._held[:] = bytes(len(self._held))  # it may have held the unit's key
        self._held.clear()
        return Answer(values, data)

    def _take_log(self) -> None:
        try:
            chunk = os.read(self._stderr, _CHUNK)
        except BlockingIOError:
            return
        kept = chunk[: LOG_MAX - self._logged]
        self._logged += len(kept)
        if kept:
            self._log(kept)


def _framed(order: dict[str, Any], payload: bytes) -> bytes:
    text = json.dumps({**order, "payload": len(payload)}).encode()
    return _LENGTH.pack(len(text)) + text + payload


def _succeeded(answer: Answer) -> Answer:
    if "error" in answer.values:
        raise OrderError(str(answer.values["error"]), str(answer.values["detail"]))
    return answer
