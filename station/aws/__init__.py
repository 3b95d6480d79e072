"""AWS IoT: the registry over boto3, the connection over MQTT. The only door to both libraries."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from station.aws.authorities import CaRecord, CaRegistry
    from station.aws.cloud import AwsCloud
    from station.aws.registry import Registry

_HOMES = {
    "AwsCloud": "station.aws.cloud",
    "CaRecord": "station.aws.authorities",
    "CaRegistry": "station.aws.authorities",
    "Registry": "station.aws.registry",
}

__all__ = ["AwsCloud", "CaRecord", "CaRegistry", "Registry"]


def __getattr__(name: str) -> Any:
    """Load what is asked for alone: the provider's Lambda function has no paho, and starts the faster."""
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(_HOMES[name]), name)
