"""A real program's console behind a board's port: for families whose firmware need not be simulated.

It passes the bytes on, at the wire's rate, and gives them the troubles of every wire. What the program says
first after the station spoke begins a reply; the program may say it in as many pieces as it likes.
"""

from __future__ import annotations

import os
import tty
from collections.abc import Callable

from station.sim.board_faults import Faults
from station.sim.board_wire import PowerOffError, Wire
from station.sim.terminal import FLOOD, garbage

# Beside `terminal.TROUBLES`.
KNOWN = {"echo": ("", "echoes all that it receives, as an adapter with one wire for both ways")}

_LOOK_S = 0.05
_GONE_S = 0.1
_PIECE = 512


class Relay:
    """The port, and what comes between it and the program.

    ``log`` is a line that cuts into each ``every``th piece where the board was ordered to be noisy; ``%d`` in it is a
    number.
    """

    def __init__(self, wire: Wire, faults: Faults, log: bytes, every: int) -> None:
        self._wire, self._faults, self._log, self._every = wire, faults, log, every
        self._mute = "silent" in faults
        self._asked = False
        self._replies = self._pieces = 0

    def pass_on(self, console: int, altered: Callable[[bytes], bytes] = bytes) -> bool:
        """What there is to pass on either way, if anything comes soon; whether the board shall restart by itself."""
        came, spoke = self._wire.hear(console, _LOOK_S)
        if came:
            if "echo" in self._faults:
                self.say(came)
            self._asked, rest = True, altered(came)
            while rest:
                rest = rest[os.write(console, rest) :]
        if not spoke:
            return False
        try:
            piece = os.read(console, _PIECE)
        except OSError:  # EIO: the program has ended
            return False
        if self._asked:
            self._asked = False
            self._replies += 1
            if self._replies == self._faults.number("reset-at"):
                return True
            piece = self._begun(piece)
        self.say(self._noisy(piece))
        return False

    def say(self, piece: bytes) -> None:
        """Put bytes on the wire, unless the board has fallen silent."""
        if not self._mute:
            self._wire.send(piece)

    def restarted(self, away_s: float) -> None:
        """What becomes of the port while the board restarts: one that renumbers is gone for 100 ms at the most."""
        self._mute = self._mute or "never-back" in self._faults
        gone_s = min(away_s, _GONE_S) if "renumber" in self._faults else 0.0
        if gone_s:
            self._wire.renumber(gone_s)
        self._wire.pause(away_s - gone_s)

    def _begun(self, piece: bytes) -> bytes:
        """What becomes of a reply where it begins."""
        if self._replies == self._faults.number("vanish-at"):
            raise PowerOffError
        if "slow" in self._faults:
            self._wire.pause(self._faults.number("slow") / 1000)
        if "garbage" in self._faults:
            self.say(garbage(self._replies))
        if self._replies == self._faults.number("flood"):
            return FLOOD
        if self._replies == self._faults.number("half-reply"):
            self.say(piece[: len(piece) // 2])
            self._mute = True
        return piece

    def _noisy(self, piece: bytes) -> bytes:
        self._pieces += 1
        if "noise" not in self._faults or self._pieces % self._every:
            return piece
        half = len(piece) // 2
        return piece[:half] + self._log % self._pieces + piece[half:]


def raw_terminal() -> tuple[int, int]:
    """A pty whose slave changes nothing that passes: its master and its slave."""
    master, slave = os.openpty()
    tty.setraw(slave)
    return master, slave
