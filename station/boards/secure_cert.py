"""The `esp_secure_cert` partition: entries of type, length and value, built and read.

Format: espressif/esp_secure_cert_mgr (``esp_secure_cert_tlv_private.h``) and esp-secure-cert-tool 2.6.1
(``tlv_format.py``): little endian; magic, flags, three zeros, type, subtype, length, the data padded to 16 bytes, and a
CRC-32 over all of that which begins at 0xffffffff. PEM texts end in a NUL. Behind the last entry the flash is erased.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_MAGIC: Final = 0xBA5EBA11
_HEAD: Final = struct.Struct("<IB3xBBH")
_ALIGNED: Final = 16
_CRC: Final = struct.Struct("<I")
_DIGEST: Final = 32


class EntryType(IntEnum):
    """The types of entries that the station writes; 51 to 55 are the user's."""

    CA_CERT = 0
    DEVICE_CERT = 1
    PRIVATE_KEY = 2
    INTEGRITY = 9
    USER_1 = 51


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its type, and its data (with its NUL, where it is PEM)."""

    type: int
    data: bytes


def entry(kind: int, data: bytes) -> bytes:
    """One entry, subtype 0, flags 0 (a private key in the clear)."""
    head = _HEAD.pack(_MAGIC, 0, kind, 0, len(data))
    body = head + data + bytes(-len(data) % _ALIGNED)
    return body + _CRC.pack(zlib.crc32(body, 0xFFFFFFFF))


def room(data: int) -> int:
    """The bytes that an entry with ``data`` bytes takes."""
    return _HEAD.size + data + -data % _ALIGNED + _CRC.size


INTEGRITY_ROOM: Final = room(_DIGEST)


def build(entries: Sequence[Entry], size: int) -> bytes:
    """A whole partition of ``size`` bytes: the entries, the integrity entry over them, and 0xff to the end.

    All of it is written, so that no entry of a former, longer partition survives behind the last one.

    Raises:
        ValueError: where the entries do not fit; the text says how many bytes they are.
    """
    used = b"".join(entry(one.type, one.data) for one in entries)
    used += entry(EntryType.INTEGRITY, hashlib.sha256(used).digest())
    if len(used) > size:
        raise ValueError(f"its entries are {len(used)} bytes, the partition has {size}")
    return used.ljust(size, b"\xff")


def parse(partition: bytes) -> list[Entry]:
    """The entries of a partition as read back, up to the first that is none; the integrity entry checked and left out.

    Raises:
        ValueError: for a CRC or an integrity entry that is wrong, none behind the last entry, an entry cut off by the
            end, or anything but erased flash behind the last one.
    """
    found: list[Entry] = []
    at, whole = 0, True
    while at + _HEAD.size <= len(partition):
        magic, _, kind, _, length = _HEAD.unpack_from(partition, at)
        if magic != _MAGIC:
            break
        end = at + room(length)
        if end > len(partition):
            raise ValueError(f"the entry at {at} ends behind the partition")
        if _CRC.unpack_from(partition, end - _CRC.size)[0] != zlib.crc32(partition[at : end - _CRC.size], 0xFFFFFFFF):
            raise ValueError(f"the entry at {at} has a wrong CRC")
        data = partition[at + _HEAD.size : at + _HEAD.size + length]
        if kind != EntryType.INTEGRITY:
            found.append(Entry(kind, data))
        elif data != hashlib.sha256(partition[:at]).digest():
            raise ValueError("the integrity entry is not of what stands before it")
        at, whole = end, kind == EntryType.INTEGRITY
    if not whole:
        raise ValueError("no integrity entry stands behind the last entry")
    if partition[at:].strip(b"\xff"):
        raise ValueError(f"the flash behind the last entry, from byte {at} on, is not erased")
    return found
