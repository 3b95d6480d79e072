"""Which ledger this is: a mark beside the file, so that nobody takes a station that lost its record for a new one.

A ledger that is not there would be made anew, and would admit every unit that ever passed. The mark holds the hash of
the ledger's first link, which every backup of it shares and no other ledger has.
"""

from __future__ import annotations

from pathlib import Path

from station import disk
from station.faults import Fault, FaultError

_MAX = 128
_NEXT = "restore its backup: station ledger restore FILE; only where there is none: station ledger begin"


def mark_of(ledger: Path) -> Path:
    """The mark's file."""
    return ledger.with_name(f"{ledger.name}.mark")


def refuse_gone(ledger: Path) -> None:
    """Raise `Fault.LEDGER_GONE` where a ledger was here and is not, or is empty; for before SQLite touches the file.

    Raises:
        OSError: what keeps it from being known.
    """
    if mark_of(ledger).exists() and not (ledger.exists() and ledger.stat().st_size):
        raise FaultError(Fault.LEDGER_GONE, f"{ledger} was here, and is not; {_NEXT}")


def hold(ledger: Path, first: bytes) -> None:
    """Mark the ledger by its first link, or see that it is the one that was marked.

    Raises:
        FaultError: `Fault.LEDGER_GONE` where it is another one.
        OSError: the mark cannot be read or written.
    """
    mark = mark_of(ledger)
    try:
        with mark.open("rb") as file:
            said = file.read(_MAX).strip()
    except FileNotFoundError:
        write(ledger, first)
        return
    if said != first.hex().encode():
        raise FaultError(Fault.LEDGER_GONE, f"{ledger} is another ledger than was here; {_NEXT}")


def write(ledger: Path, first: bytes) -> None:
    """Mark the ledger by its first link, on the disk when this returns; in an older mark's place. Raises OSError."""
    disk.put(mark_of(ledger), first.hex().encode() + b"\n", 0o440)
