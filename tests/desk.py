"""A provider at its desk, for tests: act files in a folder, a token, the simulated AWS IoT, and what the acts said."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cloud import SimCloud
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tokens import PIN, Token

from station import ceremony
from station.ca import load_ca_certificate, self_signed_root
from station.ca.lint import throw_away_key
from station.ceremony import People
from station.config import load_ceremony
from station.faults import Fault, FaultError
from station.hsm.signers import find_public_key
from station.hsm.uri import KeyUri
from station.ledger.store import Store
from station.model import KeyType

Acts = dict[str, dict[str, Any]]


@dataclass
class Desk:
    """Acts by their names; ``perform`` is what the command does."""

    folder: Path
    token: Token
    cloud: SimCloud
    said: list[str] = field(default_factory=list)
    destroyed: bool = False
    # AWS IoT takes ten CAs of one subject, and all tests share a cloud.
    organization: str = field(default_factory=lambda: f"Example {secrets.token_hex(4)}")

    @property
    def key(self) -> KeyUri:
        return KeyUri(self.token.label, self.token.module, "device-ca")

    def uri(self, name: str) -> str:
        return str(KeyUri(self.token.label, self.token.module, name))

    def write(self, name: str, **changes: Any) -> Path:
        """An act's file: its usual content with changes; None leaves a key out."""
        file = self.folder / f"{name}.yaml"
        content = {"rehearsal": True, "state": "state", **self._usual(name), **changes}
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        return file

    def _usual(self, name: str) -> dict[str, Any]:
        in_token = {"key": str(self.key), "pin": {"file": str(self.token.pin.file)}}
        at_aws = {"simulator": {"api_url": self.cloud.said["api_url"]}}
        ca = {"key_type": "p256", "subject": {"common_name": f"{name} CA REHEARSAL", "organization": self.organization}}
        minutes = {"minutes": f"minutes-{name.partition(' ')[0]}.md"}
        match name:
            case "root":
                own = {**in_token, **ca, "validity_days": 100, "outputs": {"certificate": "ca.pem", **minutes}}
            case "issuing":
                root = {"by": "csr", "certificate": "root.pem", "issued": "issued.pem"}
                own = {**in_token, **ca, "root": root}
                own |= {"outputs": {"csr": "ca.csr", "certificate": "ca.pem", **minutes}}
            case "import":
                source = {"key": "provider-key.pem", "certificate": "provider-ca.pem"}
                own = {**in_token, "source": source, "outputs": {"certificate": "ca.pem", **minutes}}
            case "register":
                own = {**in_token, **at_aws, "certificate": "ca.pem", "region": self.cloud.said["region"]}
                own |= {"outputs": {"registration": "registration.json", **minutes}}
            case "rotate":
                new = {"by": "registration", "registration": "registration.json"}
                own = {**at_aws, "old": "old.json", "new": new, "ledgers": ["line.sqlite"], "outputs": minutes}
            case "rotate by key":
                made = {"by": "key", **in_token, **ca, "validity_days": 100}
                own = {**at_aws, "old": "old.json", "new": made, "ledgers": ["line.sqlite"]}
                own |= {"outputs": {"certificate": "ca.pem", "registration": "registration.json", **minutes}}
            case "retire":
                own = {**at_aws, "registration": "registration.json", "reason": "ended", "ledgers": ["line.sqlite"]}
                own |= {"outputs": minutes}
            case _:
                own = {**in_token, "key": self.uri("station-seal"), "outputs": {"public": "seal.pem", **minutes}}
        return {"act": name.partition(" ")[0], **own}

    def perform(self, name: str, **changes: Any) -> bool:
        return self.go_on(self.write(name, **changes))

    def go_on(self, file: Path) -> bool:
        return ceremony.perform(load_ceremony(file), file, self.people())

    def undo(self, name: str) -> None:
        file = self.folder / f"{name}.yaml"
        ceremony.undo(load_ceremony(file), file, self.people())

    def has_ca(self) -> None:
        """A CA in the token and its `ca.pem`, as `root` leaves them: for tests that are not about that act."""
        made = throw_away_key(KeyType.P256)
        root = self_signed_root(
            made,
            common_name="root CA REHEARSAL",
            organization=self.organization,
            country=None,
            days=100,
            path_length=0,
            number=x509.random_serial_number(),
            not_before=datetime.now(UTC),
        )
        (self.folder / "ca.pem").write_bytes(root.public_bytes(Encoding.PEM))
        pem = self.token.folder / "brought.pem"
        pem.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        place = ["--token", self.token.label, "--label", self.key.object or "", "--id", "0a", "--pin", PIN]
        subprocess.run(["softhsm2-util", "--import", str(pem), *place], check=True, capture_output=True)
        pem.unlink()

    def people(self) -> People:
        return People("Lan", self.said.append, lambda *_: self.destroyed, ("Minh",))

    def ca(self) -> x509.Certificate:
        return load_ca_certificate(self.folder / "ca.pem")

    def registration(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "registration.json").read_text())
        return found

    def minutes(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"minutes-{name}.json").read_text())["minutes"]
        return found

    def public_key(self) -> Any:
        return find_public_key(self.key, self.token.pin, self.token.latch)

    def described(self, name: str = "") -> tuple[str, str]:
        """What AWS IoT says of the CA: its status, and auto-registration."""
        api = self.cloud.boto()
        try:
            found = api.describe_ca_certificate(certificateId=name or self.registration()["ca_certificate_id"])
        finally:
            api.close()
        about = found["certificateDescription"]
        return about["status"], about["autoRegistrationStatus"]


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulation's ledger with nothing in it: made once, for alembic takes its time."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    Store(path, simulated=True).dispose()
    return path


@pytest.fixture
def desk(tmp_path: Path, softhsm: Token, cloud: SimCloud, empty_ledger: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    folder = tmp_path / "provider"
    (folder / "state").mkdir(parents=True)
    for copy in ("state/ledger.sqlite", "line.sqlite"):
        shutil.copy(empty_ledger, folder / copy)
    return Desk(folder, softhsm, cloud)


def refusal(call: Callable[[], object], fault: Fault) -> str:
    with pytest.raises(FaultError) as error:
        call()
    assert error.value.fault is fault, error.value
    return error.value.detail
