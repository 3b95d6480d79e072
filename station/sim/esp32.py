"""A simulated ESP32-C3 on a pty: ``python -m station.sim.esp32 LINK --chip A0B1C2D3E4F5 ...``.

The ROM loader and the flasher stub as esptool speaks to them: SLIP frames, registers (eFuses, SPI controller,
watchdog), RAM and flash commands, NOR flash. Written from esptool's sources (``loader.py``, ``targets/esp32c3.py``).
The boot pin is held: after each reset the chip waits for download. A pty has no modem lines, so only the watchdog
resets it.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from station.sim import terminal
from station.sim.board_wire import PowerOffError, Wire
from station.sim.terminal import Serving, garbage

_KNOWN = {
    "silent": ("", "never answers"),
    "noise": ("", "a log line comes before every 100th answer"),
    "garbage": ("", "bytes of no meaning come before every 100th answer"),
    "echo": ("", "echoes all that it receives"),
    "slow": ("MS", "each answer comes so much later"),
    "reset-at": ("OP", "restarts once, instead of obeying the operation OP (hex)"),
    "flash-encrypted": ("", "the eFuses say that flash encryption is on"),
    "secure-boot": ("", "the eFuses say that secure boot is on"),
    "secure-download": ("", "the eFuses restrict the download mode"),
    "bad-flash": ("", "one bit of the esp_secure_cert partition cannot be cleared"),
    "no-reset": ("", "the watchdog does not reset it"),
    "forget": ("", "a reset erases the esp_secure_cert partition"),
    "renumber": ("", "its port goes as it restarts, and comes back as another one"),
    "swap-at-reset": ("", "another chip is there after the reset"),
    "hang-at": ("OP", "half an answer to the operation OP (hex), then silence"),
    "flood-at": ("OP", "bytes without end in place of the answer to OP"),
    "vanish-at": ("OP", "the power goes at OP"),
}
_CHIP_ID, _API = 5, 3
_FLASH = 4 * 1024 * 1024
_SECTOR = 4_096
_PARTITION, _PARTITION_SIZE = 0xD000, 0x2000
_FLASH_ID, _SFDP, _MAKER = 0x1640EF, 0x50444653, 0xEF
_SPI, _EFUSE, _WATCHDOG, _WATCHDOG_LOCK = 0x60002000, 0x60008830, 0x60008090, 0x600080A8
_SPI_CMD, _SPI_ADDR, _SPI_USR2, _SPI_W0 = _SPI, _SPI + 0x04, _SPI + 0x20, _SPI + 0x58
_ROM_BAUD = 115_200
_NOISY_ANSWER = 100
_GONE_S = 0.8  # longer than esptool waits for its watchdog
_BANNER = (
    b"\r\nESP-ROM:esp32c3-api1-20210207\r\nrst:0x7 (TG0WDT_SYS_RST),boot:0x5 (DOWNLOAD(USB/UART0/1))\r\n"
    b"waiting for download\r\n"
)
_LOG = b"I (3012) wifi: beacon timeout\r\n"
_OK, _BAD, _BAD_CHECKSUM = b"\0\0", b"\x01\x05", b"\x01\x07"


class _Flash:
    """NOR flash in a file: erased by sectors to ones; written bits only go to zero."""

    def __init__(self, file: Path, *, bad: bool) -> None:
        if not file.exists():
            file.write_bytes(b"\xff" * _FLASH)
        with file.open("r+b") as opened:
            self._cells = mmap.mmap(opened.fileno(), _FLASH)
        self._bad = bad

    def erase(self, offset: int, size: int) -> None:
        start, end = offset // _SECTOR * _SECTOR, -(-(offset + size) // _SECTOR) * _SECTOR
        self._cells[start:end] = b"\xff" * (end - start)

    def write(self, offset: int, data: bytes) -> None:
        old = self._cells[offset : offset + len(data)]
        whole = int.from_bytes(old, "big") & int.from_bytes(data, "big")
        self._cells[offset : offset + len(data)] = whole.to_bytes(len(data), "big")
        if self._bad and offset <= _PARTITION < offset + len(data):
            self._cells[_PARTITION + 100] ^= 0x20

    def read(self, offset: int, size: int) -> bytes:
        return self._cells[offset : offset + size]


class Chip:
    """The chip between its UART and its flash."""

    def __init__(self, wire: Wire, asked: argparse.Namespace) -> None:
        self._wire, self._faults, self._limited = wire, asked.faults, bool(asked.baud_bytes)
        self._flash = _Flash(asked.store / "flash.bin", bad="bad-flash" in self._faults)
        self._mac = bytes.fromhex(asked.chip)
        self._mute, self._restarts, self._answers = "silent" in self._faults, True, 0
        self._power_on()

    def serve(self) -> None:
        """Answer until the power goes."""
        for packet in self._packets():
            if len(packet) >= 8 and packet[0] == 0 and not self._mute:
                op, _, checksum = struct.unpack("<BHI", packet[1:8])
                self._take(op, packet[8:], checksum)

    def _power_on(self) -> None:
        """As after a reset: the ROM loader, its baud rate, its registers."""
        self._stub = False
        self._uploaded = 0
        self._at = 0
        self._stream = zlib.decompressobj()
        self._rate(_ROM_BAUD)
        high, low = struct.unpack(">HI", self._mac)
        self._registers = {_EFUSE + 0x14: low, _EFUSE + 0x18: high, _EFUSE + 0x20: 4 << 18}
        if "flash-encrypted" in self._faults:
            self._registers[_EFUSE + 4] = 1 << 18
        if "secure-boot" in self._faults:
            self._registers[_EFUSE + 8] = 1 << 20

    def _reset(self) -> None:
        if "no-reset" in self._faults:
            return
        if "forget" in self._faults:
            self._flash.erase(_PARTITION, _PARTITION_SIZE)
        if "swap-at-reset" in self._faults:
            self._mac = bytes(reversed(self._mac))
        self._wire.pause(0.05)
        if "renumber" in self._faults:
            self._wire.renumber(_GONE_S)
        self._power_on()
        self._wire.send(_BANNER)

    def _rate(self, baud: int) -> None:
        self._wire.set_rate(baud // 10 if self._limited else 0)

    def _packets(self) -> Iterator[bytes]:
        held = bytearray()
        while True:
            came = self._wire.take()
            if "echo" in self._faults:
                self._wire.send(came)
            held += came
            while (start := held.find(0xC0)) >= 0 and (end := held.find(0xC0, start + 1)) > 0:
                packet = bytes(held[start + 1 : end])
                del held[: end + 1 if packet else end]
                if packet:
                    yield packet.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")

    def _take(self, op: int, data: bytes, checksum: int) -> None:
        if self._at_op("vanish-at", op):
            raise PowerOffError
        while self._at_op("flood-at", op):
            self._wire.send(b"\x55" * 4_096)
        if self._at_op("hang-at", op):
            self._wire.send(b"\xc0\x01" + bytes([op]))
            self._mute = True
            return
        if self._restarts and self._at_op("reset-at", op):
            self._restarts = False
            self._reset()
            return
        work = self._OPS.get(op)
        if work is None or (op >= 0xD0 and not self._stub):
            self._answer(0xFF, _BAD)  # the ROM answers what it does not know with another operation
            return
        if op in {0x03, 0x07, 0x11} and _checksum(data[16:]) != checksum:
            self._answer(op, _BAD_CHECKSUM)
            return
        work(self, op, data)

    def _at_op(self, fault: str, op: int) -> bool:
        return fault in self._faults and int(self._faults.text(fault), 16) == op

    def _answer(self, op: int, status: bytes = _OK, *, value: int = 0, data: bytes = b"") -> None:
        rest = data + status + (b"" if self._stub else b"\0\0")
        self._send(struct.pack("<BBHI", 1, op, len(rest), value) + rest)

    def _send(self, packet: bytes) -> None:
        self._answers += 1
        if "slow" in self._faults:
            self._wire.pause(self._faults.number("slow") / 1000)
        for trouble, bytes_before in (("noise", _LOG), ("garbage", garbage(self._answers))):
            if trouble in self._faults and self._answers % _NOISY_ANSWER == 0:
                self._wire.send(bytes_before)
        self._wire.send(b"\xc0" + packet.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0")

    def _sync(self, op: int, _data: bytes) -> None:
        for _ in range(8):
            self._answer(op, value=0 if self._stub else 0x20120707)

    def _read_register(self, op: int, data: bytes) -> None:
        if "secure-download" in self._faults:
            self._answer(0xFF, _BAD)
            return
        self._answer(op, value=self._registers.get(struct.unpack("<I", data)[0], 0))

    def _write_register(self, op: int, data: bytes) -> None:
        for address, value, mask, _ in struct.iter_unpack("<IIII", data):
            self._registers[address] = self._registers.get(address, 0) & ~mask | value & mask
            if address == _SPI_CMD and value:
                self._spi()
        self._answer(op)
        # Its time is over some milliseconds after it was set, which is behind its lock.
        if self._registers.get(_WATCHDOG, 0) & 1 << 31 and not self._registers.get(_WATCHDOG_LOCK):
            self._registers[_WATCHDOG] = 0
            self._reset()

    def _spi(self) -> None:
        """One command of the SPI controller, done at once."""
        self._registers[_SPI_CMD] = 0
        match self._registers.get(_SPI_USR2, 0) & 0xFF:
            case 0x9F:
                self._registers[_SPI_W0] = _FLASH_ID
            case 0x5A:
                self._registers[_SPI_W0] = _MAKER if self._registers.get(_SPI_ADDR) else _SFDP

    def _security(self, op: int, _data: bytes) -> None:
        flags = ("secure-boot" in self._faults) | ("secure-download" in self._faults) << 2
        count = int("flash-encrypted" in self._faults)
        self._answer(op, data=struct.pack("<IB7xII", flags, count, _CHIP_ID, _API))

    def _mem_data(self, op: int, data: bytes) -> None:
        self._uploaded += len(data) - 16
        self._answer(op)

    def _mem_end(self, op: int, data: bytes) -> None:
        self._answer(op)
        if struct.unpack("<II", data)[1] and self._uploaded:
            self._stub = True
            self._send(b"OHAI")

    def _flash_begin(self, op: int, data: bytes) -> None:
        size, _, _, self._at = struct.unpack("<IIII", data[:16])
        self._stream = zlib.decompressobj()
        if size:
            self._flash.erase(self._at, size)
        self._answer(op)

    def _flash_data(self, op: int, data: bytes) -> None:
        content = data[16:] if op == 0x03 else self._stream.decompress(data[16:])
        self._flash.write(self._at, content)
        self._at += len(content)
        self._answer(op)

    def _md5(self, op: int, data: bytes) -> None:
        offset, size = struct.unpack("<II", data[:8])
        digest = hashlib.md5(self._flash.read(offset, size))  # noqa: S324 - what the chip computes
        self._answer(op, data=digest.digest() if self._stub else digest.hexdigest().encode())

    def _change_baud(self, op: int, data: bytes) -> None:
        self._answer(op)
        self._rate(struct.unpack("<II", data)[0])

    def _read_slow(self, op: int, data: bytes) -> None:
        offset, size = struct.unpack("<II", data)
        self._answer(op, data=self._flash.read(offset, size).ljust(64, b"\0"))

    def _read(self, op: int, data: bytes) -> None:
        """Blocks, each acknowledged by the bytes that came so far; then the MD5 of all."""
        offset, size, block, _ = struct.unpack("<IIII", data)
        content = self._flash.read(offset, size)
        self._answer(op)
        acknowledged = self._packets()
        for start in range(0, size, block):
            self._send(content[start : start + block])
            next(acknowledged)
        self._send(hashlib.md5(content).digest())  # noqa: S324 - what the chip computes

    def _erase(self, op: int, data: bytes) -> None:
        self._flash.erase(*struct.unpack("<II", data))
        self._answer(op)

    def _accept(self, op: int, _data: bytes) -> None:
        self._answer(op)

    _OPS: dict[int, Callable[[Chip, int, bytes], None]] = {  # noqa: RUF012 - never written to
        0x02: _flash_begin,
        0x03: _flash_data,
        0x04: _accept,
        0x05: _accept,
        0x06: _mem_end,
        0x07: _mem_data,
        0x08: _sync,
        0x09: _write_register,
        0x0A: _read_register,
        0x0B: _accept,
        0x0D: _accept,
        0x0E: _read_slow,
        0x0F: _change_baud,
        0x10: _flash_begin,
        0x11: _flash_data,
        0x12: _accept,
        0x13: _md5,
        0x14: _security,
        0xD1: _erase,
        0xD2: _read,
    }


def _checksum(data: bytes) -> int:
    state = 0xEF
    for byte in data:
        state ^= byte
    return state


def _make(wire: Wire, asked: argparse.Namespace) -> Serving:
    return Chip(wire, asked)


if __name__ == "__main__":
    sys.exit(terminal.run(_KNOWN, _make, text="An ESP32-C3 that waits for download, on a pty."))
