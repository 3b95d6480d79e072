"""What the simulated cloud has been told to do wrong. One value, replaced whole by ``POST /_sim/troubles``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any


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

    ``api`` names an error for each operation, ``throttle`` calls a second; ``*`` means any operation.
    """

    endings: list[str] = field(default_factory=list)
    endings_always: str = MqttEnding.PASS
    delay_ms: int = 0
    pending_delay_s: float = 0.0
    throttle: dict[str, float] = field(default_factory=dict)
    api: dict[str, str] = field(default_factory=dict)

    def replace(self, orders: dict[str, Any]) -> None:
        """Take these orders instead of all former ones. Raises ValueError for what is no order."""
        fresh = Troubles(**{one.name: orders.pop(one.name) for one in fields(self) if one.name in orders})
        if orders:
            raise ValueError(f"no such orders: {', '.join(orders)}")
        for ending in (*fresh.endings, fresh.endings_always):
            MqttEnding(ending)
        for one in fields(self):
            setattr(self, one.name, getattr(fresh, one.name))

    def next_ending(self) -> MqttEnding:
        """What becomes of the connection that just came."""
        return MqttEnding(self.endings.pop(0) if self.endings else self.endings_always)
