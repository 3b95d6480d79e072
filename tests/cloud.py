"""The simulated AWS IoT for tests: one a worker, its troubles cleared after each test; a provider's CA and devices."""

from __future__ import annotations

import datetime as dt
import json
import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from station.sim.line import start_cloud

OPEN_POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["iot:Connect", "iot:Publish"], "Resource": "*"}],
}


@dataclass(frozen=True)
class SimCloud:
    """One running cloud. ``said`` is its ready line."""

    folder: Path
    said: Mapping[str, Any]

    @property
    def mqtt_port(self) -> int:
        return int(self.said["mqtt_port"])

    @property
    def alpn_port(self) -> int:
        return int(self.said["alpn_port"])

    @property
    def server_roots(self) -> Path:
        return Path(self.said["server_roots"])

    def troubles(self, **orders: Any) -> None:
        """Replace all troubles; none clears them."""
        self.control("troubles", orders)

    def control(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - our own simulator
            f"{self.said['control_url']}/{name}", None if body is None else json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own simulator
            said: dict[str, Any] = json.load(answer)
            return said

    def boto(self, key: str = "test", **config: Any) -> Any:
        """A stranger's client of the registry. It does not retry: tests see each answer."""
        return boto3.client(
            "iot",
            region_name=self.said["region"],
            endpoint_url=self.said["api_url"],
            aws_access_key_id=key,
            aws_secret_access_key=key,
            config=botocore.config.Config(retries={"total_max_attempts": 1}, **config),
        )


@dataclass(frozen=True)
class ProviderCA:
    """A CA whose key is in this process. ``id`` is the registry's, empty where it is not registered."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    id: str = ""

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()


@dataclass(frozen=True)
class Device:
    """A device's certificate with its files: key, leaf alone, and chain (leaf first)."""

    leaf: x509.Certificate
    key: Path
    alone: Path
    chain: Path

    @property
    def id(self) -> str:
        return self.leaf.fingerprint(hashes.SHA256()).hex()


def make_ca(
    name: str = "Test Device CA",
    *,
    by: ProviderCA | None = None,
    constraints: x509.BasicConstraints | None = None,
    subject: x509.Name | None = None,
) -> ProviderCA:
    """A CA certificate; ``constraints`` without ``ca`` makes one that AWS IoT refuses."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {os.urandom(4).hex()}")])
    builder = _builder(subject, by.certificate.subject if by else subject, key.public_key())
    if constraints is None:
        constraints = x509.BasicConstraints(ca=True, path_length=None)
    builder = builder.add_extension(constraints, critical=True)
    return ProviderCA(builder.sign(by.key if by else key, hashes.SHA256()), key)


def verification(ca: ProviderCA, code: str) -> str:
    """The certificate that proves possession of the CA's key: CN = registration code, signed by the CA."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, code)])
    signed = _builder(subject, ca.certificate.subject, ca.key.public_key()).sign(ca.key, hashes.SHA256())
    return signed.public_bytes(Encoding.PEM).decode()


def register(api: Any, ca: ProviderCA, *, active: bool = True, auto: bool = True) -> ProviderCA:
    """Register the CA as AWS asks in mode DEFAULT."""
    code = api.get_registration_code()["registrationCode"]
    found = api.register_ca_certificate(
        caCertificate=ca.pem,
        verificationCertificate=verification(ca, code),
        setAsActive=active,
        allowAutoRegistration=auto,
    )
    return ProviderCA(ca.certificate, ca.key, found["certificateId"])


def provider_ca(cloud: SimCloud) -> ProviderCA:
    """A fresh CA, registered, active, with auto-registration."""
    api = cloud.boto()
    try:
        return register(api, make_ca())
    finally:
        api.close()


def device(ca: ProviderCA, folder: Path, name: str = "SN-1") -> Device:
    """A device's key and certificate under ``ca``, as files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = leaf_of(ca, key.public_key(), name)
    pem = leaf.public_bytes(Encoding.PEM)
    made = Device(leaf, folder / "key.pem", folder / "leaf.pem", folder / "chain.pem")
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    made.alone.write_bytes(pem)
    made.chain.write_bytes(pem + ca.pem.encode())
    return made


def leaf_of(ca: ProviderCA, public: ec.EllipticCurvePublicKey, name: str) -> x509.Certificate:
    """A device's certificate alone: all that AWS IoT ever sees of one."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        _builder(subject, ca.certificate.subject, public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(ca.key, hashes.SHA256())
    )


def activate(api: Any, device: Device, policy: Mapping[str, Any] | None = OPEN_POLICY) -> None:
    """What the provider does with a certificate that is PENDING_ACTIVATION: policy first, then ACTIVE."""
    if policy is not None:
        name = f"p-{os.urandom(4).hex()}"
        api.create_policy(policyName=name, policyDocument=json.dumps(policy))
        found = api.describe_certificate(certificateId=device.id)["certificateDescription"]
        api.attach_policy(policyName=name, target=found["certificateArn"])
    api.update_certificate(certificateId=device.id, newStatus="ACTIVE")


def state(api: Any, device: Device) -> str | None:
    """The registry's word for the certificate; None where it knows nothing."""
    try:
        return str(api.describe_certificate(certificateId=device.id)["certificateDescription"]["status"])
    except api.exceptions.ResourceNotFoundException:
        return None


def _builder(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


@pytest.fixture(scope="session")
def shared_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimCloud]:
    folder = tmp_path_factory.mktemp("cloud")
    with ExitStack() as parts:
        yield SimCloud(folder, start_cloud(folder, parts, os.environ))


@pytest.fixture
def cloud(shared_cloud: SimCloud) -> Iterator[SimCloud]:
    yield shared_cloud
    shared_cloud.troubles()


@pytest.fixture
def api(cloud: SimCloud) -> Iterator[Any]:
    """The registry as a stranger sees it."""
    client = cloud.boto()
    yield client
    client.close()


@pytest.fixture
def ca(cloud: SimCloud) -> ProviderCA:
    """A fresh CA, registered, active, with auto-registration."""
    return provider_ca(cloud)
