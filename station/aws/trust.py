"""Whom a connection to AWS IoT trusts: the roots it was given, TLS 1.2 at least, and the name it asks for."""

from __future__ import annotations

import ssl
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
