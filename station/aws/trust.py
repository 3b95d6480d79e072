"""A connection to AWS IoT: whom it trusts (the roots it was given, TLS 1.2 at least, a name), and how it is opened."""

from __future__ import annotations

import socket
import ssl
import time
from typing import Final

from station.faults import Fault, FaultError

ALPN: Final = "x-amzn-mqtt-ca"  # AWS IoT developer guide, "Device communication protocols": MQTT on port 443


def trusting(server_roots: bytes, *, alpn: bool) -> ssl.SSLContext:
    """A client's context that trusts ``server_roots`` (PEM) alone, without a certificate of its own.

    Raises:
        FaultError: `Fault.CLOUD_UNTRUSTED` where the roots are not readable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=server_roots.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise FaultError(Fault.CLOUD_UNTRUSTED, f"the server roots are not readable: {error}") from error
    if alpn:
        context.set_alpn_protocols([ALPN])
    return context


def connected(host: str, port: int, context: ssl.SSLContext, deadline: float) -> ssl.SSLSocket:
    """A TCP connection to the first of the host's addresses that answers, its handshake still to be made.

    Each address gets a fair share of the time until ``deadline`` (of `time.monotonic`). Wrapped before it connects: a
    connection that is reset in between is lost inside `wrap_socket`, unclosed.

    Raises:
        OSError: as the last address failed; TimeoutError where no time was left.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failed: OSError = TimeoutError("no time was left to connect")
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        share = (deadline - time.monotonic()) / (len(addresses) - tried)
        if share <= 0:
            break
        raw = socket.socket(family, kind, protocol)
        # The CONNECT follows the handshake's last bytes at once: it must not wait for their acknowledgement.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
        try:
            tls.settimeout(share)
            tls.connect(address)
        except OSError as error:
            tls.close()
            failed = error
        else:
            return tls
    raise failed
