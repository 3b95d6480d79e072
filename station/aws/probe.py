"""Whether AWS IoT could be worked with now, asked without changing anything there."""

from __future__ import annotations

import http.client
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from station.aws.trust import connected, trusting
from station.faults import Fault, FaultError

_WRONG_NAME: Final = ("UNRECOGNIZED_NAME", "NO_APPLICATION_PROTOCOL")


def greet(endpoint: str, port: int, server_roots: bytes, *, alpn: bool, timeout_s: float) -> str:
    """A TLS handshake without a certificate of ours, by name and by the server's chain; returns the TLS version.

    The cloud hangs up when it asks for ours: on TLS 1.3 after the handshake, on 1.2 within it. Either way it has shown
    its own chain before, which is what is asked here.

    Raises:
        FaultError: `CLOUD_UNTRUSTED` where chain or name do not verify by ``server_roots``, `CLOUD_UNREACHABLE` where
            nobody listens, `CLOUD_SILENT` where nobody answers.
    """
    context = trusting(server_roots, alpn=alpn)
    where = f"{endpoint}:{port}"
    try:
        with connected(endpoint, port, context, time.monotonic() + timeout_s) as tls:
            tls.settimeout(timeout_s)
            tls.do_handshake()
            return tls.version() or "TLS"
    except ssl.SSLCertVerificationError as error:
        text = f"{where}: its certificate does not verify by the server roots and its name: {error.verify_message}"
        raise FaultError(Fault.CLOUD_UNTRUSTED, text) from error
    except TimeoutError as error:
        raise FaultError(Fault.CLOUD_SILENT, f"{where}: no answer within {timeout_s:g} s") from error
    except ssl.SSLError as error:
        if any(word in str(error.reason) for word in _WRONG_NAME):
            raise FaultError(Fault.CLOUD_UNREACHABLE, f"{where} does not know this name or port: {error}") from error
        return "TLSv1.2"  # it asked for our certificate, within the handshake
    except (OSError, UnicodeError) as error:
        raise FaultError(Fault.CLOUD_UNREACHABLE, f"{where}: {error}") from error


def server_clock(url: str, timeout_s: float) -> tuple[datetime, float]:
    """The Date of an unsigned answer (RFC 9110, 6.6.1; whole seconds), and the seconds that the answer took.

    Unsigned, for a signed request is refused just when the clock is wrong.

    Raises:
        FaultError: `CLOUD_UNREACHABLE`; `CLOUD_UNTRUSTED` where the chain does not verify; `AWS_ERROR` without a Date.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    began = time.monotonic()
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().headers.get("date", "")
    except ssl.SSLCertVerificationError as error:
        raise FaultError(Fault.CLOUD_UNTRUSTED, f"{parts.hostname}: {error.verify_message}") from error
    except (OSError, http.client.HTTPException) as error:
        raise FaultError(Fault.CLOUD_UNREACHABLE, f"{parts.hostname}: {error}") from error
    finally:
        connection.close()
    took = time.monotonic() - began
    try:
        return parsedate_to_datetime(date).astimezone(UTC), took
    except ValueError as error:
        raise FaultError(Fault.AWS_ERROR, f"{parts.hostname} answers without a Date") from error
