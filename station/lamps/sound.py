"""A sound a result: a command of the station's settings, as a child process that may not take long."""

from __future__ import annotations

import queue
import subprocess
import threading
from typing import Any


class Player(threading.Thread):
    """Plays one sound after the other; of those that come meanwhile, the last few. Never raises, holds up nobody."""

    def __init__(self, sounds: dict[str, Any] | None) -> None:
        super().__init__(name="sounds", daemon=True)
        self._sounds = sounds
        self._waiting: queue.Queue[str] = queue.Queue(maxsize=4)
        self._child: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        if sounds:
            self.start()

    def play(self, name: str) -> None:
        """Play the sound of an outcome, where the settings name one."""
        if self._sounds and self._sounds["files"].get(name) and not self._waiting.full():
            self._waiting.put_nowait(name)

    def stop(self) -> None:
        """No sound more; the one that plays is cut."""
        self._over.set()
        if self._child is not None:
            self._child.kill()

    def run(self) -> None:
        """Play what comes."""
        while not self._over.is_set():
            self._play_one(self._waiting.get())

    def _play_one(self, name: str) -> None:
        assert self._sounds is not None  # noqa: S101 - the thread is started with sounds only
        command = [*self._sounds["command"], self._sounds["files"][name]]
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            self._child.wait(self._sounds["timeout_s"])
        except subprocess.TimeoutExpired:
            self._end_child()
        except OSError:
            return  # no such program: a missing sound stops nothing, and the lamp shows the same

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
