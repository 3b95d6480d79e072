"""A command line on a wire: what the families that talk to a shell, a CLI or an AT host have in common.

Their boards print what they like in between, lose bytes and restart by themselves. So each piece of work is one that
may be done twice, and is done again, behind a fresh prompt, where an answer was lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, TypeVar

from station.boards.wire import Never, Wire
from station.faults import Fault, FaultError
from station.interfaces import Stop
from station.model import Call, Ending, Product
from station.transcript import Transcript

_T = TypeVar("_T")


class LostError(Exception):
    """An answer came damaged, or the board lost a part of what it was told: worth doing once more."""


class CommandLine:
    """One unit's port for one run, and a command line behind it. A family subclasses it.

    Raises:
        FaultError: as `Wire`. Every method: `Fault.UNIT_SILENT`, `Fault.UNIT_GARBLED`, `Fault.UNIT_REFUSED`,
            `Fault.LIFTED`, and what ``stop`` raises.
    """

    SYNC_S: ClassVar = 1.0  # an empty line is answered at once
    SHORT_S: ClassVar = 3.0
    STORE_S: ClassVar = 10.0  # flash, and in a protected storage a write of several blocks
    KEYGEN_S: ClassVar = 30.0
    RESTART_S: ClassVar = 10.0
    QUIET_S: ClassVar = 0.05
    PROBE_S: ClassVar = 0.3
    TRIES: ClassVar = 3

    def __init__(self, port: str, product: Product, stop: Stop, transcript: Transcript) -> None:
        self._product, self._stop = product, stop
        self._wire = Wire(port, product.baud, stop, transcript)
        self._ready = False

    @classmethod
    def probe(cls, port: str, product: Product) -> bool:
        """Whether the command line answers at ``port`` within a moment; whatever it says. For `Family.probe`."""
        try:
            board = cls(port, product, Never(), Transcript())
        except FaultError:
            return False
        try:
            board._knock(cls.PROBE_S)
        except FaultError as error:
            return error.fault is Fault.UNIT_GARBLED
        finally:
            board.close()
        return True

    def flash(self) -> None:
        """Refused: a command line carries no firmware."""
        raise FaultError(Fault.CONFIG, f"the family {self._product.driver} flashes no firmware")

    def dial(self, _call: Call) -> Ending:
        """Refused: a command line makes no connection that it would tell of."""
        raise FaultError(Fault.UNIT_CANNOT_DIAL, f"the family {self._product.driver} makes no MQTT connection")

    def close(self) -> None:
        """Give the port back. Never raises."""
        self._wire.close()

    def _knock(self, total_s: float) -> None:
        """Have the command line say anything that only it says."""
        raise NotImplementedError

    def _wake(self) -> None:
        """End whatever half line is in the board, and see its prompt. Raises `LostError` where that is none."""
        raise NotImplementedError

    def _uptime(self) -> int:
        """Milliseconds since the board started."""
        raise NotImplementedError

    def _lost(self, error: FaultError) -> bool:
        """Whether a fault may be no more than a lost answer."""
        return error.fault is Fault.UNIT_SILENT

    def _again(self, act: Callable[[], _T]) -> _T:
        """Do what may be done twice, and do it again where an answer was lost or damaged."""
        for attempt in range(1, self.TRIES + 1):
            self._synchronise()
            try:
                return act()
            except LostError as error:
                if attempt == self.TRIES:
                    raise FaultError(Fault.UNIT_GARBLED, str(error)) from None
            except FaultError as error:
                if not self._lost(error) or attempt > 1:
                    raise
            self._ready = False
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    def _synchronise(self, tries: int = TRIES) -> None:
        """Come to a prompt, once the port was opened, the board restarted, or an answer was lost."""
        for attempt in range(1, tries + 1):
            if self._ready:
                return
            try:
                self._wake()
            except LostError as error:
                if attempt == tries:
                    raise FaultError(Fault.UNIT_GARBLED, str(error)) from None
            except FaultError as error:
                if error.fault is not Fault.UNIT_SILENT or attempt == tries:
                    raise
            else:
                if attempt > 1:
                    self._wire.drain(self.QUIET_S, self.SYNC_S)  # the late answer to a former try
                self._ready = True

    def _restart(self, command: bytes) -> None:
        """Restart by ``command``, through a vanishing port if need be; the uptime must show it.

        Raises also `Fault.UNIT_RESET`.
        """
        self._again(self._uptime)
        began = time.monotonic()
        self._wire.write(command)
        self._come_back()
        # Who restarted has not been up for longer than that.
        up, passed = self._again(self._uptime), (time.monotonic() - began) * 1000
        if up > passed:
            raise FaultError(Fault.UNIT_RESET, f"up for {up} ms, {passed:.0f} ms after the reset: it did not restart")

    def _come_back(self) -> None:
        self._ready = False
        self._wire.through_restart(lambda: self._synchronise(round(self.RESTART_S / self.SYNC_S)), self.RESTART_S)
