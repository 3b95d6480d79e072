"""One TLS connection of the simulated cloud. asyncio's own TLS drops the alert of a failed handshake; this sends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar

_CHUNK: Final = 65536
_LINGER_S: Final = 1.0
_T = TypeVar("_T")


class Connection:
    """A server's end, given to MiniStack as both its reader and its writer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: Final = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._over = False

    async def handshake(self) -> None:
        """Raises ssl.SSLError where it fails; the alert is on its way then."""
        await self._step(self.tls.do_handshake)

    async def read(self, most: int = _CHUNK) -> bytes:
        """What came; nothing once either side has closed."""
        try:
            return b"" if self._over else await self._step(lambda: self.tls.read(most))
        except (ssl.SSLError, OSError):
            return b""

    async def until_closed(self) -> None:
        """Say nothing until the client leaves."""
        while await self.read():
            pass

    async def packet(self) -> None:
        """Take one MQTT packet, unless the client leaves before. Length: MQTT 3.1.1, 2.2.3."""
        got, length = b"", None
        while length is None or len(got) < length:
            more = await self.read(1 if length is None else length - len(got))
            if not more:
                return
            got += more
            if length is None and len(got) > 1 and got[-1] < 0x80:
                length = len(got) + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(got[1:]))

    def write(self, data: bytes) -> None:
        """Queue for the client."""
        if not self._over:
            self.tls.write(data)
            self._flush()

    async def drain(self) -> None:
        """Wait while too much is queued."""
        await self._writer.drain()

    def close(self) -> None:
        """Say that nothing more comes: close_notify, then FIN. What the client still sends is no longer read."""
        if self._over:
            return
        self._over = True
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self._flush()

    async def wait_closed(self) -> None:
        """As asyncio.StreamWriter: the connection ends in `linger`."""

    def get_extra_info(self, name: str) -> Any:
        """As asyncio.StreamWriter."""
        return self.tls if name == "ssl_object" else self._writer.get_extra_info(name)

    async def _step(self, step: Callable[[], _T]) -> _T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:
                self._flush()
            came = await self._reader.read(_CHUNK)
            if self._over:
                raise ssl.SSLEOFError
            if came:
                self._incoming.write(came)
            else:
                self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._writer.is_closing():
            self._writer.write(self._outgoing.read())
        if self._over and not self._writer.is_closing():
            self._writer.write_eof()


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End with FIN, and take what is under way: a close with data unread is a reset, and may cost the last words."""
    if not writer.is_closing():
        with contextlib.suppress(OSError):  # a TimeoutError is one
            writer.write_eof()
            await asyncio.wait_for(reader.read(), _LINGER_S)


def reset(writer: asyncio.StreamWriter) -> None:
    """End with RST: linger for zero seconds (socket(7))."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
