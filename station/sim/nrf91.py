r"""A simulated nRF91 on a pty: ``python -m station.sim.nrf91 LINK --serial IMEI ...``.

Two firmwares, after the nRF Connect SDK. ``at`` is its AT host (``at_host.c``): a line ends with CR LF, but not within
double quotes; a line of over 4,096 bytes is dropped. ``shell`` is its AT shell (``at_shell.c``): ``at '<command>'`` at
a prompt; in AT%CMNG=0 it makes CR LF of each ``\n``, where it was built with CONFIG_AT_SHELL_UNESCAPE_LF.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from station.sim import nrf91_modem, terminal
from station.sim.board_faults import Faults
from station.sim.board_wire import Wire
from station.sim.terminal import Serving, Terminal

_LINE = 4_096
_PROMPT = b"\x1b[1;32mmosh:~$ \x1b[m"
_LOG = (
    b"[00:00:03.104,217] <inf> modem_antenna: COEX0 set\r\n",
    b"%CESQ: 54,2,16,2\r\n",
    b'+CEREG: 2,"AF66","009DE067",7\r\n',
    b"\x1b[1;33m[00:00:07.912,017] <wrn> date_time: OK, but the time is old\x1b[0m\r\n",
)
_FIRMWARE = {
    "cut": ("", "the firmware was built with a line buffer of 256 bytes"),
    "keeps-escapes": ("", "the shell was built without CONFIG_AT_SHELL_UNESCAPE_LF"),
}


class Host:
    """The AT host: commands as they are, each answered on lines of its own."""

    def __init__(self, wire: Wire, modem: nrf91_modem.Modem, faults: Faults) -> None:
        self._wire, self._modem, self._faults = wire, modem, faults
        self._terminal = Terminal(wire, faults, _LOG)
        self._line = 256 if "cut" in faults else _LINE
        self._held = bytearray()

    def serve(self) -> None:
        """Answer until the power goes."""
        self._terminal.say(b"The AT host sample started\r\nReady\r\n")
        while True:
            data = self._wire.take()
            self._terminal.echo(data)
            for command in self._commands(data):
                self._obey(command)

    def _commands(self, data: bytes) -> Iterator[bytes]:
        """The lines that are whole now. A line end within quotes belongs to the line."""
        for byte in data:
            self._held.append(byte)
            if byte != 0x0A or self._held.count(b'"') % 2 or not self._held.endswith(b"\r\n"):
                continue
            line = bytes(self._held[:-2])
            self._held.clear()
            if line:
                yield line

    def _obey(self, command: bytes) -> None:
        if self._terminal.due():
            self._restart()
        elif len(command) > self._line:
            self._terminal.reply(b"ERROR\r\n")
        elif command == b"AT#XRESET":
            self._terminal.reply(b"OK\r\n")
            if "no-restart" not in self._faults:
                self._restart()
        else:
            self._terminal.reply(self._modem.obey(command))
            if command == b"AT+CFUN=0":
                self._modem.forget()
                if "never-back" in self._faults:
                    self._terminal.restarted()

    def _restart(self) -> None:
        self._modem.restart()
        self._held.clear()
        self._terminal.restarted()
        self._terminal.say(b"Ready\r\n")


class Shell:
    """The AT shell: a prompt, an echo, and the modem behind ``at``."""

    def __init__(self, wire: Wire, modem: nrf91_modem.Modem, faults: Faults) -> None:
        self._wire, self._modem, self._faults = wire, modem, faults
        self._terminal = Terminal(wire, faults, _LOG)
        self._held = bytearray()
        self._began = time.monotonic()

    def serve(self) -> None:
        """Answer until the power goes."""
        self._start()
        while True:
            for byte in self._wire.take():
                self._hear(byte)

    def _start(self) -> None:
        self._began = time.monotonic()
        self._terminal.say(b"*** Booting nRF Connect SDK v2.9.0 ***\r\n\r\n" + _PROMPT)

    def _hear(self, byte: int) -> None:
        if byte == 0x03:
            self._held.clear()
            self._terminal.say(b"^C\r\n" + _PROMPT)
        elif byte not in b"\r\n":
            self._held.append(byte)
            self._terminal.echo(bytes([byte]))
        elif self._held or byte == 0x0D:
            line = bytes(self._held)
            self._held.clear()
            self._terminal.echo(b"\r\n")
            self._obey(line)

    def _obey(self, line: bytes) -> None:
        if not line:
            self._terminal.say(_PROMPT)
            return
        if self._terminal.due() or (line == b"kernel reboot cold" and "no-restart" not in self._faults):
            self._modem.restart()
            self._terminal.restarted()
            self._start()
            return
        self._terminal.reply(self._answer(line) + b"\r\n" + _PROMPT)

    def _answer(self, line: bytes) -> bytes:
        if line == b"kernel uptime":
            return f"Uptime: {int((time.monotonic() - self._began) * 1000)} ms".encode()
        if not line.startswith(b"at ") or len(line) > _LINE:
            return line.split(b" ")[0] + b": command not found"
        quoted = line.startswith(b"at '") and line.endswith(b"'")
        command = line[4:-1] if quoted else line[3:]
        if command.startswith(b"AT%CMNG=0,") and "keeps-escapes" not in self._faults:
            command = command.replace(b"\\n", b"\r\n")
        return self._modem.obey(command)


def _make(wire: Wire, asked: argparse.Namespace) -> Serving:
    modem = nrf91_modem.Modem((asked.serial, asked.chip, asked.model, asked.fw), asked.store, asked.faults)
    return (Host if asked.mode == "at" else Shell)(wire, modem, asked.faults)


if __name__ == "__main__":
    sys.exit(
        terminal.run(
            {**terminal.COMMON, **nrf91_modem.KNOWN, **_FIRMWARE},
            _make,
            modes=("at", "shell"),
            text="A simulated nRF91 and its modem.",
        )
    )
