"""The MQTT ports of the simulated cloud: TLS as strict as AWS IoT's, MiniStack's broker behind, and endings to order.

MiniStack's own listener takes clients without a certificate and without SNI, and binds every interface; so it stays
off, and this hands it connections whose TLS is settled.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from pathlib import Path
from typing import Any, Final

from station.sim.tls import Connection, linger, reset
from station.sim.troubles import MqttEnding, Troubles

ALPN: Final = "x-amzn-mqtt-ca"  # AWS IoT developer guide, "Device communication protocols", port 443
_CONNACK_OK: Final = b"\x20\x02\x00\x00"
_CONNACK_REFUSED: Final = b"\x20\x02\x00\x05"
_HANDSHAKE_S: Final = 10.0

log = logging.getLogger("front")


class Front:
    """Both MQTT ports. ``iot`` is MiniStack's module; ``server`` and ``other`` are PEM files, certificate and key."""

    def __init__(self, iot: Any, troubles: Troubles, endpoint: str, server: Path, other: Path) -> None:
        self._iot, self._troubles, self._endpoint = iot, troubles, endpoint
        self._server, self._other = server, other
        self._listeners: list[asyncio.Server] = []

    async def listen(self, *, alpn: bool) -> int:
        """Open one port on 127.0.0.1 and return its number."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await self._serve(reader, writer, alpn=alpn)
                await linger(reader, writer)
            finally:
                writer.close()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._listeners.append(listener)
        port: int = listener.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, alpn: bool) -> None:
        ending = self._troubles.next_ending()
        log.info("connection: %s", ending.value)
        await asyncio.sleep(self._troubles.delay_ms / 1000)
        match ending:
            case MqttEnding.CLOSE:
                return
            case MqttEnding.RESET:
                reset(writer)
            case MqttEnding.SILENT:
                await reader.read()
            case _:
                await self._serve_tls(reader, writer, ending, alpn=alpn)

    async def _serve_tls(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ending: MqttEnding, *, alpn: bool
    ) -> None:
        peer = Connection(reader, writer, self._context(ending, alpn=alpn))
        try:
            await asyncio.wait_for(peer.handshake(), _HANDSHAKE_S)
        except (OSError, ssl.SSLError) as error:
            log.info("handshake: %s", error)
            return
        if alpn and peer.tls.selected_alpn_protocol() != ALPN:
            log.info("no ALPN %s", ALPN)
        elif ending is MqttEnding.REGISTERED_RESET:
            await self._register(peer)
            reset(writer)
        else:
            await self._end(ending, peer)
        peer.close()

    def _context(self, ending: MqttEnding, *, alpn: bool) -> ssl.SSLContext:
        """A context for one connection, so that what was registered a moment ago is trusted."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._other if ending is MqttEnding.OTHER_ROOT else self._server)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a provider registers the CA that signs, not its root
        context.sni_callback = self._client_hello
        if alpn:
            context.set_alpn_protocols([ALPN])
        if self._troubles.tls_1_2 or ending is MqttEnding.ALERT_IN_HANDSHAKE:
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

    async def _end(self, ending: MqttEnding, peer: Connection) -> None:
        match ending:
            case MqttEnding.PASS | MqttEnding.OTHER_ROOT:
                await self._iot._mtls_serve_conn(peer, peer)
            case MqttEnding.SILENT_AFTER_HANDSHAKE:
                await peer.until_closed()
            case MqttEnding.REGISTERED_CONNACK_5:
                await self._register(peer)
                peer.write(_CONNACK_REFUSED)
            case MqttEnding.REGISTERED_SILENT:
                await self._register(peer)
                await peer.until_closed()
            case MqttEnding.CONNACK_5:
                await peer.packet()
                peer.write(_CONNACK_REFUSED)
            case MqttEnding.CONNACK_THEN_CLOSE:
                await peer.packet()
                peer.write(_CONNACK_OK)
                await peer.packet()
            case MqttEnding.CONNACK_NO_PUBACK:
                await peer.packet()
                peer.write(_CONNACK_OK)
                await peer.until_closed()

    async def _register(self, peer: Connection) -> None:
        """As AWS does: the CONNECT packet registers the certificate."""
        await peer.packet()
        certificate = peer.tls.getpeercert(binary_form=True)
        await self._iot._mtls_auto_register(certificate, peer.get_extra_info("peername"), self._endpoint)
