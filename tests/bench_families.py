"""What provisioning one unit costs on its wire: ``python tests/bench_families.py``. Simulated boards at 115,200 baud.

The floor is the bytes of the busier direction, at each rate that the wire had. What is above it is round trips and the
board's work; on real adapters each round trip costs up to 16 ms more. `command` has no wire of ours.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, TypeAlias

from family_bed import bed, product_of, provisioned
from test_boards_troubles import made_for, plugged

from station.model import ChainForm, KeyOrigin
from station.sim.linux import PASSWORD

_RATE = 11_520
_COUNTS = re.compile(r"the wire: (\d+) bytes came, (\d+) went, ([\d.]+) s")
_SIM = {"console": "board"}
_STATION: dict[str, Any] = {"key_origin": KeyOrigin.STATION}
_MODEM = {"serial": "352656100885188", "chip": "25c95751-efa4-40d4-8b4a-1dcaab81fac9", "model": "nRF9151-LACA"}
_ZEPHYR = {"serial": "none", "chip": "3336343110473837", "model": "none"}
_DEMO = {"serial": "SN-1", "chip": "CHIP-1", "model": "demo-board"}
_PROMPT = {"identity": "module", "folder": "."}
_U5 = {"serial": "SN-1", "chip": "uid", "model": "none"}

_CHIP = {"serial": "A0B1C2D3E4F5", "chip": "A0B1C2D3E4F5", "model": "ESP32-C3"}

Row: TypeAlias = tuple[str, str, dict[str, str], dict[str, Any], dict[str, Any]]
ROWS: list[Row] = [
    ("console", "", _DEMO, {}, {}),
    ("console", "", _DEMO, {}, _STATION),
    ("esp32", "", _CHIP, {"reset": "watchdog-reset"}, {**_STATION, "model": "ESP32-C3", "baud": 460_800}),
    ("nrf91", "at", _MODEM, {}, {}),
    ("nrf91", "at", _MODEM, {}, _STATION),
    ("nrf91", "shell", _MODEM, {"host": "shell"}, {}),
    ("nrf91", "shell", _MODEM, {"host": "shell"}, _STATION),
    ("zephyr", "new", _ZEPHYR, {"buffer_bytes": 4_096}, {}),
    ("zephyr", "new", _ZEPHYR, {"buffer_bytes": 4_096}, _STATION),
    ("zephyr", "old", _ZEPHYR, {"buffer_bytes": 4_096}, _STATION),
    ("freertos", "ntz", _U5, {}, {"chain_form": ChainForm.LEAF}),
    ("micropython", "", _DEMO, _PROMPT, {"chain_form": ChainForm.LEAF}),
    ("micropython", "", _DEMO, _PROMPT, {"chain_form": ChainForm.LEAF, **_STATION}),
]


def _linux(folder: Path) -> list[Row]:
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
    _command()


def _command() -> None:
    """A small program a step, at a file for a port."""
    with tempfile.TemporaryDirectory() as folder, plugged("command", Path(folder)) as where:
        made = made_for("command", Path(folder))
        board = where.open(made, place="slot")
        began = time.perf_counter()
        provisioned(board, made)
        print(f"{'command':22}{made.key_origin:9}{'-':>7}{'-':>10}{time.perf_counter() - began:9.2f}")


def _print(rows: list[Row]) -> None:
    print(f"{'family':12}{'firmware':10}{'key':9}{'sent':>7}{'received':>10}{'seconds':>9}{'floor':>8}{'ratio':>7}")
    for name, mode, identity, options, changes in rows:
        made = product_of(name, options, **changes)
        with tempfile.TemporaryDirectory() as folder, bed(Path(folder), _SIM.get(name, name), **identity) as where:
            where.driver = name
            faults = ["buffer=4096"] if name == "zephyr" else []
            board = where.open(made, *faults, mode=mode, baud_bytes=_RATE)
            began = time.perf_counter()
            provisioned(board, made)
            board.close()
            seconds = time.perf_counter() - began
            where.lift()
            log = (Path(folder) / f"{identity['chip']}.log").read_text()
        sent, received, least = _COUNTS.findall(log)[-1]
        floor = float(least)
        numbers = f"{sent:>7}{received:>10}{seconds:9.2f}{floor:8.2f}{seconds / floor:7.1f}"
        print(f"{name:12}{mode:10}{made.key_origin:9}{numbers}")


if __name__ == "__main__":
    main()
