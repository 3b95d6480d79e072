"""A board's way to AWS IoT: TLS by the standard library, MQTT 3.1.1 by hand.

Written apart from ``station.aws``, which uses paho: two clients that agree are worth more than one that is shared.
Packet forms: MQTT 3.1.1 (OASIS, 2014), sections 2 and 3.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from dataclasses import dataclass

ALPN = "x-amzn-mqtt-ca"
_CONNECT, _CONNACK, _PUBLISH_QOS1, _PUBACK, _DISCONNECT = 0x10, 0x20, 0x32, 0x40, 0xE0
_MAX_PACKET = 4_096


@dataclass(frozen=True, slots=True)
class Line:
    """Where one dial goes and what it says; times in seconds, ``address`` is where the name leads."""

    host: str
    address: tuple[str, int]
    client: str
    topic: str
    payload: bytes
    timeout_s: float
    hold_s: float


class StoredError(Exception):
    """What is stored cannot be used for TLS."""


class _EndedError(Exception):
    """The dial is over: the ending's name, and a word for engineers."""


def tls_context(chain: bytes, key: bytes, roots: bytes, *, alpn: bool) -> ssl.SSLContext:
    """TLS 1.2 or newer with the stored chain and key; the stored roots are the only trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if alpn:
        context.set_alpn_protocols([ALPN])
    # ssl takes keys from files only; an anonymous one leaves nothing behind.
    file = os.memfd_create("credentials")
    try:
        os.write(file, chain + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{file}")
        context.load_verify_locations(cadata=roots.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise StoredError(str(error)) from error
    finally:
        os.close(file)
    return context


def dial(context: ssl.SSLContext, line: Line) -> tuple[str, str]:
    """Make one attempt; return the ending by its name in docs/new-board.md, and a text for engineers."""
    deadline = time.monotonic() + line.timeout_s
    try:
        plain = socket.create_connection(line.address, line.timeout_s)
    except OSError as error:
        return "unreachable", str(error)
    with plain:
        try:
            with _shake(context, plain, line.host, deadline) as secure:
                return _talk(secure, line, deadline)
        except _EndedError as ended:
            return ended.args[0], ended.args[1]


def _shake(context: ssl.SSLContext, plain: socket.socket, host: str, deadline: float) -> ssl.SSLSocket:
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        _set_rest(plain, deadline)
        return context.wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False)
    except ssl.SSLCertVerificationError as error:
        raise _EndedError("untrusted", error.verify_message) from error
    except TimeoutError as error:
        raise _EndedError("silent", "in the handshake") from error
    except OSError as error:
        raise _EndedError("dropped", str(error)) from error


def _talk(secure: ssl.SSLSocket, line: Line, deadline: float) -> tuple[str, str]:
    try:
        secure.sendall(_connect_packet(line))
        kind, body = _packet(secure, deadline)
    except TimeoutError:
        return "silent", "no CONNACK"
    except OSError as error:
        return "dropped", str(error)
    if kind != _CONNACK or len(body) != 2:
        return "dropped", f"packet {kind:#04x} instead of a CONNACK"
    if body[1]:
        return "refused", f"CONNACK {body[1]}"
    try:
        return _hold(secure, line.hold_s) if line.hold_s else _publish(secure, line, deadline)
    except OSError as error:
        return "unacknowledged", str(error)


def _publish(secure: ssl.SSLSocket, line: Line, deadline: float) -> tuple[str, str]:
    _set_rest(secure, deadline)
    secure.sendall(_packed(_PUBLISH_QOS1, _text(line.topic) + b"\x00\x01" + line.payload))
    while _packet(secure, deadline) != (_PUBACK, b"\x00\x01"):
        pass
    secure.sendall(_packed(_DISCONNECT, b""))
    return "acknowledged", ""


def _hold(secure: ssl.SSLSocket, hold_s: float) -> tuple[str, str]:
    deadline = time.monotonic() + hold_s
    try:
        while True:
            _packet(secure, deadline)
    except TimeoutError:
        secure.settimeout(1)
        secure.sendall(_packed(_DISCONNECT, b""))
        return "acknowledged", ""


def _connect_packet(line: Line) -> bytes:
    # A keep-alive longer than the dial needs no PINGREQ.
    keep_alive = min(65_535, int(2 * (line.timeout_s + line.hold_s)) + 30)
    return _packed(_CONNECT, _text("MQTT") + b"\x04" + b"\x02" + keep_alive.to_bytes(2, "big") + _text(line.client))


def _packed(kind: int, body: bytes) -> bytes:
    length, rest = b"", len(body)
    while True:
        rest, low = divmod(rest, 128)
        length += bytes([low | 0x80 if rest else low])
        if not rest:
            return bytes([kind]) + length + body


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def _packet(secure: ssl.SSLSocket, deadline: float) -> tuple[int, bytes]:
    """The next whole packet: its first byte and its body."""
    kind = _exactly(secure, 1, deadline)[0]
    length = 0
    for shift in (0, 7, 14, 21):
        byte = _exactly(secure, 1, deadline)[0]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    if length > _MAX_PACKET:
        raise ConnectionError(f"a packet of {length} bytes")
    return kind, _exactly(secure, length, deadline)


def _exactly(secure: ssl.SSLSocket, size: int, deadline: float) -> bytes:
    got = b""
    while len(got) < size:
        _set_rest(secure, deadline)
        piece = secure.recv(size - len(got))
        if not piece:
            raise ConnectionError("closed by the server")
        got += piece
    return got


def _set_rest(connection: socket.socket, deadline: float) -> None:
    rest = deadline - time.monotonic()
    if rest <= 0:
        raise TimeoutError
    connection.settimeout(rest)
