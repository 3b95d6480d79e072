"""A simulated board on a pty, as a process of its own: ``python -m station.sim.board LINK --serial SN ...``.

It ends, and takes its link away, when its stdin closes (its parent is gone) or on SIGTERM or SIGINT. What it answers is
in ``firmware.py``; here are its wire, its chatter, its restarts and its faults.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from station.sim import terminal
from station.sim.board_faults import KNOWN, Faults
from station.sim.board_frames import DamagedError, Fields, RefusalError, Request, frame, parse
from station.sim.board_wire import PowerOffError, Wire
from station.sim.firmware import Firmware, Flash, Identity
from station.sim.terminal import Serving, garbage

_LONG = ("keygen", "dial")  # these say `wait` before and while they work
_WAIT_MS, _WAIT_EVERY_S = 2_000, 0.5
_RESTART_S = 0.05
_FLOOD = 10 * 1024 * 1024
_BANNER = (
    "ESP-ROM:esp32c3-api1-20210207",
    "rst:0x1 (POWERON),boot:0xc (SPI_FAST_FLASH_BOOT)",
    "*** Booting Zephyr OS build v3.7.0 ***",
    "\x1b[0;32mI (23) boot: chip revision: v0.4\x1b[0m",
)
_LOG = (
    "\x1b[0;32mI (%d) wifi:mode : sta\x1b[0m",
    "\x1b[0;33mW (%d) sensor: calibration is 3 days old\x1b[0m",
    "[%08d] <inf> app: heap 83412 free, S1 ok, #00c0ffee",
    "uart:~$ \x1b[m",
)


class Board:
    """What stands on the console: takes lines, answers frames, chatters, restarts."""

    def __init__(self, wire: Wire, identity: Identity, store: Path, faults: Faults) -> None:
        self._wire, self._identity, self._store, self._faults = wire, identity, store, faults
        self._mute = "silent" in faults
        self._replies = 0
        self._pending_reset = "reset-at" in faults
        self._began = time.monotonic()
        self._start()

    def serve(self) -> None:
        """Answer until the power goes."""
        while True:
            line = self._wire.line()
            if "echo" in self._faults and line is not None:
                self._print(line.rstrip(b"\r") + b"\r\n")
            try:
                request = parse(line)
            except DamagedError:
                self._reply(0, "err", {"code": "crc"})
                continue
            if request:
                self._take(request)

    def _start(self) -> None:
        self._firmware = Firmware(self._identity, Flash(self._store), self._faults)
        self._print("".join(f"{line}\r\n" for line in _BANNER).encode())

    def _restart(self) -> None:
        """As by the reset pin: RAM and whatever waits in the input are lost."""
        if "forget" in self._faults:
            Flash(self._store).forget()
        if "renumber" in self._faults:
            self._wire.renumber(_RESTART_S)
        else:
            self._wire.pause(_RESTART_S)
        self._wire.discard()
        self._start()

    def _take(self, request: Request) -> None:
        command = request.command
        if self._faults.at("vanish-at", command):
            raise PowerOffError
        if self._pending_reset and self._faults.at("reset-at", command):
            self._pending_reset = False
            self._restart()
            return
        if command == "hello" and "flood" in self._faults:
            self._print(b"\xff" * _FLOOD)
            return
        try:
            status, fields = "ok", self._work(request)
        except RefusalError as refusal:
            status, fields = "err", refusal.fields
        if "slow" in self._faults:
            self._wire.pause(self._faults.number("slow") / 1000)
        self._reply(request.seq, status, fields)
        self._after(command, status)

    def _after(self, command: str, status: str) -> None:
        """What becomes of the board once its reply is out."""
        if self._faults.at("swap-at", command):
            self._swap()
        if command == "reset" and status == "ok" and "no-boot-change" not in self._faults:
            self._mute = self._mute or "never-back" in self._faults
            self._restart()

    def _swap(self) -> None:
        """Another board hangs on the wire from now on: other names, other flash, other RAM."""
        serial, _, chip = self._faults.rest("swap-at").partition(":")
        if (serial, chip) == (self._identity.serial, self._identity.chip):
            return
        self._identity = replace(self._identity, serial=serial, chip=chip)
        self._store = self._store / f"swapped-{chip}"
        self._start()

    def _work(self, request: Request) -> Fields:
        """Obey; where it may take long, beside the wire, with ``wait`` frames as long as it takes."""
        if request.command not in _LONG:
            return self._firmware.obey(request)
        done: list[Fields | BaseException] = []
        worker = threading.Thread(target=self._obey_into, args=(request, done), daemon=True)
        worker.start()
        while True:
            self._reply(request.seq, "wait", {"ms": _WAIT_MS})
            self._wire.pause_while(worker.is_alive, _WAIT_EVERY_S)
            if done:
                break
        if isinstance(done[0], BaseException):
            raise done[0]
        return done[0]

    def _obey_into(self, request: Request, done: list[Fields | BaseException]) -> None:
        try:
            done.append(self._firmware.obey(request))
        except BaseException as error:  # noqa: BLE001 - the thread's top; raised again in the main thread
            done.append(error)

    def _reply(self, seq: int, status: str, fields: Fields) -> None:
        self._replies += 1
        data = frame(seq, status, fields)
        half = len(data) // 2
        if "half-reply" in self._faults:
            self._print(data[:half])
            self._mute = True
            return
        every = self._faults.number("garble")
        if every and self._replies % every == 0:
            data = data[:half] + bytes([data[half] ^ 0x01]) + data[half + 1 :]
        if "noise" in self._faults and self._replies % 3 == 0:
            data = data[:half] + self._log_line() + data[half:]
        if "garbage" in self._faults:
            self._print(garbage(self._replies))
        self._print(data)
        if self._replies % 3 == 1:
            self._print(self._log_line())

    def _log_line(self) -> bytes:
        line = _LOG[self._replies % len(_LOG)]
        age_ms = int((time.monotonic() - self._began) * 1000)
        return f"{line % age_ms if '%' in line else line}\r\n".encode()

    def _print(self, data: bytes) -> None:
        if not self._mute:
            self._wire.send(data)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server-address", type=_address, metavar="HOST:PORT", help="where every dial leads")
    parser.add_argument("--alpn-port", type=int, default=443, help="the port that means ALPN")


def _make(wire: Wire, asked: argparse.Namespace) -> Serving:
    identity = Identity(asked.serial, asked.chip, asked.model, asked.fw, asked.server_address, asked.alpn_port)
    return Board(wire, identity, asked.store, asked.faults)


if __name__ == "__main__":
    text = "A simulated board that speaks the console protocol on a pty."
    sys.exit(terminal.run(KNOWN, _make, text=text, more=_more))
