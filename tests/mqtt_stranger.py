"""Strangers at the simulated cloud's MQTT ports: mosquitto_pub, and a client that says exactly what it saw."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from cloud import Device, SimCloud

ALPN = "x-amzn-mqtt-ca"
CONNACK, REFUSED, PUBACK = b"\x20\x02\x00\x00", b"\x20\x02\x00\x05", b"\x40\x02\x00\x01"


def mosquitto_pub(
    cloud: SimCloud, device: Device | None, *more: str, chain: bool = True, port: int = 0, topic: str = "foo/bar"
) -> int:
    """The seed's own last line; returns its exit code."""
    identity = ["--cert", str(device.chain if chain else device.alone), "--key", str(device.key)] if device else []
    command = ["mosquitto_pub", "--cafile", str(cloud.server_roots), *identity, "-h", "localhost"]
    command += ["-p", str(port or cloud.mqtt_port), "-q", "1", "-t", topic, "-m", "Hello", *more]
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode


def connect_packet(client_id: str = "SN-1") -> bytes:
    """CONNECT of MQTT 3.1.1, clean session."""
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(client_id).to_bytes(2, "big") + client_id.encode()
    assert len(body) < 0x4000
    length = bytes([len(body)]) if len(body) < 0x80 else bytes([len(body) & 0x7F | 0x80, len(body) >> 7])
    return b"\x10" + length + body


def publish_packet(topic: str = "foo/bar") -> bytes:
    """PUBLISH with QoS 1 and packet id 1."""
    body = len(topic).to_bytes(2, "big") + topic.encode() + b"\x00\x01Hello"
    return bytes([0x32, len(body)]) + body


@contextmanager
def connection(
    cloud: SimCloud,
    device: Device | None,
    *,
    port: int = 0,
    sni: str | None = "localhost",
    alpn: str | None = None,
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    timeout_s: float = 5.0,
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection, the handshake done."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = sni is not None
    context.maximum_version = maximum
    context.load_verify_locations(cloud.server_roots)
    if device:
        context.load_cert_chain(device.chain, device.key)
    if alpn:
        context.set_alpn_protocols([alpn])
    # Wrapped before it connects: a connection that is reset in between is lost inside `wrap_socket`, unclosed.
    with context.wrap_socket(socket.socket(), server_hostname=sni, suppress_ragged_eofs=False) as tls:
        tls.settimeout(timeout_s)
        tls.connect(("127.0.0.1", port or cloud.mqtt_port))
        yield tls


def answer(tls: ssl.SSLSocket, packet: bytes) -> bytes:
    """Send one packet; return what came, nothing where the server closed."""
    tls.sendall(packet)
    return tls.recv(4096)


def meet(cloud: SimCloud, device: Device | None, *, client_id: str = "SN-1", **how: object) -> str:
    """Connect and publish; return how far it went and how it ended.

    Either ``acknowledged``, ``refused`` (CONNACK 5), or how far (``handshake:``, ``connect:``, ``publish:``) with the
    end: ``closed``, ``cut`` (no close_notify; Python calls a reset within TLS so too), ``reset``, ``silent``, or the
    name that OpenSSL gives to an alert.
    """
    at = "handshake"
    try:
        with connection(cloud, device, **how) as tls:  # type: ignore[arg-type]  # handed on as it came
            at = "connect"
            said = answer(tls, connect_packet(client_id))
            if said == CONNACK:
                at = "publish"
                said = answer(tls, publish_packet())
    except OSError as error:
        return f"{at}: {_end(error)}"
    return {REFUSED: "refused", PUBACK: "acknowledged", b"": f"{at}: closed"}.get(said, said.hex())


def _end(error: OSError) -> str:
    match error:
        case TimeoutError():
            return "silent"
        case ConnectionResetError():
            return "reset"
        case ssl.SSLZeroReturnError():
            return "closed"
        case ssl.SSLEOFError():
            return "cut"
        case ssl.SSLError():
            return str(error.reason)
    raise error
