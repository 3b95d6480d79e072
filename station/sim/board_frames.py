"""Frames of the console protocol from the board's side, after docs/new-board.md sections 2 and 4."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

LINE = 1_024  # bytes of the board's line buffer, a frame's line end included
Fields: TypeAlias = Mapping[str, str | int]

_MARKER = b">S1 "
_REQUEST = re.compile(
    rb"(?P<text>>S1 (?P<seq>[1-9][0-9]{0,3}) (?P<command>[a-z]+)(?P<pairs>(?: [a-z0-9_]+=[A-Za-z0-9._:,+/=-]+)*))"
    rb" #(?P<crc>[0-9a-f]{8})"
)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


class DamagedError(Exception):
    """A line that holds a request which must not be obeyed."""


class RefusalError(Exception):
    """A command ends in ``err code=<code>``, with further fields."""

    def __init__(self, code: str, **fields: str | int) -> None:
        super().__init__(code)
        self.fields: Fields = {"code": code, **fields}


@dataclass(frozen=True, slots=True)
class Request:
    """One valid request. The getters raise `RefusalError` (args) for what is missing or out of its form."""

    seq: int
    command: str
    values: Mapping[str, str]

    def text(self, key: str, form: str) -> str:
        """A value that matches ``form`` whole."""
        value = self.values.get(key, "")
        if not re.fullmatch(form, value):
            raise RefusalError("args", text=b64(key.encode()))
        return value

    def number(self, key: str, low: int, high: int) -> int:
        """A decimal number of ``low`` to ``high``."""
        value = int(self.text(key, _NUMBER.pattern))
        if not low <= value <= high:
            raise RefusalError("args", text=b64(key.encode()))
        return value

    def blob(self, key: str) -> bytes:
        """A base64 value (RFC 4648 section 4), decoded."""
        try:
            return base64.b64decode(self.text(key, ".+"), validate=True)
        except binascii.Error as error:
            raise RefusalError("args", text=b64(key.encode())) from error


def parse(line: bytes | None) -> Request | None:
    """The request on a line (without its line end; None: longer than the buffer); None for a line that is none of ours.

    Raises:
        DamagedError: where the line holds the marker but is no valid frame.
    """
    if line is None:
        raise DamagedError
    if _MARKER not in line:
        return None
    found = _REQUEST.fullmatch(line)
    if not found or zlib.crc32(found["text"]) != int(found["crc"], 16):
        raise DamagedError
    pairs = [pair.partition("=") for pair in found["pairs"].decode().split()]
    values = {key: value for key, _, value in pairs}
    if len(values) != len(pairs):
        raise DamagedError
    return Request(int(found["seq"]), found["command"].decode(), values)


def frame(seq: int, status: str, fields: Fields) -> bytes:
    """A reply as it goes over the wire. What the fields hold is not checked: a faulty board may send anything."""
    text = " ".join([f"<S1 {seq} {status}", *(f"{key}={value}" for key, value in fields.items())]).encode()
    return text + f" #{zlib.crc32(text):08x}\r\n".encode()


def room_for(fields: Fields) -> int:
    """How many bytes of data fit as base64 into the frame that begins with ``fields``."""
    return (LINE - len(frame(9_999, "ok", {**fields, "data": ""}))) // 4 * 3


def b64(data: bytes) -> str:
    """Base64 with padding."""
    return base64.b64encode(data).decode()
