"""One connection to AWS IoT, made with exactly what is installed in the unit, and how it ended."""

from __future__ import annotations

import ipaddress
import math
import os
import select
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import paho.mqtt.client as mqtt
from cryptography.exceptions import InvalidSignature
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from station.aws.trust import connected, trusting
from station.credentials import Credentials
from station.faults import Fault, FaultError
from station.model import Call, Ending

_TURN_S: Final = 0.02


def dial(credentials: Credentials, call: Call, *, alpn: bool) -> Ending:
    """Connect, publish once with QoS 1 (or hold), and leave; within ``call.timeout_s``, plus ``call.hold_s``.

    Every way that the peer may end it is an `Ending`. Only the name's lookup is bounded by the system's resolver
    (resolv.conf(5)) instead.

    Raises:
        FaultError: before any network, `Fault.CHAIN_INCOMPLETE` where the credentials do not fit together or the
            endpoint cannot be named by SNI; `Fault.CLOUD_UNTRUSTED` where the server roots are not readable.
    """
    context = _context(credentials, call.endpoint, alpn=alpn)
    deadline = time.monotonic() + call.timeout_s
    try:
        tls = connected(call.endpoint, call.port, context, deadline)
    except ConnectionResetError:  # there is somebody: it hung up before this side had looked
        return Ending.DROPPED
    except (OSError, UnicodeError):  # UnicodeError: no host can have such a name
        return Ending.UNREACHABLE
    try:
        _handshake(tls, deadline)
    except OSError as error:
        tls.close()
        return _ending(error)
    contact = _Contact(call, tls)
    try:
        return contact.talk(deadline)
    finally:
        contact.leave()


def knock(endpoint: str, port: int, server_roots: bytes, timeout_s: float, *, alpn: bool) -> Ending:
    """Whether the endpoint is there and is who it should be, told without any unit's credentials.

    A server that hangs up on a client without a certificate, as AWS IoT does, has said enough by then: `DROPPED`.

    Raises:
        FaultError: `Fault.CLOUD_UNTRUSTED` where the server roots are not readable.
    """
    context = trusting(server_roots, alpn=alpn)
    deadline = time.monotonic() + timeout_s
    try:
        tls = connected(endpoint, port, context, deadline)
    except ConnectionResetError:
        return Ending.DROPPED
    except (OSError, UnicodeError):
        return Ending.UNREACHABLE
    try:
        _handshake(tls, deadline)
    except OSError as error:
        return _ending(error)
    finally:
        tls.close()
    return Ending.DROPPED


def _handshake(tls: ssl.SSLSocket, deadline: float) -> None:
    """The handshake as a whole within the deadline, which a socket's own timeout (each read anew) cannot promise."""
    tls.settimeout(0)
    while True:
        waits: tuple[list[ssl.SSLSocket], list[ssl.SSLSocket]]
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            waits = [tls], []
        except ssl.SSLWantWriteError:
            waits = [], [tls]
        else:
            return
        left = deadline - time.monotonic()
        if left <= 0 or not any(select.select(*waits, [], left)):
            raise TimeoutError("the handshake took too long")


def _ending(error: OSError) -> Ending:
    """What a failed handshake says: our refusal of the server, our patience, or else the peer's refusal of us."""
    match error:
        case ssl.SSLCertVerificationError():
            return Ending.UNTRUSTED
        case TimeoutError():
            return Ending.SILENT
        case _:
            return Ending.DROPPED


class _Client(mqtt.Client):
    """paho on a connection that is made already: its own way has no deadline, and goes on without SNI."""

    def __init__(self, client_id: str, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )

    def _create_socket(self) -> ssl.SSLSocket:
        return self._tls


class _Contact:
    """A paho client driven by this thread alone: no loop of its own, no reconnects, nothing left behind."""

    def __init__(self, call: Call, tls: ssl.SSLSocket) -> None:
        self._call, self._tls = call, tls
        self._connack: ReasonCode | None = None
        self._acknowledged: int | None = None
        self._client = _Client(call.client_id, tls)
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish

    def _on_connect(self, _client: object, _data: object, _flags: object, code: ReasonCode, _props: object) -> None:
        self._connack = code

    def _on_publish(self, _client: object, _data: object, mid: int, _code: object, _props: object) -> None:
        self._acknowledged = mid

    def talk(self, deadline: float) -> Ending:
        """CONNECT and CONNACK, then PUBACK (or, to hold, nothing for a while)."""
        keepalive = math.ceil(self._call.timeout_s + self._call.hold_s) + 1
        self._client.connect(self._call.endpoint, self._call.port, keepalive)
        self._turn_until(deadline, lambda: self._connack is not None)
        if self._connack is None:
            return Ending.SILENT if self._alive() else Ending.DROPPED
        if self._connack.is_failure:
            return Ending.REFUSED
        if self._call.hold_s:
            self._turn_until(time.monotonic() + self._call.hold_s, lambda: False)
            return Ending.ACKNOWLEDGED if self._alive() else Ending.UNACKNOWLEDGED
        sent = self._client.publish(self._call.topic, self._call.payload, qos=1)
        self._turn_until(deadline, lambda: self._acknowledged == sent.mid)
        return Ending.ACKNOWLEDGED if self._acknowledged == sent.mid else Ending.UNACKNOWLEDGED

    def leave(self) -> None:
        """Say DISCONNECT where there is somebody to say it to; the sockets are closed in any case."""
        if self._alive():
            self._client.disconnect()
            self._client.loop(_TURN_S)
        self._client._reset_sockets()  # noqa: SLF001 - paho closes its own pair of sockets nowhere else
        with suppress(OSError):
            self._tls.close()

    def _alive(self) -> bool:
        return self._client.socket() is not None

    def _turn_until(self, deadline: float, done: Callable[[], bool]) -> None:
        """Drive the client until ``done()``, the deadline or the end of the connection."""
        while not done() and time.monotonic() < deadline:
            if self._client.loop(_TURN_S) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return


def _context(credentials: Credentials, endpoint: str, *, alpn: bool) -> ssl.SSLContext:
    """TLS as the unit would speak it: 1.2 at least, our roots alone, and what it holds of the chain sent."""
    _complete(credentials, endpoint)
    context = trusting(credentials.server_roots, alpn=alpn)
    # ssl loads keys from files only; this one is memory, has no name, and is gone when it is closed.
    handle = os.memfd_create("credentials", os.MFD_CLOEXEC)
    with os.fdopen(handle, "wb") as file:
        file.write(credentials.chain_pem + credentials.key_text())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    return context


def _complete(credentials: Credentials, endpoint: str) -> None:
    """All that AWS IoT needs to know the account and the CA by is there: SNI, leaf, CA, in this order; and the key.

    Without one of them the cloud hangs up as it does for any other reason, so it is told apart here. A unit that can
    hold the leaf alone sends the leaf alone, as its product says: then SNI must do.
    """
    with suppress(ValueError):
        ipaddress.ip_address(endpoint)
        raise FaultError(Fault.CHAIN_INCOMPLETE, f"{endpoint} is an address; SNI needs the endpoint's name")
    if len(credentials.chain) < 2:
        raise FaultError(Fault.CHAIN_INCOMPLETE, f"{len(credentials.chain)} certificate; leaf and CA are to be sent")
    try:
        credentials.chain[0].verify_directly_issued_by(credentials.chain[1])
    except (ValueError, TypeError, InvalidSignature) as error:
        raise FaultError(Fault.CHAIN_INCOMPLETE, "the chain's second certificate did not issue the first") from error
    if credentials.private_key is None or credentials.private_key.public_key() != credentials.leaf.public_key():
        raise FaultError(Fault.CHAIN_INCOMPLETE, "the private key is not the leaf's")
