"""A jig of simulated boards: plugs them in under a slot's port, lifts them, and ends them all with itself."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Self

_START_S, _END_S = 10.0, 5.0


class JigError(Exception):
    """A simulated board did not start; the text holds what it said."""


class PluggedBoard:
    """One board process, in its slot until it is lifted."""

    def __init__(self, process: subprocess.Popen[bytes], link: Path, store: Path) -> None:
        self._process, self._link, self._store = process, link, store

    @property
    def pid(self) -> int:
        """The board's process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the board's process ended: 0 where it was lifted; None where it has not ended."""
        return self._process.poll()

    def stored(self, item: str) -> Path:
        """The file in which the board keeps ``chain``, ``roots`` or ``key`` (PEM), for strangers to look at."""
        return self._store / f"{item}.pem"

    def lift(self) -> None:
        """Take the board out: its link is gone when this returns. Lifting twice does no harm."""
        self.let_go()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, for a board that must vanish in the middle of a byte."""
        self.let_go()
        self._process.kill()
        self._process.wait()
        if self._link.is_symlink() and not self._link.exists():
            self._link.unlink()

    def let_go(self) -> None:
        """Begin to take the board out."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


class SimJig:
    """Starts boards. A chip keeps its flash under ``folder``, so the same chip plugged in again holds what it held.

    The boards end with this context, and also when this process dies: their stdin closes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boards: list[PluggedBoard] = []

    def plug(
        self,
        port: Path,
        *,
        serial: str,
        chip: str,
        model: str,
        family: str = "board",
        faults: Iterable[str] = (),
        fw: str = "1.0.0",
        baud_bytes: int = 0,
        server_address: str | None = None,
        alpn_port: int = 443,
        mode: str = "",
    ) -> PluggedBoard:
        """Put a board into the slot whose port is ``port``, and wait until it stands there.

        Args:
            port: The path that the slot watches; it must not exist as anything but a board's link.
            serial: The board's serial.
            chip: The chip's id; it names the folder of the board's flash.
            model: The board's model.
            family: Which simulator: ``python -m station.sim.FAMILY --help`` tells its faults.
            faults: Its faults.
            fw: The firmware's version.
            baud_bytes: Bytes a second each way; 0 for no limit.
            server_address: ``HOST:PORT`` where every dial leads, whatever name it was given.
            alpn_port: The port at which the board uses ALPN.
            mode: The kind of firmware, where the family has several.

        Raises:
            JigError: where the board does not start within 10 s.
        """
        store = self._folder / chip
        store.mkdir(parents=True, exist_ok=True)
        log = self._folder / f"{chip}.log"
        named = {"--serial": serial, "--chip": chip, "--model": model, "--fw": fw, "--store": str(store)}
        # With "=": a hostile serial may begin with a dash.
        options = [f"{name}={value}" for name, value in named.items()]
        options += [f"--baud-bytes={baud_bytes}"]
        options += [f"--alpn-port={alpn_port}"] if family == "board" else []
        options += [f"--server-address={server_address}"] if server_address else []
        options += [f"--mode={mode}"] if mode else []
        options += [f"--fault={fault}" for fault in faults]
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", f"station.sim.{family}", *options, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        board = PluggedBoard(process, port, store)
        self._boards.append(board)
        if not _is_ready(process):
            board.kill()
            raise JigError(f"the board did not start: {log.read_text(errors='replace')[-500:]}")
        return board

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for board in self._boards:
            board.let_go()  # all at once, and then wait for each
        for board in self._boards:
            board.lift()


def _is_ready(process: subprocess.Popen[bytes]) -> bool:
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    output = process.stdout.fileno()
    # The word is written at once, so one read gives it whole.
    return bool(select.select([output], [], [], _START_S)[0]) and os.read(output, 16) == b"ready\n"
