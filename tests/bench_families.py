"""What provisioning one unit costs on its wire: ``python tests/bench_families.py``. Simulated boards at 115,200 baud.

The floor is the bytes of the busier direction at 11,520 a second. What is above it is round trips and the board's work;
on real adapters each round trip costs up to 16 ms more.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from family_bed import bed, product_of, provisioned

from station.model import ChainForm, KeyOrigin
from station.sim.linux import PASSWORD
from station.transcript import Way

_RATE = 11_520
_COUNTS = re.compile(rb", (\d+) bytes sent, (\d+) received")
_STATION: dict[str, Any] = {"key_origin": KeyOrigin.STATION}
_MODEM = {"serial": "352656100885188", "chip": "25c95751-efa4-40d4-8b4a-1dcaab81fac9", "model": "nRF9151-LACA"}
_ZEPHYR = {"serial": "none", "chip": "3336343110473837", "model": "none"}
_DEMO = {"serial": "SN-1", "chip": "CHIP-1", "model": "demo-board"}
_PROMPT = {"identity": "module", "folder": "."}
_U5 = {"serial": "SN-1", "chip": "uid", "model": "none"}

ROWS: list[tuple[str, str, dict[str, str], dict[str, Any], dict[str, Any]]] = [
    ("nrf91", "at", _MODEM, {}, {}),
    ("nrf91", "at", _MODEM, {}, _STATION),
    ("nrf91", "shell", _MODEM, {"host": "shell"}, _STATION),
    ("zephyr", "new", _ZEPHYR, {"buffer_bytes": 4_096}, _STATION),
    ("zephyr", "old", _ZEPHYR, {"buffer_bytes": 4_096}, _STATION),
    ("freertos", "ntz", _U5, {}, {"chain_form": ChainForm.LEAF}),
    ("micropython", "", _DEMO, _PROMPT, {"chain_form": ChainForm.LEAF}),
    ("micropython", "", _DEMO, _PROMPT, {"chain_form": ChainForm.LEAF, **_STATION}),
]


def _linux(folder: Path) -> list[tuple[str, str, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """The gateway's two rows; its password is in a file. A chroot with a login needs root."""
    if os.geteuid() != 0:
        print("linux     not measured: a chroot with a login in it needs root")
        return []
    (folder / "password").touch(mode=0o600)
    (folder / "password").write_text(PASSWORD)
    options = {"password": {"file": folder / "password"}}
    return [("linux", "", _DEMO, options, {}), ("linux", "", _DEMO, options, _STATION)]


def main() -> None:
    """Print a line for each."""
    with tempfile.TemporaryDirectory() as secret:
        _print([*ROWS, *_linux(Path(secret))])


def _print(rows: list[tuple[str, str, dict[str, str], dict[str, Any], dict[str, Any]]]) -> None:
    print(f"{'family':12}{'firmware':10}{'key':9}{'sent':>7}{'received':>10}{'seconds':>9}{'floor':>8}{'ratio':>7}")
    for name, mode, identity, options, changes in rows:
        made = product_of(name, options, **changes)
        with tempfile.TemporaryDirectory() as folder, bed(Path(folder), name, **identity) as where:
            faults = ["buffer=4096"] if name == "zephyr" else []
            board = where.open(made, *faults, mode=mode, baud_bytes=_RATE)
            board.identify()
            began = time.perf_counter()
            provisioned(board, made)
            seconds = time.perf_counter() - began
            sent = received = 0
            for entry in where.transcript.entries():
                sent += len(entry.data) if entry.way is Way.SENT else 0
                received += len(entry.data) if entry.way is Way.RECEIVED else 0
                for counts in _COUNTS.finditer(entry.data if entry.way is Way.NOTE else b""):
                    sent, received = sent + int(counts[1]), received + int(counts[2])
        floor = max(sent, received) / _RATE
        numbers = f"{sent:7}{received:10}{seconds:9.2f}{floor:8.2f}{seconds / floor:7.1f}"
        print(f"{name:12}{mode:10}{made.key_origin:9}{numbers}")


if __name__ == "__main__":
    main()
