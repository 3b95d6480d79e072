"""One connection to AWS IoT, made with exactly what is installed in the unit, and how it ended."""

from __future__ import annotations

import math
import os
import ssl
import time
from collections.abc import Callable
from typing import Final

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from station.faults import Fault, FaultError
from station.model import Call, Credentials, Ending

_ALPN: Final = "x-amzn-mqtt-ca"  # AWS IoT developer guide, "Device communication protocols": MQTT on port 443
_TURN_S: Final = 0.02


def dial(credentials: Credentials, call: Call, *, alpn: bool) -> Ending:
    """Connect, publish once with QoS 1, and leave; within about ``call.timeout_s``.

    Every way that the peer may end it is an `Ending`. The TLS handshake alone cannot be watched for its whole length:
    a server that trickles it may take a few timeouts.

    Raises:
        FaultError: `Fault.CHAIN_INCOMPLETE` where the credentials do not fit together, before any network.
    """
    context = _context(credentials, alpn=alpn)
    deadline = time.monotonic() + call.timeout_s
    contact = _Contact(call, context)
    try:
        failed = contact.connect()
        return failed or contact.talk(deadline)
    finally:
        contact.leave()


class _Contact:
    """A paho client driven by this thread alone: no loop of its own, no reconnects, nothing left behind."""

    def __init__(self, call: Call, context: ssl.SSLContext) -> None:
        self._call = call
        self._connack: ReasonCode | None = None
        self._acknowledged: int | None = None
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=call.client_id,
            clean_session=True,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        self._client.connect_timeout = call.timeout_s
        self._client.tls_set_context(context)
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish

    def _on_connect(self, _client: object, _data: object, _flags: object, code: ReasonCode, _props: object) -> None:
        self._connack = code

    def _on_publish(self, _client: object, _data: object, mid: int, _code: object, _props: object) -> None:
        self._acknowledged = mid

    def connect(self) -> Ending | None:
        """TCP, TLS, and the CONNECT packet; None where all of that was sent."""
        try:
            # paho's handshake waits as long as its keep-alive says, in whole seconds.
            self._client.connect(self._call.endpoint, self._call.port, keepalive=math.ceil(self._call.timeout_s))
        except ssl.SSLCertVerificationError:
            return Ending.UNTRUSTED
        except TimeoutError as error:
            return Ending.SILENT if "handshake" in str(error) else Ending.UNREACHABLE
        except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
            return Ending.DROPPED
        except OSError:
            return Ending.UNREACHABLE
        return None

    def talk(self, deadline: float) -> Ending:
        """CONNACK, then PUBACK (or, to hold, nothing for a while)."""
        if not self._turn_until(deadline, lambda: self._connack is not None):
            return Ending.SILENT if self._client.is_connected() or self._alive() else Ending.DROPPED
        if self._connack is None or self._connack.is_failure:
            return Ending.REFUSED
        if self._call.hold_s:
            self._turn_until(time.monotonic() + self._call.hold_s, lambda: False)
            return Ending.ACKNOWLEDGED if self._alive() else Ending.UNACKNOWLEDGED
        sent = self._client.publish(self._call.topic, self._call.payload, qos=1)
        done = self._turn_until(deadline, lambda: self._acknowledged == sent.mid)
        return Ending.ACKNOWLEDGED if done else Ending.UNACKNOWLEDGED

    def leave(self) -> None:
        """Say DISCONNECT where there is somebody to say it to; the socket is closed in any case."""
        if self._alive():
            self._client.disconnect()
            self._client.loop(_TURN_S)
        self._client._reset_sockets()  # noqa: SLF001 - paho closes a half-open connection nowhere else

    def _alive(self) -> bool:
        return self._client.socket() is not None

    def _turn_until(self, deadline: float, done: Callable[[], bool]) -> bool:
        """Drive the client until ``done()``; False where the deadline or the end of the connection came first."""
        while not done():
            if time.monotonic() >= deadline or self._client.loop(_TURN_S) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return bool(done())
        return True


def _context(credentials: Credentials, *, alpn: bool) -> ssl.SSLContext:
    """TLS as the unit would speak it: 1.2 at least, our roots alone, the leaf and its CA sent."""
    if len(credentials.chain) < 2 or credentials.private_key is None:
        raise FaultError(Fault.CHAIN_INCOMPLETE, f"{len(credentials.chain)} certificate(s); leaf and CA are to be sent")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=credentials.server_roots.decode("ascii"))
    if alpn:
        context.set_alpn_protocols([_ALPN])
    key = credentials.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # ssl loads keys from files only; this one is memory, has no name, and is gone when it is closed.
    handle = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        os.write(handle, credentials.chain_pem + key)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    except ssl.SSLError as error:
        raise FaultError(Fault.CHAIN_INCOMPLETE, f"key and chain do not fit together: {error.reason}") from None
    finally:
        os.close(handle)
    return context
