"""A board that runs the real MicroPython (its Unix port), as a process on a pty: ``python -m station.sim.micropython``.

Nothing of the firmware is simulated. What stands around it is: the port (`relay`), and the power, which comes back by
itself after a reset and goes when stdin closes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from station.sim import relay, terminal
from station.sim.board_wire import Wire
from station.sim.relay import Relay, raw_terminal
from station.sim.terminal import Serving

_RUN = "import sys; from micropython_unix import main; sys.argv = ['micropython']; main()"
_LOG = b"\r\n\x1b[0;32mI (%d) wifi: beacon timeout\x1b[0m\r\n"
_NOISY_PIECE = 25
_RESTART_S = 0.05
_KNOWN = {
    "flip": ("", "every piece of the certificate is written with one bit changed"),
    "no-paste": ("", "its firmware has no raw paste"),
}


class Board:
    """One board: the firmware, in the folder that is its flash."""

    def __init__(self, wire: Wire, asked: argparse.Namespace) -> None:
        self._store, self._faults = asked.store, asked.faults
        self._relay = Relay(wire, asked.faults, _LOG, _NOISY_PIECE)
        self._inner, self._console = raw_terminal()
        words = {"serial": asked.serial, "chip": asked.chip, "model": asked.model, "firmware": asked.fw}
        (self._store / "board_identity.py").write_text("".join(f"{name} = {word!r}\n" for name, word in words.items()))
        self._boot()

    def serve(self) -> None:
        """Pass on until the power goes."""
        try:
            while True:
                if self._relay.pass_on(self._inner, self._altered) or self._firmware.poll() is not None:
                    self._restart()
        finally:
            self._end()

    def _boot(self) -> None:
        self._firmware = subprocess.Popen(
            [sys.executable, "-c", _RUN],
            stdin=self._console,
            stdout=self._console,
            stderr=self._console,
            cwd=self._store,
        )

    def _end(self) -> None:
        self._firmware.kill()
        self._firmware.wait()

    def _restart(self) -> None:
        self._end()
        if "forget" in self._faults:
            for file in self._store.glob("*.der"):
                file.unlink()
        self._relay.restarted(_RESTART_S)
        self._boot()

    def _altered(self, piece: bytes) -> bytes:
        if "flip" in self._faults and b"cert.der" in piece and b"put(" in piece:
            at = piece.rindex(b"'") - 8
            piece = piece[:at] + bytes([piece[at] ^ 1 if chr(piece[at] ^ 1).isalnum() else 65]) + piece[at + 1 :]
        if "no-restart" in self._faults:
            piece = piece.replace(b"(getattr(machine", b"# etattr(machine")
        if "no-paste" in self._faults:
            # What firmware before 1.14 makes of it: Ctrl-E is swallowed, Ctrl-A asks for the prompt again.
            piece = piece.replace(b"\x05A\x01", b"\x01")
        return piece


def _make(wire: Wire, asked: argparse.Namespace) -> Serving:
    return Board(wire, asked)


if __name__ == "__main__":
    known = {**terminal.TROUBLES, **relay.KNOWN, **_KNOWN}
    sys.exit(terminal.run(known, _make, text="A board with the real MicroPython on a pty."))
