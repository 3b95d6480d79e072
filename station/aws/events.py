"""AWS IoT's events of registered certificates, over MQTT with the activator's own certificate."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from station.aws.trust import ALPN
from station.faults import Fault, FaultError

TOPIC: Final = "$aws/events/certificates/registered/{ca}"  # AWS IoT developer guide, "Reserved topics"
_KEEPALIVE_S: Final = 30
_CONNECT_S: Final = 5.0
_TURN_S: Final = 0.25
_LONGEST_S: Final = 30.0
_MAX_PAYLOAD: Final = 8_192  # an event has some 400 bytes

log = structlog.get_logger()

Message = Callable[[bytes], None]


def parsed(payload: bytes) -> dict[str, Any] | None:
    """The event as JSON object; None for what is none, or too big to be one."""
    if len(payload) > _MAX_PAYLOAD:
        return None
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def context(certificate: Path, key: Path, server_roots: Path, *, alpn: bool) -> ssl.SSLContext:
    """TLS with a certificate of our own.

    Raises:
        FaultError: `Fault.CONFIG` where a file is missing, or the key is not the certificate's.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_verify_locations(server_roots)
        made.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise FaultError(Fault.CONFIG, f"{certificate}, {key}, {server_roots}: {error}") from error
    if alpn:
        made.set_alpn_protocols([ALPN])
    return made


class Events(threading.Thread):
    """Subscribes, and calls ``heard`` with each message; ``connected`` each time there may be some that were missed.

    It tries again for ever, 0.25 s after the first failure and at most 30 s apart: the slow poll finds what is missed.
    ``lasting``: the broker keeps the subscription and what came meanwhile (AWS IoT for an hour, unless its owner asked
    for more). A message is acknowledged when ``heard`` has returned. Where that raises `FaultError` the connection ends
    instead, and the broker brings it again.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        port: int,
        tls: ssl.SSLContext,
        client_id: str,
        topic: str,
        heard: Message,
        connected: Callable[[], None],
        lasting: bool = False,
    ) -> None:
        super().__init__(name="events")
        self._endpoint, self._port, self._tls = endpoint, port, tls
        self._client_id, self._topic = client_id, topic
        self._heard, self._connected, self._lasting = heard, connected, lasting
        self._over = threading.Event()
        self._subscribed = False
        self._state = ""

    def stop(self) -> None:
        """End within half a second, or when a connection that is being made fails."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Listen until `stop`."""
        pause = _TURN_S
        while not self._over.is_set():
            self._subscribed = False
            self._tell(self._listen())
            pause = _TURN_S if self._subscribed else min(pause * 2, _LONGEST_S)
            self._over.wait(pause)

    def _listen(self) -> str:
        """One connection, for as long as it lasts; returns how it ended."""
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=not self._lasting,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_S
        client.tls_set_context(self._tls)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        try:
            client.connect(self._endpoint, self._port, _KEEPALIVE_S)
            code = MQTTErrorCode.MQTT_ERR_SUCCESS
            while code is MQTTErrorCode.MQTT_ERR_SUCCESS and not self._over.is_set():
                code = client.loop(_TURN_S)
            with suppress(OSError, ValueError):
                client.disconnect()
        except FaultError as error:  # what came could not be kept: not acknowledged, so it comes again
            self._subscribed = False
            return str(error)
        except (OSError, ValueError) as error:  # no name, no route, no trust; paho raises what ssl and socket raise
            return str(error)
        finally:
            client._reset_sockets()  # noqa: SLF001 - paho closes its own pair of sockets nowhere else
            if (left := client.socket()) is not None:
                left.close()
        return mqtt.error_string(code)

    def _on_connect(self, client: mqtt.Client, _data: object, _flags: object, code: ReasonCode, _props: object) -> None:
        if code.is_failure:
            self._tell(f"refused: {code}")
            return
        client.subscribe(self._topic, qos=1)

    def _on_subscribe(
        self, client: mqtt.Client, _data: object, _mid: object, codes: list[ReasonCode], _props: object
    ) -> None:
        if any(code.is_failure for code in codes):
            self._tell(f"may not subscribe to {self._topic}")
            client.disconnect()
            return
        self._subscribed = True
        self._tell("listening")
        self._connected()

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        self._heard(bytes(message.payload))

    def _tell(self, state: str) -> None:
        """In the log, once a change."""
        if state != self._state and not self._over.is_set():
            self._state = state
            log.info("events", state=state, endpoint=self._endpoint, topic=self._topic)
