"""Performs an act in a process of its own that is killed at a write: what ``kill -9``, or the power, does.

A fork, for it has everything loaded: a start of Python for each of a hundred goes would take minutes.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

from station import ceremony
from station.ceremony import People, journal
from station.config import load_ceremony

_PATIENCE_S = 40.0


def _go(file: Path, writes: int, *, undo: bool) -> int:
    """Perform the act; SIGKILL instead of the write or move after so many, with half of a write on the disk."""
    real, move, done = journal.write_whole, shutil.move, 0

    def cut(path: Path, content: bytes, mode: int) -> None:
        nonlocal done
        if done == writes:
            path.with_name(f".{path.name}.new").write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        real(path, content, mode)

    def cut_move(source: Path, target: Path) -> None:
        nonlocal done
        if done == writes:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        move(source, target)

    journal.write_whole = cut
    vars(journal)["shutil"] = SimpleNamespace(move=cut_move)
    people = People("Lan", lambda _: None, lambda *_: False)
    act = load_ceremony(file)
    if undo:
        ceremony.undo(act, file, people)
        return 0
    return 0 if ceremony.perform(act, file, people) else 4


def cut_after(file: Path, writes: int, *, undo: bool = False) -> int:
    """The exit code of one go: 0 complete, 4 it waits, -9 killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the worker's other thread only listens to xdist
        pid = os.fork()
    if not pid:
        code = 70
        try:
            code = _go(file, writes, undo=undo)
        finally:
            os._exit(code)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"the act hangs: {file}")
        time.sleep(0.005)


def cut_everywhere(file: Path, *, undo: bool = False) -> tuple[int, int]:
    """Every go is killed after one step of progress (its first write notes who performs); returns code and goes."""
    for goes in range(1, 60):
        code = cut_after(file, 2 if goes > 1 else 1, undo=undo)
        if code != -signal.SIGKILL:
            return code, goes
    raise AssertionError("the act never came to its end")
