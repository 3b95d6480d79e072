"""The family that ``docs/new-board.md`` gives as its example, taken from the page and put through the contract."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import select
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from board_contract import BoardContract

from station.boards.enrollment import enroll_here
from station.boards.wire import Wire
from station.credentials import Evidence, Held
from station.family import Family, Limits
from station.faults import Fault, FaultError
from station.model import ChainForm, KeyOrigin, KeyProof, KeyType, Unit

PAGE = (Path(__file__).parent.parent / "docs/new-board.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
# What the page's code takes from elsewhere.
NAMES: dict[str, Any] = {
    one.__name__: one
    for one in (base64, hashlib, re, enroll_here, Wire, Evidence, Held, Family, Limits, Fault, FaultError, ChainForm)
} | {"KeyType": KeyType, "Unit": Unit}
exec(compile(CODE, "docs/new-board.md", "exec"), NAMES)  # noqa: S102 - it is this house's own page
FAMILY: Family = NAMES["FAMILY"]


class Firmware:
    """The other side, as the page tells it, with a log line before each answer."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._stored: dict[str, bytes] = {}
        self._starts = 1
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        os.close(self._slave)
        os.close(self._master)

    def _serve(self) -> None:
        held = b""
        while not self._over.is_set():
            if select.select([self._master], [], [], 0.02)[0]:
                *lines, held = (held + os.read(self._master, 4_096)).split(b"\n")
                for line in filter(None, lines):
                    os.write(
                        self._master, b"\x1b[33mI (812) app: alive\x1b[0m\r\n" + self._answer(line.decode().split())
                    )

    def _answer(self, words: list[str]) -> bytes:
        match words:
            case ["who"]:
                return f"=who SN-1 CHIP-1 demo-board 1.0.0 {self._starts}\r\n".encode()
            case ["put", name, text]:
                self._stored[name] = base64.b64decode(text)
                return f"=put {hashlib.sha256(self._stored[name]).hexdigest()}\r\n".encode()
            case ["sum", name]:
                content = self._stored.get(name)
                return f"=sum {hashlib.sha256(content).hexdigest() if content else '-'}\r\n".encode()
            case ["reboot"]:
                self._starts += 1
        return b""


class TestContract(BoardContract):
    driver = FAMILY.driver
    keys: ClassVar = [(KeyOrigin.STATION, KeyType.P256)]
    proofs: ClassVar = {KeyOrigin.STATION: KeyProof.DIGEST}
    dials = False

    @pytest.fixture
    def port(self) -> Iterator[str]:
        firmware = Firmware()
        yield firmware.port
        firmware.end()


def test_its_limits_are_those_of_a_family() -> None:
    assert FAMILY.limits(None).place_bytes == 4_096
