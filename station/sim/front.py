"""The MQTT ports of the simulated cloud: TLS as strict as AWS IoT's, MiniStack's broker behind, and endings to order.

MiniStack's own listener takes clients without a certificate and without SNI, and binds every interface; so it stays
off, and this hands it connections whose TLS is settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from station.sim.troubles import MqttEnding, Troubles

ALPN: Final = "x-amzn-mqtt-ca"  # AWS IoT developer guide, "Device communication protocols", port 443
_CONNACK_OK: Final = b"\x20\x02\x00\x00"
_CONNACK_REFUSED: Final = b"\x20\x02\x00\x05"
_PACKET_S: Final = 10.0

log = logging.getLogger("front")
_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Front:
    """Both MQTT ports. ``iot`` is MiniStack's module; ``server`` and ``other`` are PEM files, certificate and key."""

    def __init__(self, iot: Any, troubles: Troubles, endpoint: str, server: Path, other: Path) -> None:
        self._iot, self._troubles, self._endpoint = iot, troubles, endpoint
        self._server, self._other = server, other
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, *, alpn: bool) -> int:
        """Open one port on 127.0.0.1 and return its number."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: _Accepted(self._accept, alpn=alpn), "127.0.0.1", 0)
        port: int = listener.sockets[0].getsockname()[1]
        return port

    def _accept(self, transport: asyncio.Transport, *, alpn: bool) -> None:
        transport.pause_reading()  # the ClientHello stays in the kernel until TLS takes over
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.get_running_loop().create_task(self._serve(transport, alpn=alpn))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, transport: asyncio.Transport, *, alpn: bool) -> None:
        ending = self._troubles.next_ending()
        log.info("connection: %s", ending.value)
        await asyncio.sleep(self._troubles.delay_ms / 1000)
        match ending:
            case MqttEnding.CLOSE:
                transport.close()
            case MqttEnding.RESET:
                _reset(transport)
            case MqttEnding.SILENT:
                transport.resume_reading()  # and forget what comes, until the client leaves
            case _:
                await self._serve_tls(transport, ending, alpn=alpn)

    async def _serve_tls(self, transport: asyncio.Transport, ending: MqttEnding, *, alpn: bool) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            tls = await loop.start_tls(transport, protocol, self._context(ending, alpn=alpn), server_side=True)
        except (OSError, ssl.SSLError) as error:
            log.info("handshake: %s", error)
            transport.abort()
            return
        if tls is None:
            return
        protocol.connection_made(tls)
        writer = asyncio.StreamWriter(tls, protocol, reader, loop)
        try:
            if alpn and tls.get_extra_info("ssl_object").selected_alpn_protocol() != ALPN:
                log.info("no ALPN %s", ALPN)
            else:
                await self._end(ending, reader, writer, transport)
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    def _context(self, ending: MqttEnding, *, alpn: bool) -> ssl.SSLContext:
        """A context for one connection, so that what was registered a moment ago is trusted."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._other if ending is MqttEnding.OTHER_ROOT else self._server)
        context.verify_mode = ssl.CERT_REQUIRED
        context.sni_callback = self._client_hello
        if alpn:
            context.set_alpn_protocols([ALPN])
        if ending is MqttEnding.ALERT_IN_HANDSHAKE:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if ending in {MqttEnding.ALERT_IN_HANDSHAKE, MqttEnding.ALERT_AFTER_HANDSHAKE}:
            return context  # it trusts nobody: TLS 1.2 says so within the handshake, 1.3 after the client's part of it
        # The registry of every account, as MiniStack keeps it: a private name, hence the pin and `cloud.py`'s check.
        for record in list(self._iot._ca_certificates._data.values()):
            context.load_verify_locations(cadata=record["certificatePem"])
        return context

    def _client_hello(self, tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        """SNI is required: AWS IoT finds the account by it."""
        if name != self._endpoint:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        self._iot._mtls_server_names[tls] = name
        return None

    async def _end(
        self,
        ending: MqttEnding,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        transport: asyncio.Transport,
    ) -> None:
        match ending:
            case MqttEnding.PASS | MqttEnding.OTHER_ROOT:
                await self._iot._mtls_serve_conn(reader, writer)
            case MqttEnding.CLOSE_AFTER_HANDSHAKE | MqttEnding.ALERT_AFTER_HANDSHAKE:
                return
            case MqttEnding.SILENT_AFTER_HANDSHAKE:
                await reader.read()
            case MqttEnding.REGISTERED_RESET:
                await self._register(reader, writer)
                _reset(transport)
            case MqttEnding.REGISTERED_CONNACK_5:
                await self._register(reader, writer)
                writer.write(_CONNACK_REFUSED)
            case MqttEnding.REGISTERED_SILENT:
                await self._register(reader, writer)
                await reader.read()
            case MqttEnding.CONNACK_5:
                await _packet(reader)
                writer.write(_CONNACK_REFUSED)
            case MqttEnding.CONNACK_THEN_CLOSE | MqttEnding.CONNACK_NO_PUBACK:
                await _packet(reader)
                writer.write(_CONNACK_OK)
                await _packet(reader)
                if ending is MqttEnding.CONNACK_NO_PUBACK:
                    await reader.read()

    async def _register(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As AWS does: the CONNECT packet registers the certificate."""
        tls = writer.get_extra_info("ssl_object")
        await _packet(reader)
        await self._iot._mtls_auto_register(
            tls.getpeercert(binary_form=True), writer.get_extra_info("peername"), self._endpoint
        )


class _Accepted(asyncio.Protocol):
    """A TCP connection before its TLS."""

    def __init__(self, accept: Callable[..., None], *, alpn: bool) -> None:
        self._accept_it, self._alpn = accept, alpn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._accept_it(transport, alpn=self._alpn)


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """One MQTT packet, or what came of it before the peer left."""
    try:
        head = await asyncio.wait_for(reader.readexactly(2), _PACKET_S)
        return head + await asyncio.wait_for(reader.readexactly(head[1] & 0x7F), _PACKET_S)
    except (TimeoutError, asyncio.IncompleteReadError, OSError):
        return b""


def _reset(transport: asyncio.Transport) -> None:
    """Close with RST: linger for zero seconds (socket(7))."""
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
