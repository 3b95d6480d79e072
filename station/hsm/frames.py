"""One JSON object a frame between the daemon and the token's child: four bytes of length (big endian), then UTF-8."""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Final

MAX_FRAME: Final = 65_536


class Broken(Exception):  # noqa: N818 - a state of the wire, caught by its only user
    """The other end is gone, or says what is no frame."""


class Late(Exception):  # noqa: N818 - as above
    """No whole frame before the deadline. The socket must not be used again: the answer may still come."""


def send(channel: socket.socket, message: dict[str, Any], deadline: float | None = None) -> None:
    """Send one frame.

    Raises:
        Broken: the other end is gone.
        Late: the deadline (of `time.monotonic`) has passed.
    """
    text = json.dumps(message).encode()
    try:
        channel.settimeout(_left(deadline))
        channel.sendall(len(text).to_bytes(4, "big") + text)
    except TimeoutError as error:
        raise Late from error
    except OSError as error:
        raise Broken(str(error)) from error


def receive(channel: socket.socket, deadline: float | None = None) -> dict[str, Any]:
    """Receive one frame; raises as `send`."""
    size = int.from_bytes(_exactly(channel, 4, deadline), "big")
    if size > MAX_FRAME:
        raise Broken(f"a frame of {size} bytes")
    try:
        message = json.loads(_exactly(channel, size, deadline))
    except ValueError as error:
        raise Broken("a frame that is not JSON") from error
    if not isinstance(message, dict):
        raise Broken("a frame that is no object")
    return message


def _exactly(channel: socket.socket, size: int, deadline: float | None) -> bytes:
    got = b""
    while len(got) < size:
        try:
            channel.settimeout(_left(deadline))
            piece = channel.recv(size - len(got))
        except TimeoutError as error:
            raise Late from error
        except OSError as error:
            raise Broken(str(error)) from error
        if not piece:
            raise Broken("the other end is gone")
        got += piece
    return got


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise Late
    return left
