"""A foreign program at work for one step of a run: bounded in time and bytes, killed with all that it started.

What it gets of a secret, it gets on its stdin. Its arguments are a list and never a shell's; of the station's own
environment it sees nothing.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Final

from station.faults import Fault, FaultError
from station.interfaces import Stop

OUT_MAX: Final = 65_536  # bytes of an answer
LOG_MAX: Final = 1_048_576  # bytes of a log that are looked at; what comes behind is dropped, not refused

_TICK_S: Final = 0.02  # the stop is looked at so often
_CHUNK: Final = 65_536
_LAST_READS: Final = 64  # of what is left in a pipe: who outlives his group may write for ever
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code (negative: the signal that ended it), and all of its stdout."""

    code: int
    out: bytes


def work(
    arguments: Sequence[str],
    given: bytes,
    *,
    timeout_s: float,
    stop: Stop,
    log: Callable[[bytes], None],
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program to its end; its whole process group is dead when this returns or raises.

    Args:
        arguments: the program's path and its arguments.
        given: what it reads on stdin.
        timeout_s: its time, in seconds.
        stop: the run's stop, looked at every 20 ms.
        log: takes its stderr as it comes, up to `LOG_MAX` bytes.
        environment: beside PATH and LANG.

    Raises:
        FaultError: `Fault.FLASHER_FAILED` where it does not start or says more than `OUT_MAX` bytes;
            `Fault.FLASHER_LATE` past its time; what ``stop`` raises.
    """
    end = time.monotonic() + timeout_s
    with started(arguments, environment or {}) as process:
        talk = _Talk(process, given, log)
        with talk.ready:
            while not talk.step():
                stop.check()
                if time.monotonic() > end:
                    raise FaultError(Fault.FLASHER_LATE, f"{arguments[0]} did not end within {timeout_s:g} s")
            kill(process)
            talk.rest()
        return Ended(process.wait(), bytes(talk.out))


@contextmanager
def started(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The program in a process group of its own, which is dead when this is left; its pipes do not block.

    Raises:
        FaultError: `Fault.FLASHER_FAILED` where it does not start.
    """
    try:
        process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": _PATH, "LANG": "C.UTF-8", **environment},
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise FaultError(Fault.FLASHER_FAILED, f"{arguments[0]} does not start: {text}") from None
    with ExitStack() as ends:
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None  # noqa: S101 - pipes were asked for
            os.set_blocking(pipe.fileno(), False)
            ends.callback(_close, pipe)
        ends.callback(process.wait)
        ends.callback(kill, process)
        yield process


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the group. Its number cannot be another's yet: its leader has not been waited for."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _close(pipe: IO[bytes]) -> None:
    with suppress(OSError):  # what is left in its buffer for a reader that is gone
        pipe.close()


class _Talk:
    """The three pipes of one program, and the news of its end."""

    def __init__(self, process: subprocess.Popen[bytes], given: bytes, log: Callable[[bytes], None]) -> None:
        assert process.stdin  # noqa: S101 - pipes were asked for
        assert process.stdout  # noqa: S101
        assert process.stderr  # noqa: S101
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._given, self._log, self._logged = memoryview(given), log, 0
        self._end = os.pidfd_open(process.pid)
        self.out = bytearray()
        self.ready = ExitStack()
        self.ready.callback(os.close, self._end)
        self._selector = self.ready.enter_context(selectors.DefaultSelector())
        self._selector.register(self._stdin, selectors.EVENT_WRITE, self._give)
        self._selector.register(self._stdout, selectors.EVENT_READ, self._take_out)
        self._selector.register(self._stderr, selectors.EVENT_READ, self._take_log)
        self._selector.register(self._end, selectors.EVENT_READ, lambda: True)

    def step(self) -> bool:
        """Wait a tick for whatever comes; return whether the program has ended."""
        ended = False
        for key, _ in self._selector.select(_TICK_S):
            if key.fileobj == self._end:
                ended = True
            elif not key.data():
                self._selector.unregister(key.fileobj)
        return ended

    def rest(self) -> None:
        """What is left in the pipes."""
        for take in (self._take_out, self._take_log):
            for _ in range(_LAST_READS):
                if not take():
                    break

    def _give(self) -> bool:
        try:
            self._given = self._given[os.write(self._stdin.fileno(), self._given[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            self._given = self._given[:0]  # it wants no more; whether that was right is for its exit code to say
        if not self._given:
            _close(self._stdin)
        return bool(self._given)

    def _take_out(self) -> bool:
        chunk = _read(self._stdout)
        self.out += chunk
        if len(self.out) > OUT_MAX:
            raise FaultError(Fault.FLASHER_FAILED, f"its answer is longer than {OUT_MAX} bytes")
        return bool(chunk)

    def _take_log(self) -> bool:
        chunk = _read(self._stderr)
        kept = chunk[: LOG_MAX - self._logged]
        self._logged += len(kept)
        if kept:
            self._log(kept)
        return bool(chunk)


def _read(pipe: IO[bytes]) -> bytes:
    """What is there; nothing at its end, nor where nothing is there."""
    try:
        return os.read(pipe.fileno(), _CHUNK)
    except BlockingIOError:
        return b""
