"""Which ledger this is: a mark beside the file, so that nobody takes a station that lost its record for a new one.

A ledger that is not there would be made anew, and would admit every unit that ever passed; so would an old copy of it,
put in its place by hand. The mark holds the hash of the ledger's first link, which every backup of it shares and no
other ledger has, and a late one, which an older copy does not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from station import disk
from station.faults import Fault, FaultError

_MAX = 512
_LINE = re.compile(rb"^([0-9]{1,18}) ([0-9a-f]{64})$", re.MULTILINE)
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


def hold(ledger: Path, link: Callable[[int], bytes | None]) -> None:
    """Mark the ledger, or see that it is the one that was marked, and no older.

    Args:
        ledger: its file.
        link: gives the hash of one of its links, by number; None where it has none of that number.

    Raises:
        FaultError: `Fault.LEDGER_GONE` where it is another one, or older.
        OSError: the mark cannot be read or written.
    """
    mark = mark_of(ledger)
    try:
        with mark.open("rb") as file:
            said = file.read(_MAX)
    except FileNotFoundError:
        write(ledger, {1: link(1)})
        return
    for seq, expected in _read(said).items():
        if link(seq) != expected:
            what = "is another ledger than was here" if seq == 1 else "is older than the ledger that was here"
            raise FaultError(Fault.LEDGER_GONE, f"{ledger} {what} (link {seq}); {_NEXT}")


def _read(said: bytes) -> dict[int, bytes]:
    """Links by their numbers. A damaged mark must not keep a whole ledger from its work: what is no line is left."""
    return {int(seq): bytes.fromhex(expected.decode("ascii")) for seq, expected in _LINE.findall(said)}


def write(ledger: Path, links: Mapping[int, bytes | None]) -> None:
    """Mark the ledger by some of its links, on the disk when this returns; in an older mark's place. Raises OSError."""
    text = "".join(f"{seq} {found.hex()}\n" for seq, found in links.items() if found is not None)
    disk.put(mark_of(ledger), text.encode("ascii"), 0o440)
