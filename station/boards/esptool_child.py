"""The process that loads esptool, for one run: ``python -I esptool_child.py PARENT_PID``, started by `flasher.py`.

esptool is GPL-2.0-or-later: it is a program of its own here, which is asked over a pipe, and nothing of it is loaded
elsewhere. Its logger is global to the process, and its import takes its time (0.1 s on an idle PC, 0.7 s on a laden
one): hence one process a run, for all its steps.

Orders come on stdin, answers go to what was stdout: four bytes of length (big endian), JSON, and ``payload`` bytes
behind it. What is written to a flash or was read from it is in this process's memory and in the pipe alone: esptool's
functions take and give bytes, so there is no file. All that esptool prints goes to stderr.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import signal
import struct
import sys
from typing import Any

_ROM_BAUD = 115_200
_ATTEMPTS = 2
_DETAIL = 300
_PAGE = 4_096
_NVS_VERSION_2 = 0xFE


def main(parent: int) -> int:
    """Obey until stdin ends."""
    _alone(parent)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders = os.fdopen(0, "rb")
    worker: Worker | None = None
    while (head := orders.read(4)) != b"":
        order = json.loads(orders.read(struct.unpack(">I", head)[0]))
        payload = orders.read(order.pop("payload", 0))
        try:
            worker = worker or Worker()
            answer, data = worker.obey(order, payload)
        except Exception as error:  # noqa: BLE001 - the top of this process: esptool raises what it likes
            answer, data = {"error": type(error).__name__, "detail": str(error).split("\n", 1)[0][:_DETAIL]}, b""
        text = json.dumps({**answer, "payload": len(data)}).encode()
        answers.write(struct.pack(">I", len(text)) + text + data)
        answers.flush()
    return 0


def _alone(parent: int) -> None:
    """End with the station, and leave no core and no memory to read: keys pass through."""
    libc = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.getppid() != parent:
        sys.exit(1)


class Worker:
    """esptool, and the chip that it is connected to."""

    def __init__(self) -> None:
        from esptool import cmds  # noqa: PLC0415 - its import may fail, and that is an answer, too

        self._cmds: Any = cmds
        self._chip: Any = None

    def obey(self, order: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """One order and its answer."""
        match order.pop("do"):
            case "load":
                return {}, b""
            case "connect":
                return self._connect(**order), b""
            case "mac":
                return {"mac": self._mac()}, b""
            case "nvs":
                return {}, _nvs(order["size"], order["namespace"], json.loads(payload))
            case "read":
                return {}, self._cmds.read_flash(self._chip, order["offset"], order["size"], no_progress=True)
            case "write":
                self._cmds.write_flash(self._chip, [(order["offset"], payload)], no_progress=True)
            case "reset":
                self._cmds.reset_chip(self._chip, order["mode"])
                self._disconnect()
            case other:
                raise ValueError(f"no order is called {other}")
        return {}, b""

    def _connect(self, port: str, baud: int, *, stub: bool) -> dict[str, Any]:
        """Into the loader, and say what chip it is, before anything is asked that its eFuses might not allow."""
        self._disconnect()
        chip = self._cmds.detect_chip(port, _ROM_BAUD, "default-reset", False, _ATTEMPTS)  # noqa: FBT003 - esptool's own order
        self._chip = chip
        found = {"chip": chip.CHIP_NAME, "still_stub": bool(chip.sync_stub_detected)}
        if chip.secure_download_mode:
            return {**found, "secure_download": True}
        found |= {
            "secure_download": False,
            "mac": self._mac(),
            "revision": f"{chip.get_major_chip_version()}.{chip.get_minor_chip_version()}",
            "secure_boot": bool(chip.get_secure_boot_enabled()),
            "secure_boot_v1": bool(chip.get_secure_boot_v1_enabled()),
            "flash_encryption": bool(chip.get_flash_encryption_enabled()),
        }
        if found["flash_encryption"]:
            return found
        if stub:
            self._chip = chip = self._cmds.run_stub(chip)
        if baud > _ROM_BAUD:
            chip.change_baud(baud)
        self._cmds.attach_flash(chip)
        return found

    def _mac(self) -> str:
        return bytes(self._chip.read_mac("BASE_MAC")).hex().upper()

    def _disconnect(self) -> None:
        if self._chip is not None:
            self._chip._port.close()  # noqa: SLF001 - esptool's own `__exit__` does no more
            self._chip = None


def _nvs(size: int, namespace: str, texts: dict[str, str]) -> bytes:
    """A whole NVS partition with these strings. Espressif's generator keeps a page in reserve, and writes it itself."""
    from esp_idf_nvs_partition_gen import nvs_partition_gen  # noqa: PLC0415 - as esptool

    made = io.BytesIO()
    generator = nvs_partition_gen.nvs_open(made, size - _PAGE, _NVS_VERSION_2)
    nvs_partition_gen.write_entry(generator, namespace, "namespace", "", "")
    for name, text in texts.items():
        nvs_partition_gen.write_entry(generator, name, "data", "string", text)
    nvs_partition_gen.nvs_close(generator)
    return made.getvalue()


if __name__ == "__main__":
    sys.stdin = io.StringIO()  # nobody else reads the orders
    sys.exit(main(int(sys.argv[1])))
