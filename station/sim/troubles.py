"""What the simulated cloud has been told to do wrong. One value, replaced whole by ``POST /_sim/troubles``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

# What the API answers under each error's name (botocore's service-2.json of `iot`, and its common errors).
API_ERRORS: Final = {
    "InvalidRequestException": 400,
    "CertificateValidationException": 400,
    "RegistrationCodeValidationException": 400,
    "LimitExceededException": 410,
    "ThrottlingException": 429,
    "UnauthorizedException": 401,
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "UnrecognizedClientException": 403,
    "ResourceNotFoundException": 404,
    "InternalFailureException": 500,
    "ServiceUnavailableException": 503,
    "AccessDenied": 403,  # this and those below as S3 says it
    "InternalError": 500,
    "SlowDown": 503,
}
_NO_ANSWER: Final = ("hang", "close")


class MqttEnding(StrEnum):
    """What becomes of one TCP connection to an MQTT port. ``registered`` ones let the CONNECT register first."""

    PASS = "pass"  # noqa: S105 - as AWS would: MiniStack decides
    CLOSE = "close"
    RESET = "reset"
    SILENT = "silent"
    OTHER_ROOT = "other-root"
    ALERT_IN_HANDSHAKE = "alert-in-handshake"
    ALERT_AFTER_HANDSHAKE = "alert-after-handshake"
    CLOSE_AFTER_HANDSHAKE = "close-after-handshake"
    SILENT_AFTER_HANDSHAKE = "silent-after-handshake"
    REGISTERED_RESET = "registered-reset"
    REGISTERED_CONNACK_5 = "registered-connack-5"
    REGISTERED_SILENT = "registered-silent"
    CONNACK_5 = "connack-5"
    CONNACK_THEN_CLOSE = "connack-then-close"
    CONNACK_NO_PUBACK = "connack-no-puback"


@dataclass
class Troubles:
    """The orders at work. ``endings`` are used up, one a connection; then ``endings_always`` holds.

    ``tls_1_2`` keeps the MQTT ports from TLS 1.3. ``pending_delay_s``: so long the registry does not know what was just
    registered. ``api`` names an error for each operation (``hang``: no answer; ``close``: half an answer), ``throttle``
    calls a second; ``*`` means any operation.
    """

    endings: list[MqttEnding] = field(default_factory=list)
    endings_always: MqttEnding = MqttEnding.PASS
    delay_ms: float = 0.0
    tls_1_2: bool = False
    pending_delay_s: float = 0.0
    throttle: dict[str, float] = field(default_factory=dict)
    api: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take what JSON gave. Raises ValueError or TypeError for what is no order: a slip must not pass as calm."""
        self.endings = [MqttEnding(ending) for ending in self.endings]
        self.endings_always = MqttEnding(self.endings_always)
        self.delay_ms, self.pending_delay_s = float(self.delay_ms), float(self.pending_delay_s)
        self.throttle = {name: float(limit) for name, limit in dict(self.throttle).items()}
        unknown = set(dict(self.api).values()) - {*API_ERRORS, *_NO_ANSWER}
        if unknown:
            raise ValueError(f"no such answers: {', '.join(unknown)}")

    def replace(self, orders: dict[str, Any]) -> None:
        """Take these orders instead of all former ones. Raises ValueError or TypeError for what is no order."""
        fresh = Troubles(**orders)
        for one in fields(self):
            setattr(self, one.name, getattr(fresh, one.name))

    def next_ending(self) -> MqttEnding:
        """What becomes of the connection that just came."""
        return self.endings.pop(0) if self.endings else self.endings_always
