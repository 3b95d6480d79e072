"""A board that runs the real MicroPython (its Unix port), as a process on a pty: ``python -m station.sim.micropython``.

Nothing of the firmware is simulated. What stands around it is: the pty under a link, the rate of a serial line, noise
between what it says, and the power, which comes back by itself after a reset and goes when stdin closes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import tty
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

_RUN = "import sys; from micropython_unix import main; sys.argv = ['micropython']; main()"
_NOISE = b"\r\n\x1b[0;32mI (%d) wifi: beacon timeout\x1b[0m\r\n"
_RESTART_S = 0.05
_KNOWN = {
    "noise": "a log line into every 25th piece that the board says",
    "no-restart": "its reset does nothing: what was in memory stays",
    "forget": "what it was given is gone after a reset",
    "flip": "every piece of the certificate is written with one bit changed",
    "silent": "it says nothing at all",
    "flood": "it never stops printing",
}


class _PowerOffError(Exception):
    """The board was lifted."""


class _Board:
    """One board: relays between its port and the firmware's console, at the line's rate."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked, self._faults = asked, set(asked.fault)
        self._store: Path = asked.store
        self._outer, self._port = os.openpty()
        self._inner, self._console = os.openpty()
        for end in (self._port, self._console):
            tty.setraw(end)
        self._pieces = 0

    def live(self) -> None:
        """Be plugged in until the power goes."""
        link: Path = self._asked.link
        new = link.with_name(f".#{link.name}.{os.getpid()}")
        new.symlink_to(os.ttyname(self._port))
        new.replace(link)
        self._know_itself()
        firmware = self._boot()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        try:
            while True:
                self._relay()
                if firmware.poll() is not None:
                    time.sleep(_RESTART_S)
                    if "forget" in self._faults:
                        self._forget()
                    firmware = self._boot()
        finally:
            firmware.kill()
            firmware.wait()
            if link.is_symlink() and str(link.readlink()) == os.ttyname(self._port):
                link.unlink()

    def _know_itself(self) -> None:
        asked = self._asked
        words = {"serial": asked.serial, "chip": asked.chip, "model": asked.model, "firmware": asked.fw}
        text = "".join(f"{name} = {word!r}\n" for name, word in words.items())
        (self._store / "board_identity.py").write_text(text)

    def _boot(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", _RUN],
            stdin=self._console,
            stdout=self._console,
            stderr=self._console,
            cwd=self._store,
        )

    def _forget(self) -> None:
        for file in self._store.glob("*.der"):
            file.unlink()

    def _relay(self) -> None:
        power = sys.stdin.fileno()
        ready = select.select([power, self._outer, self._inner], [], [], 0.05)[0]
        if power in ready and not os.read(power, 4096):
            raise _PowerOffError
        if "flood" in self._faults:
            self._say(b"\xff" * 4096)
            return
        if self._outer in ready:
            self._pass(os.read(self._outer, 512), self._inner)
        if self._inner in ready:
            piece = os.read(self._inner, 512)
            self._pieces += 1
            if "noise" in self._faults and self._pieces % 25 == 0:
                piece = piece[:3] + _NOISE % self._pieces + piece[3:]
            if "silent" not in self._faults:
                self._say(piece)

    def _say(self, piece: bytes) -> None:
        if select.select([], [self._outer], [], 0.5)[1]:
            self._pass(piece, self._outer)

    def _pass(self, piece: bytes, to: int) -> None:
        if self._asked.baud_bytes:
            time.sleep(len(piece) / self._asked.baud_bytes)
        if "flip" in self._faults and to == self._inner and b"cert.der" in piece and b"put(" in piece:
            at = piece.rindex(b"'") - 8
            piece = piece[:at] + bytes([piece[at] ^ 1 if chr(piece[at] ^ 1).isalnum() else 65]) + piece[at + 1 :]
        if "no-restart" in self._faults and to == self._inner:
            piece = piece.replace(b"(getattr(machine", b"# etattr(machine")
        while piece:
            piece = piece[os.write(to, piece) :]


def _power_off(_signal: int, _frame: FrameType | None) -> None:
    raise _PowerOffError


def main(arguments: Sequence[str] | None = None) -> int:
    """Be a board until the power goes."""
    faults = "\n".join(f"  {name:12}{text}" for name, text in _KNOWN.items())
    parser = argparse.ArgumentParser(
        "station.sim.micropython",
        description="A board with the real MicroPython on a pty.",
        epilog=f"faults:\n{faults}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("link", type=Path, help="the path at which the board's port appears")
    for name in ("serial", "chip", "model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--fw", default="1.0.0")
    parser.add_argument("--store", type=Path, required=True, help="the folder that is its flash")
    parser.add_argument("--baud-bytes", type=int, default=0, help="bytes a second each way; 11520 is 115200 baud")
    parser.add_argument("--fault", action="append", default=[], choices=sorted(_KNOWN))
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _power_off)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(_PowerOffError):
        _Board(asked).live()
    return 0


if __name__ == "__main__":
    sys.exit(main())
