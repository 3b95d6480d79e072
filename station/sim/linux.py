"""A Linux gateway's serial console: real ``login(1)``, shell and ``openssl`` in a chroot, on a pty.

``python -m station.sim.linux LINK --serial SN ...``. The programs are busybox's and this machine's own; what stands
around them is the port (`relay`), a reboot that ends the session, and the power, which goes when stdin closes. A
chroot and a login need root.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import uuid
from pathlib import Path

from station.sim import relay, terminal
from station.sim.board_wire import Wire
from station.sim.relay import Relay
from station.sim.terminal import Serving

_BUSYBOX = "/bin/busybox"
_FOLDERS = (
    *("bin", "sbin", "dev", "etc", "tmp", "root", "run", "usr"),
    *("proc/sys/kernel/random", "proc/device-tree", "sys/class/net/eth0"),
)
_TOOLS = ("openssl", "mosquitto_pub")
_KERNEL = b"\r\n[%7d.123456] usb 1-1: new high-speed USB device number 7 using xhci_hcd\r\n"
_NOISY_PIECE = 20
_EDITED = 1_000
_BOOT = b"\r\n[    0.000000] Booting Linux on physical CPU 0x0\r\nStarting network: OK\r\n\x1b[0m\r\nGateway 2.1\r\n"
_RESTART_S = 0.3
PASSWORD = "correct-horse"  # noqa: S105 - a simulated gateway's
_KNOWN = {
    "line-editor": ("", "its shell has a line editor that takes 1,000 characters; `read` does without it"),
    "read-only": ("", "its folder cannot be written"),
    "flip": ("", "its certificate reads back with one byte changed"),
}


def build(root: Path, names: dict[str, str]) -> None:
    """A small Linux under ``root``, where there is none yet: busybox, openssl with its libraries, login, identity."""
    if not (root / "bin" / "busybox").exists():
        for name in _FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy2(_BUSYBOX, root / "bin" / "busybox")
        for applet in subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet not in {"busybox", "reboot"}:
                (root / "bin" / applet).symlink_to("busybox")
        for tool in _TOOLS:
            _copy_program(root, tool)
        for name, major_minor in (("null", (1, 3)), ("urandom", (1, 9)), ("random", (1, 8)), ("zero", (1, 5))):
            os.mknod(root / "dev" / name, 0o020666, os.makedev(*major_minor))
            (root / "dev" / name).chmod(0o666)
        _accounts(root)
        reboot = root / "sbin" / "reboot"
        reboot.write_text("#!/bin/sh\n: >/run/reboot\nsleep 1\n")
        reboot.chmod(0o755)
    (root / "proc/device-tree/serial-number").write_text(names["serial"] + "\0")
    (root / "sys/class/net/eth0/address").write_text(names["chip"] + "\n")
    (root / "proc/device-tree/model").write_text(names["model"] + "\0")
    (root / "etc/version").write_text(names["firmware"] + "\n")


def _accounts(root: Path) -> None:
    hashed = subprocess.run(
        ["/usr/bin/openssl", "passwd", "-6", "-stdin"],
        input=PASSWORD + "\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/shadow").write_text(f"root:{hashed}:19000:0:99999:7:::\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/profile").write_text("export PATH=/bin:/sbin\n")


def _copy_program(root: Path, name: str) -> None:
    """A program of this machine with the libraries that it names (ldd(1))."""
    found = shutil.which(name)
    if found is None:
        return
    shutil.copy2(found, root / "bin" / name)
    listed = subprocess.run(["/usr/bin/ldd", found], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+\.so\S*)", listed):
        to = root / library.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        if not to.exists():
            shutil.copy2(library, to)


class Gateway:
    """One gateway: its console behind a relay, its session under login."""

    def __init__(self, wire: Wire, asked: argparse.Namespace) -> None:
        self._faults, self._root = asked.faults, asked.store / "root"
        self._relay = Relay(wire, asked.faults, _KERNEL, _NOISY_PIECE)
        self._inner = -1
        self._line, self._edits = bytearray(), False
        build(self._root, {"serial": asked.serial, "chip": asked.chip, "model": asked.model, "firmware": asked.fw})
        self._boot()

    def serve(self) -> None:
        """Pass on until the power goes."""
        asked_for = self._root / "run/reboot"
        try:
            while True:
                if self._relay.pass_on(self._inner, self._edited):
                    self._reboot()
                elif self._session.poll() is not None:
                    self._end_session()
                    self._log_in()
                elif asked_for.exists() and "no-restart" in self._faults:
                    asked_for.unlink()
                elif asked_for.exists():
                    self._reboot()
        finally:
            self._end_session()

    def _boot(self) -> None:
        self._line, self._edits = bytearray(), "line-editor" in self._faults
        (self._root / "run/reboot").unlink(missing_ok=True)
        (self._root / "proc/sys/kernel/random/boot_id").write_text(f"{uuid.uuid4()}\n")
        if "read-only" in self._faults:
            # Root writes through modes: a file where the folder should be refuses even root.
            (self._root / "etc/aws-iot").write_text("")
        self._log_in()

    def _log_in(self) -> None:
        """As getty: a session of its own with the console as its terminal, and login in it."""
        if self._inner >= 0:
            os.close(self._inner)
        self._inner, console = os.openpty()
        name = os.ttyname(console)

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(os.open(name, os.O_RDWR), termios.TIOCSCTTY, 0)

        self._session = subprocess.Popen(
            ["/usr/sbin/chroot", str(self._root), "/bin/login"],
            stdin=console,
            stdout=console,
            stderr=console,
            env={"PATH": "/bin:/sbin", "TERM": "linux"},
            preexec_fn=own_terminal,  # noqa: PLW1509 - one thread
        )
        os.close(console)

    def _edited(self, piece: bytes) -> bytes:
        """What a line editor leaves of a line."""
        if not self._edits:
            return piece
        kept = bytearray()
        for byte in piece:
            ends = byte in b"\r\n\x15"
            if ends:
                self._edits &= b"read -r" not in self._line
                self._line.clear()
            elif len(self._line) < _EDITED:
                self._line.append(byte)
            if ends or len(self._line) < _EDITED:
                kept.append(byte)
        return bytes(kept)

    def _end_session(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._session.pid, signal.SIGKILL)
        self._session.wait()

    def _reboot(self) -> None:
        self._end_session()
        if "forget" in self._faults:
            shutil.rmtree(self._root / "etc/aws-iot", ignore_errors=True)
        if "flip" in self._faults:
            file = self._root / "etc/aws-iot/cert.pem"
            text = bytearray(file.read_bytes())
            text[100] = ord("A") if text[100] != ord("A") else ord("B")
            file.write_bytes(bytes(text))
        self._relay.restarted(_RESTART_S)
        self._relay.say(_BOOT)
        self._boot()


def _make(wire: Wire, asked: argparse.Namespace) -> Serving:
    return Gateway(wire, asked)


if __name__ == "__main__":
    known = {**terminal.TROUBLES, **relay.KNOWN, **_KNOWN}
    sys.exit(terminal.run(known, _make, text="A Linux gateway's serial console: login, shell and openssl in a chroot."))
