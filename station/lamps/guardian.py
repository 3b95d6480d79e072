"""Holds the lamps in a process of its own, ``-m station.lamps.guardian``: they can say that the station is dead.

It is told by records on its standard input (a SOCK_SEQPACKET socket) what each lamp shows, and blinks by itself. Where
the station's end closes, or says nothing for some seconds, every lamp shows that there is no station. It outlives a
SIGKILL of the station, and ends at once where every lamp keeps what it shows by itself, else when the next guardian
asks for the lamps (SIGTERM).

A thread drives each lamp: one that fails or hangs holds up no other. What fails is told to the station.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from station.lamps.kinds import make
from station.lamps.lamp import Lamp
from station.lamps.signals import NO_STATION, Colour, Pattern, Signal, frame
from station.lamps.sound import Player

RECORD_MAX: Final = 196_608  # bytes; below the usual buffer of a socket
_HANGS_S: Final = 3.0  # longer than any lamp needs for one change
_AGAIN_S: Final = 2.0  # between tries with a lamp that is not there
_DARK_S: Final = 2.0  # how long the last change may take before this process ends
_TAKEOVER_S: Final = 5.0


@dataclass(frozen=True)
class Shown:
    """What one lamp shows, since when (``time.monotonic()``)."""

    signal: Signal
    text: str
    since: float = field(default_factory=time.monotonic)


class Driver(threading.Thread):
    """Drives one lamp: opens it, again and again where it is gone, and shows each moment of what it was told."""

    def __init__(self, name: str, lamp: Lamp) -> None:
        super().__init__(name=f"lamp {name}", daemon=True)
        self.slot, self._lamp = name, lamp
        self._changed = threading.Condition()
        self._shown = Shown(Signal(), "")
        self._over = False
        self._working_since: float | None = None
        self._trouble = ""

    @property
    def keeps(self) -> bool:
        """As `Lamp.keeps`."""
        return self._lamp.keeps

    @property
    def trouble(self) -> str:
        """Why the lamp does not show what it should; empty where it does."""
        since = self._working_since
        if since is not None and time.monotonic() - since > _HANGS_S:
            return "it does not answer"
        return self._trouble

    def tell(self, shown: Signal, text: str) -> None:
        """Show this from now on; the same signal with another text goes on in its beat."""
        with self._changed:
            same = shown == self._shown.signal
            if same and text == self._shown.text:
                return
            self._shown = Shown(shown, text, self._shown.since) if same else Shown(shown, text)
            self._changed.notify()

    def finish(self) -> None:
        """Show the moment that it is, and end."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def run(self) -> None:
        """Work until `finish`."""
        is_open = False
        while True:
            with self._changed:
                shown, over = self._shown, self._over
            try:
                self._working_since = time.monotonic()
                if not is_open:
                    self._lamp.open()
                    is_open = True
                now = frame(shown.signal, time.monotonic() - shown.since, dims=self._lamp.dims)
                self._lamp.show(now, shown.text)
                self._trouble, next_s = "", now.next_s
            except Exception as error:  # noqa: BLE001 - a thread's top: drivers and their libraries raise what they like
                self._trouble, next_s = f"{type(error).__name__}: {error}"[:300], _AGAIN_S
                is_open = False
                with contextlib.suppress(Exception):
                    self._lamp.close()
            self._working_since = None
            if over:
                return
            self._until_changed(shown, next_s)

    def _until_changed(self, shown: Shown, next_s: float | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._shown is not shown, next_s)


class Guardian:
    """All lamps of a station."""

    def __init__(self, channel: socket.socket, opening: dict[str, Any]) -> None:
        self._channel = channel
        self._drivers = [Driver(lamp["slot"], make(lamp, lamp["slot"])) for lamp in opening["lamps"]]
        self._no_station = opening["no_station"]
        self._player = Player(opening["sounds"])
        self._silence_s = float(opening["silence_s"])
        self._shown: dict[str, tuple[Signal, str]] = {}

    def serve(self) -> None:
        """Follow the station until it is gone, then show that."""
        self._channel.settimeout(self._silence_s)
        for driver in self._drivers:
            driver.start()
        while True:
            try:
                record = self._channel.recv(RECORD_MAX)
            except TimeoutError:
                self._show_no_station()
                continue
            except OSError:
                record = b""
            if not record:
                break
            self._take(json.loads(record))
            self._answer()
        self._show_no_station()
        self._end()

    def _take(self, record: dict[str, Any]) -> None:
        for slot, told in record["show"].items():
            # What was there before this process began has been heard already.
            sound = told["sound"] if slot in self._shown else ""
            if sound and sound != self._shown[slot][0].sound:
                self._player.play(sound)
            colours = frozenset(Colour(colour) for colour in told["colours"])
            self._shown[slot] = (Signal(colours, Pattern(told["pattern"]), sound), told["text"])
        for driver in self._drivers:
            # All of them, each time: after a silence they show that there is no station.
            if driver.slot in self._shown:
                driver.tell(*self._shown[driver.slot])

    def _answer(self) -> None:
        """Say which lamps are in trouble: also the sign that this process is alive."""
        trouble = {driver.slot: driver.trouble for driver in self._drivers if driver.trouble}
        with contextlib.suppress(OSError):  # the next `recv` tells that nobody is there
            self._channel.send(json.dumps({"trouble": trouble}).encode())

    def _show_no_station(self) -> None:
        for driver in self._drivers:
            driver.tell(NO_STATION, self._no_station)

    def _end(self) -> None:
        self._player.stop()
        if not all(driver.keeps for driver in self._drivers):
            while True:
                signal.pause()  # the light goes as this process goes: the next guardian ends it
        for driver in self._drivers:
            driver.finish()  # once it has shown that; one that hangs is not waited for
        end = time.monotonic() + _DARK_S
        for driver in self._drivers:
            driver.join(max(0.0, end - time.monotonic()))


def take_over(path: Path) -> int:
    """Hold the lock on the lamps, ending the guardian that holds it yet: its station is gone. Returns the open file.

    Raises:
        TimeoutError: where it does not go.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    end = time.monotonic() + _TAKEOVER_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            _ask_to_go(os.pread(handle, 32, 0))
            if time.monotonic() > end:
                raise TimeoutError(f"another process holds {path}") from None
            time.sleep(0.02)
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle


def _ask_to_go(written: bytes) -> None:
    """SIGTERM to the holder; while it holds the lock, the number that it wrote is its own."""
    with contextlib.suppress(ValueError, OSError):
        process = os.pidfd_open(int(written))
        try:
            if b"station.lamps.guardian" in Path(f"/proc/{int(written)}/cmdline").read_bytes():
                signal.pidfd_send_signal(process, signal.SIGTERM)
        finally:
            os.close(process)


def main() -> None:
    """Guard the lamps that the first record names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the station; its end is seen here
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    channel = socket.socket(fileno=os.dup(0))
    opening = json.loads(channel.recv(RECORD_MAX))
    lock = take_over(Path(opening["lock"]))
    try:
        Guardian(channel, opening).serve()
    finally:
        sys.stdout.flush()
        os.close(lock)
    os._exit(0)  # a driver that hangs must not keep this process


if __name__ == "__main__":
    main()
