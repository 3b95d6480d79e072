"""Which slots are out of service, and why: a file, so that a restart does not bring a broken slot back unseen."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from station import disk
from station.faults import Fault, FaultError, readable

_MAX_FILE = 65_536
_MAX_WHY = 200

log = structlog.get_logger()


class SlotService:
    """The slots that people, or three errors in a row, took out of service. Safe from any thread.

    Raises:
        FaultError: `Fault.CONFIG` where the file is there and cannot be read as what was written.
    """

    def __init__(self, file: Path, slots: Iterable[str]) -> None:
        self._file, self._slots = file, frozenset(slots)
        self._turn = threading.Lock()
        self._out: dict[str, str] = _read(file)
        self._wake: list[Callable[[], None]] = []

    def tell(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called at each change: for who waits on something else."""
        self._wake.append(wake)

    def why_out(self, slot: str) -> str | None:
        """Why the slot is out of service, and by whom; None where it works."""
        return self._out.get(slot)

    def disable(self, slot: str, by: str, why: str) -> None:
        """Take a slot out of service, on disk before this returns; what runs in it ends first.

        Raises:
            FaultError: `Fault.NO_SLOT`; `Fault.SLOT_STATE` where the disk does not take it.
        """
        self._known(slot)
        reason = readable(f"{why} (by {by})", _MAX_WHY)
        with self._turn:
            self._write({**self._out, slot: reason})
        log.warning("slot out of service", slot=slot, by=by, why=readable(why, _MAX_WHY))

    def enable(self, slot: str, by: str) -> None:
        """Put a slot into service again; one that is in service stays so. Raises as `disable`."""
        self._known(slot)
        with self._turn:
            self._write({name: why for name, why in self._out.items() if name != slot})
        log.info("slot in service", slot=slot, by=by)

    def _known(self, slot: str) -> None:
        if slot not in self._slots:
            raise FaultError(Fault.NO_SLOT, f"{slot!r} is none of {', '.join(sorted(self._slots))}")

    def _write(self, out: dict[str, str]) -> None:
        try:
            disk.put(self._file, json.dumps(out).encode())
        except OSError as error:
            raise FaultError(Fault.SLOT_STATE, f"{self._file}: {error.strerror}") from error
        self._out = out
        for wake in self._wake:
            wake()


def _read(file: Path) -> dict[str, str]:
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(_MAX_FILE))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FaultError(
            Fault.CONFIG, f"{file} cannot be read ({type(error).__name__}); look at it, then remove it"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(why, str) for why in found.values()):
        raise FaultError(Fault.CONFIG, f"{file} is not as the station writes it; look at it, then remove it")
    return {str(slot): readable(why, _MAX_WHY) for slot, why in found.items()}
