"""The provider's side for tests: a registry, a policy, connections in bulk, and a ledger whose runs stop anywhere."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cloud import OPEN_POLICY, Device, ProviderCA, SimCloud, device
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from ledgers import admitted, note, production
from ledgers import key as key_name
from ledgers import unit as make_unit

from station.aws.registry import Registry
from station.ledger import SqliteLedger
from station.ledger.standing import LedgerRegister
from station.model import Run, Step

POLICY = "activated-device"


@pytest.fixture
def registry(cloud: SimCloud, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return Registry(cloud.said["region"], api_url=cloud.said["api_url"], per_s=2000)


@pytest.fixture
def policy(api: Any) -> str:
    with suppress(api.exceptions.ResourceAlreadyExistsException):
        api.create_policy(policyName=POLICY, policyDocument=json.dumps(OPEN_POLICY))
    return POLICY


def connect(cloud: SimCloud, *devices: Device | x509.Certificate) -> None:
    """As if each had connected: AWS IoT registers it and tells."""
    leaves = [one.leaf if isinstance(one, Device) else one for one in devices]
    cloud.control("connected", {"certificates": [leaf.public_bytes(Encoding.DER).hex() for leaf in leaves]})


class Line:
    """A ledger with runs under one CA, taken as far as a test wants."""

    def __init__(self, ledger: SqliteLedger, ca: ProviderCA, folder: Path) -> None:
        self.ledger, self.ca, self._folder = ledger, ca, folder
        self._made = 0
        self.register = LedgerRegister(ledger.store.read)

    def run(self, serial: str, *, at_connect: bool = True, key: str = "") -> tuple[Run, Device]:
        """A run with its certificate on record; at CONNECT where told."""
        self._made += 1
        run = admitted(self.ledger, make_unit(serial))
        made = device(self.ca, self._folder / str(self._made), serial)
        run.number = made.leaf.serial_number
        self.ledger.certifying(run, key_name(key or f"{serial}-{self._made}"), self.ca.id, run.number)
        self.ledger.certified(run, made.leaf)
        for step in (Step.IDENTIFY, Step.ADMIT, Step.ENROLL, Step.ISSUE, Step.INSTALL):
            note(self.ledger, run, step)
        if at_connect:
            note(self.ledger, run, Step.VERIFY)
        return run, made


@pytest.fixture
def line(ledger: SqliteLedger, ca: ProviderCA, tmp_path: Path) -> Line:
    ledger.add_order(production(quantity=50), "test")
    return Line(ledger, ca, tmp_path / "devices")
