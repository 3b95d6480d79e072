"""What simulated boards have in common: their arguments, the troubles of every wire, and a command line's output.

``python -m station.sim.FAMILY LINK --serial SN ...``: a process on a pty, as ``station.sim.board`` is for the console
protocol. It ends, and takes its link away, when its stdin closes or on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from station.sim.board_faults import Faults
from station.sim.board_wire import PowerOffError, Wire

FLOOD = b"A" * (4 * 1024 * 1024)
RESTART_S = 0.05

# What every board on a wire can be ordered to do; each family adds its own.
TROUBLES: Mapping[str, tuple[str, str]] = {
    "silent": ("", "never says anything"),
    "half-reply": ("N", "sends half of its Nth reply and is silent from then on"),
    "flood": ("N", "prints 4 MB without a line end instead of its Nth reply"),
    "garbage": ("", "bytes of no meaning come before each reply"),
    "noise": ("", "log lines come before, behind and, now and then, within a reply"),
    "slow": ("MS", "each reply comes so much later"),
    "vanish-at": ("N", "is unplugged when it gets its Nth command"),
    "reset-at": ("N", "restarts once, instead of obeying its Nth command"),
    "renumber": ("", "its port goes as it restarts, and comes back as another one"),
    "no-restart": ("", "answers a reset and does not restart"),
    "never-back": ("", "is silent after a reset"),
    "forget": ("", "a restart loses what was stored"),
}
# And what every command line can.
COMMON: Mapping[str, tuple[str, str]] = {
    **TROUBLES,
    "no-echo": ("", "does not echo what it receives"),
    "bad-csr-signature": ("", "the CSR's signature does not verify"),
    "flip": ("", "what is stored as the chain reads back otherwise"),
}


class Serving(Protocol):
    """A board that answers until the power goes."""

    def serve(self) -> None:
        """Answer; ends by `PowerOffError` alone."""


Make = Callable[[Wire, argparse.Namespace], Serving]


def garbage(number: int) -> bytes:
    """A line of bytes of no meaning, another one for each number."""
    digest = hashlib.sha256(number.to_bytes(4, "big")).digest()
    return b"\x00\xff\xfe" + digest.replace(b"\n", b"").replace(b"\r", b"") + b"\r\n"


class Terminal:
    """The console's output, with the faults that are the same for every command line."""

    def __init__(self, wire: Wire, faults: Faults, log: Sequence[bytes]) -> None:
        self._wire, self._faults, self._log = wire, faults, log
        self._mute = "silent" in faults
        self._commands = self._replies = self._logged = 0

    def echo(self, data: bytes) -> None:
        """What came, back to the sender."""
        if "no-echo" not in self._faults:
            self.say(data)

    def due(self) -> bool:
        """Count one more command; whether the board restarts instead of obeying it."""
        self._commands += 1
        if self._commands == self._faults.number("vanish-at"):
            raise PowerOffError
        return self._commands == self._faults.number("reset-at")

    def reply(self, data: bytes) -> None:
        """Say what a command printed, with the faults that were ordered."""
        self._replies += 1
        if "slow" in self._faults:
            self._wire.pause(self._faults.number("slow") / 1000)
        if self._replies == self._faults.number("flood"):
            self.say(FLOOD)
            return
        if self._replies == self._faults.number("half-reply"):
            self.say(data[: len(data) // 2])
            self._mute = True
            return
        if "garbage" in self._faults:
            self.say(garbage(self._replies))
        self.say(self._noisy(data) if "noise" in self._faults else data)

    def say(self, data: bytes) -> None:
        """Put bytes on the wire, unless the board has fallen silent."""
        if not self._mute:
            self._wire.send(data)

    def restarted(self) -> None:
        """What becomes of the console when the board restarts: its input is lost."""
        self._mute = self._mute or "never-back" in self._faults
        if "renumber" in self._faults:
            self._wire.renumber(RESTART_S)
            return
        self._wire.pause(RESTART_S)
        self._wire.discard()

    def log_line(self) -> bytes:
        """The next line of the firmware's log."""
        self._logged += 1
        return self._log[self._logged % len(self._log)]

    def _noisy(self, data: bytes) -> bytes:
        """Log lines around the reply, and every third time behind its first line, as a logging thread prints them."""
        head, end, rest = data.partition(b"\n")
        if end and rest and self._replies % 3 == 0:
            return head + end + self.log_line() + rest
        return self.log_line() + data + self.log_line()


def run(
    known: Mapping[str, tuple[str, str]],
    make: Make,
    *,
    text: str,
    modes: Sequence[str] = ("",),
    more: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> int:
    """Be a board of a family until the power goes.

    Args:
        known: all faults that the family can be ordered to have.
        make: what puts the board on its wire.
        text: what ``--help`` says of the family.
        modes: the kinds of firmware that ``--mode`` may name; the first is what it is without one.
        more: adds the family's own arguments.
    """
    parser = _parser(known, modes, text)
    more(parser)
    asked = parser.parse_args()
    try:
        asked.faults = Faults(asked.fault, known)
    except ValueError as error:
        parser.error(str(error))
    asked.store.mkdir(parents=True, exist_ok=True)
    try:
        signal.signal(signal.SIGTERM, _power_off)
        signal.signal(signal.SIGINT, _power_off)
        with Wire(asked.link, asked.baud_bytes) as wire:
            try:
                board = make(wire, asked)
                sys.stdout.write("ready\n")
                sys.stdout.flush()
                board.serve()
            finally:
                sys.stderr.write(f"the wire: {wire.came} bytes came, {wire.went} went, {wire.floor_s:.2f} s\n")
    except PowerOffError:
        pass
    return 0


def _parser(known: Mapping[str, tuple[str, str]], modes: Sequence[str], text: str) -> argparse.ArgumentParser:
    faults = "\n".join(f"  {name + ('=' + form if form else ''):32}{told}" for name, (form, told) in known.items())
    parser = argparse.ArgumentParser(
        description=text, epilog=f"faults:\n{faults}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("link", type=Path, help="the path at which the board's port appears")
    parser.add_argument("--serial", required=True)
    parser.add_argument("--chip", required=True, help="the chip's id")
    parser.add_argument("--model", required=True)
    parser.add_argument("--fw", default="1.0.0", help="the firmware's version")
    parser.add_argument("--store", type=Path, required=True, help="the folder that is its flash")
    parser.add_argument("--mode", choices=modes, default=modes[0], help="the kind of firmware")
    parser.add_argument("--baud-bytes", type=int, default=0, help="bytes a second each way; 11520 is 115200 baud")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[=ARG]")
    return parser


def _power_off(_signal: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a second one must not cut the clearing up short
    raise PowerOffError


def keep(folder: Path, name: str, data: bytes) -> None:
    """Write one file of a board's flash: whole or not at all, for its owner alone."""
    new = folder / f".#{name}"
    descriptor = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - opened by its descriptor, for its mode
        file.write(data)
    new.replace(folder / name)


def kept(folder: Path, name: str) -> bytes | None:
    """One file of a board's flash; None where it is not there."""
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        return None
