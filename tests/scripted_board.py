"""A firmware for tests on a pty, with a codec of its own: it says exactly the bytes that a test wants said."""

from __future__ import annotations

import os
import re
import select
import termios
import threading
import tty
import zlib
from collections.abc import Callable

REQUEST = re.compile(rb">S1 (\d+) ([a-z]+)((?: [a-z0-9_]+=\S+)*) #([0-9a-f]{8})")
HELLO = "proto=1 serial=SN-1 chip=CHIP-1 model=demo-board fw=1.0.0 boot=1 line=512"
Answer = Callable[["ScriptedBoard", int, str, dict[str, str]], None]


def frame(seq: int, status: str, values: str) -> bytes:
    """One reply frame, with its line end."""
    body = f"<S1 {seq} {status} {values}".encode("latin-1")
    return body + b" #%08x\r\n" % zlib.crc32(body)


class ScriptedBoard:
    """``answer(board, seq, command, values)`` is called for each good request; it says what it likes."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        settings = termios.tcgetattr(self._slave)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(self._slave, termios.TCSANOW, settings)
        self.port = os.ttyname(self._slave)
        self.asked: list[tuple[int, str, dict[str, str]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def say(self, raw: bytes) -> None:
        """Put bytes on the wire, for as long as anybody takes them."""
        left = memoryview(raw)
        while left and not self._over.is_set():
            if select.select([], [self._master], [], 0.05)[1]:
                left = left[os.write(self._master, left[:512]) :]

    def ok(self, seq: int, values: str) -> None:
        self.say(frame(seq, "ok", values))

    def vanish(self) -> None:
        """As an unplugged USB adapter: the slave's readers see the end."""
        self._over.set()

    def _serve(self) -> None:
        held = b""
        while not self._over.is_set():
            if not select.select([self._master], [], [], 0.02)[0]:
                continue
            held += os.read(self._master, 4096)
            *lines, held = held.split(b"\n")
            for line in lines:
                found = REQUEST.search(line)
                if found and zlib.crc32(line[found.start() : found.end() - 10]) == int(found[4], 16):
                    pairs = dict(part.split("=", 1) for part in found[3].decode().split())
                    self.asked.append((int(found[1]), found[2].decode(), pairs))
                    self._answer(self, *self.asked[-1])
        os.close(self._slave)
        os.close(self._master)

    def end(self) -> None:
        self._over.set()
        self._thread.join()
