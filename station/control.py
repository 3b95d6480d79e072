"""The other end of the control socket: what the CLI asks a running station. Small, so that a command starts fast."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from station.faults import Fault, FaultError

_WATCH_S = 20.0
_AGAIN_S = 0.5
_MAX_ANSWER = 64 * 1024 * 1024


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for a Unix socket that fits the 107 bytes of unix(7), however deep its folder is."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _quoted(name: str) -> str:
    """One segment of a path, whatever bytes a shell handed over: the station says what is wrong with them."""
    return quote(name, safe="", errors="surrogateescape")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket (the standard library only knows TCP)."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_path(self._path) as path:
            self.sock.connect(path)


class Control:
    """Requests to a running station. Every call may raise `FaultError`: the station's own, or `Fault.NOT_RUNNING`."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def status(self, newer_than: int = 0, wait_s: float = 0.0) -> dict[str, Any]:
        """The station's status as soon as it is newer than a version."""
        answer: dict[str, Any] = self._ask("GET", f"/v1/status?newer_than={newer_than}&wait_s={wait_s}", wait_s=wait_s)
        return answer

    def changes(self, tell: Callable[[str], None] = lambda _: None) -> Iterator[dict[str, Any]]:
        """The status now, and then each newer one, for ever; a station that ends and starts again is told by ``tell``.

        Raises:
            FaultError: `Fault.NOT_RUNNING` where no station answers at the beginning.
        """
        status = self.status()
        yield status
        while True:
            try:
                newer = self.status(newer_than=status["version"], wait_s=_WATCH_S)
            except FaultError as error:
                if error.fault is not Fault.NOT_RUNNING:
                    raise
                tell("the station does not answer; watching for it to start again")
                status = self._again()
                tell("the station answers again")
                yield status
                continue
            if newer["version"] != status["version"]:
                yield (status := newer)

    def _again(self) -> dict[str, Any]:
        """The status as soon as there is a station."""
        while True:
            time.sleep(_AGAIN_S)
            try:
                return self.status()
            except FaultError as error:
                if error.fault is not Fault.NOT_RUNNING:
                    raise

    def orders(self) -> list[dict[str, Any]]:
        """All work orders with their progress."""
        answer: list[dict[str, Any]] = self._ask("GET", "/v1/orders")
        return answer

    def add_order(self, order: dict[str, Any]) -> None:
        """Open a work order."""
        self._ask("POST", "/v1/orders", order)

    def close_order(self, number: str, by: str) -> None:
        """Close a work order."""
        self._ask("POST", f"/v1/orders/{_quoted(number)}/close", {"by": by})

    def disable_slot(self, slot: str, by: str, why: str) -> None:
        """Take a slot out of service."""
        self._ask("POST", f"/v1/slots/{quote(slot, safe='')}/disable", {"by": by, "why": why})

    def enable_slot(self, slot: str, by: str) -> None:
        """Put a slot into service again."""
        self._ask("POST", f"/v1/slots/{quote(slot, safe='')}/enable", {"by": by})

    def unit(self, serial: str) -> list[dict[str, Any]]:
        """Every run of one unit, oldest first."""
        answer: list[dict[str, Any]] = self._ask("GET", f"/v1/units/{_quoted(serial)}")
        return answer

    def transcript(self, serial: str, run: str | None = None) -> dict[str, Any]:
        """What was said to and by a unit in one run, by default its last: ``run`` and ``entries``."""
        chosen = f"?run={quote(run, safe='')}" if run else ""
        answer: dict[str, Any] = self._ask("GET", f"/v1/units/{quote(serial, safe='')}/transcript{chosen}")
        return answer

    def _ask(self, method: str, path: str, body: object = None, wait_s: float = 0.0) -> Any:
        connection = _UnixConnection(self._path, timeout_s=wait_s + 10.0)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"content-type": "application/json"} if text else {})
            response = connection.getresponse()
            answer = json.loads(response.read(_MAX_ANSWER))
        except PermissionError as error:
            raise FaultError(
                Fault.NOT_RUNNING, f"no permission to use {self._path}; join the station's group"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise FaultError(
                Fault.NOT_RUNNING, f"no station answers on {self._path} ({type(error).__name__}); start it: station run"
            ) from error
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise FaultError(Fault(answer["fault"]), answer["detail"])
        return answer
