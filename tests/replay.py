"""A port that answers as a board once did: plays a run's transcript back to a driver."""

from __future__ import annotations

import os
import select
import threading
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from station.transcript import Entry, Way

_PATIENCE_S = 10.0
_QUIET_S = 0.05


def entries_of(talk: dict[str, Any]) -> list[Entry]:
    """What `station unit SERIAL --transcript --json` printed."""
    return [Entry(one["ms"], Way(one["way"]), one["text"].encode("latin-1")) for one in talk["entries"]]


@contextmanager
def replayed(talk: Sequence[Entry]) -> Iterator[str]:
    """The path of a port behind which the board's side of ``talk`` is said, turn by turn, whatever the driver says.

    A turn is all that the board said until the station spoke again. A driver that draws a new nonce or another sequence
    number says other bytes than then: what is played back is the board.
    """
    master, slave = os.openpty()
    tty.setraw(slave)
    over = threading.Event()
    thread = threading.Thread(target=_play, args=(master, list(talk), over))
    thread.start()
    try:
        yield os.ttyname(slave)
    finally:
        over.set()
        thread.join()
        os.close(master)
        os.close(slave)


def _play(master: int, talk: list[Entry], over: threading.Event) -> None:
    for entry in talk:
        if entry.way is Way.SENT:
            _hear(master, over)
        elif entry.way is Way.RECEIVED and not over.is_set():
            os.write(master, entry.data)


def _hear(master: int, over: threading.Event) -> None:
    """Wait until the driver has spoken and is quiet again."""
    end, heard = time.monotonic() + _PATIENCE_S, False
    while not over.is_set() and time.monotonic() < end:
        if select.select([master], [], [], _QUIET_S)[0]:
            os.read(master, 65_536)
            heard = True
        elif heard:
            return
