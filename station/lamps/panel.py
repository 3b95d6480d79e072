"""The station's end of the lamps: follows the status, and keeps a guardian process that shows it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from station.config.messages import Messages
from station.lamps.guardian import RECORD_MAX
from station.lamps.meaning import describe, describe_line, line_signal, signal
from station.lamps.signals import Signal
from station.status import SlotState, StationStatus, StatusBoard

_TICK_S: Final = 1.0
_AGAIN_S: Final = 1.0
_END_S: Final = 0.5
_SECRETS: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "CREDENTIALS_DIRECTORY")
WHOLE_LINE: Final = ""  # the name under which the line's own lamp goes

log = structlog.get_logger()


class Panel(threading.Thread):
    """Every lamp at its slot's present status. What is wrong with a lamp is logged and shown, and never stops the line.

    Args:
        status: what to follow, and where trouble with lamps is told.
        lamps: plain settings, each with its ``slot`` and ``kind``; see `station.config.lamps`.
        messages: the station's language, for lamps that speak.
        lock: a file beside the control socket; who holds it holds the lamps.
        sounds: plain settings of sounds, or None.
        silence_s: a guardian that says nothing for so long is replaced; and without a word from here it shows that
            there is no station.
    """

    def __init__(
        self,
        status: StatusBoard,
        lamps: Sequence[Mapping[str, Any]],
        messages: Messages,
        lock: Path,
        *,
        sounds: Mapping[str, Any] | None = None,
        silence_s: float = 5.0,
    ) -> None:
        super().__init__(name="lamps")
        self._status, self._messages = status, messages
        self._opening = {
            "lamps": list(lamps),
            "sounds": sounds,
            "lock": str(lock),
            "silence_s": silence_s,
            "no_station": messages.word("no station"),
        }
        self._child: _Child | None = None
        self._told: dict[str, Any] = {}
        self._spoken: dict[str, str] = {}
        self._over = threading.Event()

    def stop(self) -> None:
        """End: the lamps show that there is no station."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Follow the status until `stop`."""
        while not self._over.is_set():
            now = self._status.now()
            if self._keep_child():
                self._tell(now)
            self._status.wait(now.version, _TICK_S)
        if self._child:
            self._child.leave()

    def _keep_child(self) -> bool:
        """Whether there is a guardian that listens; start one where there is none."""
        if self._child and not self._child.alive():
            log.error("the lamps' guardian is gone; another one starts", detail=self._child.why)
            self._child.kill()
            self._child = None
            self._over.wait(_AGAIN_S)
        if not self._child:
            self._told = {}
            try:
                self._child = _Child(self._opening)
            except OSError as error:
                log.error("the lamps' guardian does not start", detail=str(error))  # noqa: TRY400 - the detail says it
                self._over.wait(_AGAIN_S)
        return self._child is not None

    def _tell(self, now: StationStatus) -> None:
        """Send what differs from what the guardian knows; nothing new is a sign of life."""
        assert self._child is not None  # noqa: S101 - just kept
        wanted = self._wanted(now)
        new = {slot: told for slot, told in wanted.items() if self._told.get(slot) != told}
        if self._child.send({"show": new}):
            self._told = wanted
        trouble = self._child.trouble
        if trouble != self._spoken:
            for slot in trouble.keys() - self._spoken.keys():
                log.warning("a lamp does not work", slot=slot, detail=trouble[slot])
            for slot in self._spoken.keys() - trouble.keys():
                log.info("a lamp works again", slot=slot)
            self._spoken = trouble
            self._status.post_lamps(tuple(sorted(trouble.items())))

    def _wanted(self, now: StationStatus) -> dict[str, Any]:
        stopped = now.andon is not None
        wanted = {
            slot.slot: _told(signal(slot, stopped=stopped), describe(slot, now.andon, self._messages))
            for slot in now.slots
        }
        out = any(slot.state is SlotState.OUT for slot in now.slots)
        wanted[WHOLE_LINE] = _told(line_signal(stopped=stopped, out=out), describe_line(now, self._messages))
        return wanted


def _told(shown: Signal, text: str) -> dict[str, Any]:
    return {"colours": sorted(shown.colours), "pattern": shown.pattern, "sound": shown.sound, "text": text}


class _Child:
    """One guardian process and the socket to it."""

    def __init__(self, opening: Mapping[str, Any]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003 - the library's word
        self._channel = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "station.lamps.guardian"],
                stdin=theirs.fileno(),
                env={name: value for name, value in os.environ.items() if name not in _SECRETS},
                start_new_session=True,  # a Ctrl-C at a terminal is for the station alone
            )
        self._heard, self._silence_s = time.monotonic(), float(opening["silence_s"])
        self.trouble: dict[str, str] = {}
        self.why = ""
        self.send(opening)

    def send(self, record: Mapping[str, Any]) -> bool:
        """Send one record; False where the guardian does not take it now."""
        try:
            self._channel.send(json.dumps(record, ensure_ascii=False).encode())
        except OSError as error:
            self.why = str(error)
            return False
        return True

    def alive(self) -> bool:
        """Whether it runs, and has said something lately; takes in what it says."""
        try:
            while select.select([self._channel], [], [], 0)[0]:
                record = self._channel.recv(RECORD_MAX)
                if not record:
                    break
                self.trouble, self._heard = json.loads(record)["trouble"], time.monotonic()
        except OSError as error:
            self.why = str(error)
        if self._process.poll() is not None:
            self.why = f"it ended with {self._process.returncode}"
            return False
        if time.monotonic() - self._heard > self._silence_s:
            self.why = f"it said nothing for {self._silence_s:g} s"
            return False
        return True

    def leave(self) -> None:
        """Close our end: it shows that there is no station. It ends, or stays to hold the lights."""
        self._channel.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.returncode = 0  # it holds lights, or a lamp hangs: init takes it over

    def kill(self) -> None:
        """End it now."""
        self._channel.close()
        self._process.kill()
        self._process.wait()
