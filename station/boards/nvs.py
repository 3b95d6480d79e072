"""ESP-IDF's NVS partitions, read: strings of one namespace. Espressif's own generator makes them, in the child.

Format: esp-idf ``components/nvs_flash`` (``nvs_page.hpp``, ``nvs_types.hpp``): pages of 4,096 bytes; a header
of 32, two bits of state for each of 126 entries, and the entries of 32 bytes. A string's entry says size and CRC-32 of
the data that stands in the entries behind it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

PAGE: Final = 4_096
NAME: Final = r"^[A-Za-z0-9_.-]{1,15}$"  # 16 bytes with its NUL: longer ones are cut without a word

_ENTRY: Final = struct.Struct("<BBBBI16s8s")
_TEXT: Final = struct.Struct("<H2xI")
_FIRST: Final = 64
_ENTRIES: Final = 126
_WRITTEN: Final = 0b10
_STATES: Final = (0xFFFFFFFE, 0xFFFFFFFC)  # active, full
_U8, _STRING = 0x01, 0x21


@dataclass(frozen=True, slots=True)
class _Item:
    namespace: int
    type: int
    name: str
    inline: bytes
    data: bytes


def strings(partition: bytes, namespace: str) -> dict[str, bytes]:
    """The strings of a namespace, each with its NUL; none where there is no such namespace.

    Raises:
        ValueError: for an entry whose CRC is wrong, or that ends behind its page.
    """
    items = [item for at in range(0, len(partition) - PAGE + 1, PAGE) for item in _items(partition[at : at + PAGE])]
    numbers = {item.inline[0] for item in items if (item.namespace, item.type, item.name) == (0, _U8, namespace)}
    return {item.name: item.data for item in items if item.type == _STRING and item.namespace in numbers}


def _items(page: bytes) -> Iterator[_Item]:
    """What is written in one page; nothing where the page is no page."""
    if struct.unpack_from("<I", page)[0] not in _STATES:
        return
    at = 0
    while at < _ENTRIES:
        if page[32 + at // 4] >> at % 4 * 2 & 0b11 != _WRITTEN:
            at += 1
            continue
        start = _FIRST + at * _ENTRY.size
        head = page[start : start + _ENTRY.size]
        number, kind, span, _, checksum, name, inline = _ENTRY.unpack(head)
        if checksum != zlib.crc32(head[:4] + head[8:], 0xFFFFFFFF):
            raise ValueError(f"the entry {at} has a wrong CRC")
        if not 1 <= span <= _ENTRIES - at:
            raise ValueError(f"the entry {at} ends behind its page")
        data = b""
        if kind == _STRING:
            size, digest = _TEXT.unpack(inline)
            data = page[start + _ENTRY.size : start + span * _ENTRY.size][:size]
            if len(data) != size or digest != zlib.crc32(data, 0xFFFFFFFF):
                raise ValueError(f"the text of the entry {at} has a wrong CRC")
        yield _Item(number, kind, name.split(b"\0", 1)[0].decode("latin-1"), inline, data)
        at += span
