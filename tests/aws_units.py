"""What the tests of `station.aws` share: a unit with its credentials, its cloud, and a slot to lift it from."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cloud import Device, ProviderCA, SimCloud, device
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from station.aws import AwsCloud, Registry
from station.aws.registry import Grant
from station.credentials import Credentials
from station.faults import Fault, FaultError
from station.jig import Presence
from station.model import Call, CertificateStatus, KeyOrigin, KeyType, Product, Profile, Unit, certificate_id
from station.slots import Halt, RunStop

PRODUCT = Product("sensor-b", "console", "demo-board", KeyType.P256, KeyOrigin.STATION, Profile(365, 60))
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
_serials = itertools.count(1)


@dataclass(frozen=True)
class Contact:
    """One fresh unit and everything it needs to meet the cloud."""

    cloud: AwsCloud
    ca: ProviderCA
    device: Device
    credentials: Credentials
    call: Call
    presence: Presence
    stop: RunStop

    def dial(self, call: Call) -> Any:
        return self.cloud.dial(self.credentials, call)

    def wait_active(self) -> None:
        self.cloud.wait_active(self.device.leaf, self.call, self.dial, self.stop)

    def wait_accepted(self) -> None:
        self.cloud.wait_accepted(self.device.leaf, self.call, self.dial, self.stop)

    def status(self) -> CertificateStatus | None:
        return self.cloud.status(self.device.leaf)

    def retire(self) -> None:
        self.cloud.retire(self.device.leaf, certificate_id(self.ca.certificate))


def credentials_of(unit: Device, ca: ProviderCA, cloud: SimCloud) -> Credentials:
    key = load_pem_private_key(unit.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Credentials((unit.leaf, ca.certificate), cloud.server_roots.read_bytes(), key)


@cache
def shared_registry(region: str, api_url: str) -> Registry:
    """One client for a worker's tests: to make one takes longer than most of them."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        return Registry(region, api_url=api_url)


def aws_cloud(cloud: SimCloud, ca: ProviderCA, policy: str | None, **changes: Any) -> AwsCloud:
    plain = {
        "registry": shared_registry(cloud.said["region"], cloud.said["api_url"]),
        "server_roots": cloud.server_roots.read_bytes(),
        "endpoint": "localhost",
        "port": cloud.mqtt_port,
        "alpn": False,
        "ca_certificate_id": ca.id,
        "grant": Grant(policy) if policy else None,
        "dial_timeout_s": 0.6,
        "deadline_s": 20.0,
    }
    return AwsCloud(**{**plain, **changes})


def contact(cloud: SimCloud, ca: ProviderCA, folder: Path, policy: str | None, **changes: Any) -> Contact:
    serial = f"SN-{next(_serials)}-{os.urandom(3).hex()}"
    folder = folder / serial
    unit = device(ca, folder, serial)
    made = aws_cloud(cloud, ca, policy, **changes)
    call = made.call(Unit(serial, f"CHIP-{serial}", "demo-board", "1.0"), PRODUCT)
    presence = Presence(debounce_s=0.0, lifted_s=0.0)
    presence.see(("a board",))
    stop = RunStop(presence, Halt(), lambda: None)
    stop.check()
    return Contact(made, ca, unit, credentials_of(unit, ca, cloud), call, presence, stop)


def lift(unit: Contact) -> None:
    unit.presence.see(None)


@contextmanager
def raises(fault: Fault, text: str = "") -> Iterator[pytest.ExceptionInfo[FaultError]]:
    """As `pytest.raises`, for one fault whose detail says ``text``."""
    with pytest.raises(FaultError) as error:
        yield error
    assert error.value.fault is fault, str(error.value)
    assert text in error.value.detail
