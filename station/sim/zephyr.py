"""A simulated Zephyr board on a pty: ``python -m station.sim.zephyr LINK --serial - --chip HEX ...``.

Its shell is written after Zephyr's ``tls_credentials_shell.c``, ``hwinfo_shell.c`` and ``kernel_shell.c``, its key on
the board after ``nrf_cloud_cred_shell.c`` of the nRF Connect SDK. ``old`` is a firmware whose ``cred buf`` takes pieces
alone, ``new`` one that has ``cred buf load`` too.
"""

from __future__ import annotations

import argparse
import sys
import time

from station.sim import terminal
from station.sim.board_wire import Wire
from station.sim.terminal import Serving, Terminal
from station.sim.zephyr_store import KNOWN, Credentials, ShellError

_PROMPT = b"\x1b[1;32muart:~$ \x1b[m"
_LOG = (
    b"\x1b[0m[00:00:03.104,217] <inf> net_dhcpv4: Received: 192.168.1.7\r\n",
    b"\x1b[1;33m[00:00:07.912,017] <wrn> bt_hci: opcode 0x2005 status 0x0c\r\n\x1b[m",
    b"[00:00:09.000,001] <err> sensor: Stored nothing, credentials found none\r\n",
)
_FIRMWARE = {
    "rx-ring": ("N", "a line of over N characters loses its end: RX ring buffer full"),
    "buffer": ("N", "the credential buffer has N bytes instead of 1024"),
    "no-devid": ("", "the chip has no id that hwinfo could tell"),
    "no-keygen": ("", "the firmware has no nrf_cloud_cred"),
}
_WIDTH = 80


class Shell:
    """Zephyr's shell: echo, prompt, colours, and a line wrap where the terminal ends."""

    def __init__(self, wire: Wire, asked: argparse.Namespace) -> None:
        self._wire, self._faults, self._chip, self._firmware = wire, asked.faults, asked.chip, asked.fw
        self._terminal = Terminal(wire, asked.faults, _LOG)
        self._credentials = Credentials(asked.store, asked.faults, loads=asked.mode == "new")
        self._held = bytearray()
        self._raw: bytearray | None = None  # what `cred buf load` has got so far
        self._began = time.monotonic()

    def serve(self) -> None:
        """Answer until the power goes."""
        self._start()
        while True:
            for byte in self._wire.take():
                if self._raw is None:
                    self._hear(byte)
                else:
                    self._load(byte)

    def _start(self) -> None:
        self._began = time.monotonic()
        self._terminal.say(f"*** Booting Zephyr OS build v{self._firmware} ***\r\n\r\n".encode() + _PROMPT)

    def _hear(self, byte: int) -> None:
        if byte == 0x03:
            self._held.clear()
            self._terminal.say(b"^C\r\n" + _PROMPT)
        elif byte not in b"\r\n":
            self._held.append(byte)
            self._terminal.echo(bytes([byte]) + (b"" if len(self._held) % _WIDTH else b"\r\n"))
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
            self._restart()
            return
        ring = self._faults.number("rx-ring")
        if ring and len(line) > ring:
            self._terminal.say(b"\x1b[1;33m[00:00:11.000,000] <wrn> shell_uart: RX ring buffer full.\r\n\x1b[m")
            line = line[:ring]
        try:
            said = (
                "" if line == b"kernel reboot cold" else self._answer(line.decode("latin-1").replace('"', "").split())
            )
        except ShellError as error:
            said = f"\x1b[1;31m{error}\x1b[m\r\n"
        if self._raw is None:
            said += _PROMPT.decode()
        self._terminal.reply(said.replace("\r\n", "\n").replace("\n", "\r\n").encode("latin-1"))

    def _answer(self, words: list[str]) -> str:
        match words:
            case ["kernel", "version"]:
                return f"Zephyr version {self._firmware}\n"
            case ["kernel", "uptime"]:
                return f"Uptime: {int((time.monotonic() - self._began) * 1000)} ms\n"
            case ["hwinfo", "devid"] if "no-devid" in self._faults:
                raise ShellError("Not supported by hardware")
            case ["hwinfo", "devid"]:
                return f"Length: {len(self._chip) // 2}\nID: 0x{self._chip.lower()}\n"
            case ["cred", "buf", "load"] if self._credentials.loads:
                self._raw = bytearray()
                return self._credentials.clear(quietly=True) + "Input credential, finish with CTRL+C.\n"
            case ["cred", *rest]:
                return self._credentials.obey(rest)
            case ["nrf_cloud_cred", *rest] if "no-keygen" not in self._faults:
                return self._credentials.key(rest)
        raise ShellError(f"{words[0]}: command not found")

    def _load(self, byte: int) -> None:
        """Bytes behind `cred buf load`, as they are, until Ctrl-C. The ring loses what comes too fast."""
        assert self._raw is not None  # noqa: S101 - asked by serve
        if byte != 0x03:
            self._raw.append(byte)
            return
        ring, came = self._faults.number("rx-ring"), bytes(self._raw)
        self._raw = None
        try:
            said = self._credentials.load(came[:ring] if ring else came)
        except ShellError as error:
            said = f"{error}\n"
        self._terminal.reply(said.replace("\n", "\r\n").encode() + _PROMPT)

    def _restart(self) -> None:
        self._credentials.restart()
        self._held.clear()
        self._raw = None
        self._terminal.restarted()
        self._start()


def _make(wire: Wire, asked: argparse.Namespace) -> Serving:
    return Shell(wire, asked)


if __name__ == "__main__":
    sys.exit(
        terminal.run(
            {**terminal.COMMON, **KNOWN, **_FIRMWARE},
            _make,
            modes=("new", "old"),
            text="A simulated board with Zephyr's shell.",
        )
    )
