"""The simulated AWS IoT is as strict as AWS: each gap that would let a bad unit or a bad CA pass is shut."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from cloud import (
    ProviderCA,
    SimCloud,
    activate,
    device,
    make_ca,
    register,
    state,
    verification,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from mqtt_stranger import ALPN, CONNACK, answer, connect_packet, connection, meet, mosquitto_pub, publish_packet


def refusal(call: Any, **arguments: Any) -> str:
    """The error code with which the registry refuses."""
    with pytest.raises(botocore.exceptions.ClientError) as error:
        call(**arguments)
    return str(error.value.response["Error"]["Code"])


def s_client(cloud: SimCloud, port: int, *more: str) -> str:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(cloud.server_roots), *more]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.parametrize(
    ("chain", "alpn"), [(True, False), (False, False), (True, True)], ids=["chain", "leaf alone", "443"]
)
def test_the_first_contact_drops_and_registers_and_the_activated_unit_publishes(
    cloud: SimCloud, ca: ProviderCA, tmp_path: Path, chain: bool, alpn: bool
) -> None:
    api = cloud.boto()
    unit = device(ca, tmp_path)
    port, more = (cloud.alpn_port, ("--tls-alpn", ALPN)) if alpn else (cloud.mqtt_port, ())
    assert mosquitto_pub(cloud, unit, *more, chain=chain, port=port) != 0
    assert state(api, unit) == "PENDING_ACTIVATION"
    assert mosquitto_pub(cloud, unit, *more, chain=chain, port=port) != 0
    activate(api, unit)
    assert mosquitto_pub(cloud, unit, *more, chain=chain, port=port) == 0
    api.close()


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_first_contact_is_closed_without_a_connack(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path, maximum: ssl.TLSVersion
) -> None:
    unit = device(ca, tmp_path)
    assert meet(cloud, unit, maximum=maximum) == "connect: closed"
    activate(api, unit)
    assert meet(cloud, unit, maximum=maximum) == "acknowledged"


def test_a_handshake_alone_registers_nothing(cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path) -> None:
    unit = device(ca, tmp_path)
    with connection(cloud, unit) as tls:
        assert tls.version() == "TLSv1.3"
    with connection(cloud, unit) as tls:
        assert answer(tls, publish_packet()) == b""
    assert state(api, unit) is None


def test_a_client_without_a_certificate_is_refused(cloud: SimCloud) -> None:
    assert mosquitto_pub(cloud, None) != 0
    assert meet(cloud, None) == "connect: TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert meet(cloud, None, maximum=ssl.TLSVersion.TLSv1_2).startswith("handshake: ")


@pytest.mark.parametrize("sni", [None, "127.0.0.1", "other.example"])
def test_a_client_that_does_not_name_the_endpoint_is_refused(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path, sni: str | None
) -> None:
    unit = device(ca, tmp_path)
    assert meet(cloud, unit, sni=sni) == "handshake: TLSV1_UNRECOGNIZED_NAME"
    assert state(api, unit) is None


def test_tls_before_1_2_is_refused(cloud: SimCloud) -> None:
    said = s_client(cloud, cloud.mqtt_port, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-servername", "localhost")
    assert "alert protocol version" in said


def test_the_server_is_known_by_its_roots_and_its_name(cloud: SimCloud) -> None:
    said = s_client(cloud, cloud.mqtt_port, "-servername", "localhost", "-verify_hostname", "localhost", "-brief")
    assert "Verification: OK" in said
    assert "Verified peername: localhost" in said


def test_port_443_speaks_only_to_who_offers_its_alpn(cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path) -> None:
    unit = device(ca, tmp_path)
    for offered in (None, "http/1.1"):
        assert meet(cloud, unit, port=cloud.alpn_port, alpn=offered) == "connect: closed"
        assert state(api, unit) is None
    said = s_client(cloud, cloud.alpn_port, "-servername", "localhost", "-alpn", ALPN)
    assert f"ALPN protocol: {ALPN}" in said


def test_a_unit_of_an_unknown_ca_is_refused(cloud: SimCloud, api: Any, tmp_path: Path) -> None:
    unit = device(make_ca(), tmp_path)
    assert meet(cloud, unit) == "connect: TLSV1_ALERT_UNKNOWN_CA"
    assert state(api, unit) is None


def test_a_registered_ca_need_not_be_a_root(cloud: SimCloud, api: Any, tmp_path: Path) -> None:
    below = register(api, make_ca("Below", by=make_ca("Root")))
    unit = device(below, tmp_path)
    assert meet(cloud, unit) == "connect: closed"
    assert state(api, unit) == "PENDING_ACTIVATION"


@pytest.mark.parametrize(("active", "auto"), [(False, True), (True, False)])
def test_a_ca_that_is_inactive_or_without_auto_registration_creates_nothing(
    cloud: SimCloud, api: Any, tmp_path: Path, active: bool, auto: bool
) -> None:
    unit = device(register(api, make_ca(), active=active, auto=auto), tmp_path)
    assert meet(cloud, unit) == "connect: closed"
    assert state(api, unit) is None


def test_an_active_certificate_without_a_policy_gets_no_connack(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path
) -> None:
    unit = device(ca, tmp_path)
    meet(cloud, unit)
    activate(api, unit, policy=None)
    assert state(api, unit) == "ACTIVE"
    assert meet(cloud, unit) == "connect: closed"


@pytest.mark.parametrize(
    "case",
    [
        ("client/SN-2", "topic/foo/bar", "connect: closed"),
        ("client/SN-1", "topic/foo/other", "publish: closed"),
        ("client/SN-1", "topic/foo/bar", "acknowledged"),
    ],
    ids=" ".join,
)
def test_a_narrow_policy_is_enforced(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path, case: tuple[str, str, str]
) -> None:
    *allowed, seen = case
    unit = device(ca, tmp_path)
    meet(cloud, unit)
    base = f"arn:aws:iot:{cloud.said['region']}:{cloud.said['account']}:"
    actions = ("iot:Connect", "iot:Publish")
    statements = [
        {"Effect": "Allow", "Action": action, "Resource": base + name}
        for action, name in zip(actions, allowed, strict=True)
    ]
    activate(api, unit, {"Version": "2012-10-17", "Statement": statements})
    assert meet(cloud, unit) == seen


@pytest.mark.parametrize("status", ["INACTIVE", "REVOKED"])
def test_a_certificate_out_of_service_gets_no_connack(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path, status: str
) -> None:
    unit = device(ca, tmp_path)
    meet(cloud, unit)
    activate(api, unit)
    assert meet(cloud, unit) == "acknowledged"
    api.update_certificate(certificateId=unit.id, newStatus=status)
    assert meet(cloud, unit) == "connect: closed"
    assert state(api, unit) == status


def test_the_same_client_id_twice_drops_the_older(cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path) -> None:
    unit = device(ca, tmp_path)
    meet(cloud, unit)
    activate(api, unit)
    with connection(cloud, unit) as older, connection(cloud, unit) as newer:
        assert answer(older, connect_packet()) == CONNACK
        assert answer(newer, connect_packet()) == CONNACK
        assert older.recv(1) == b""
        assert answer(newer, b"\xc0\x00") == b"\xd0\x00"  # PINGREQ, PINGRESP


@pytest.mark.parametrize("constraints", [x509.BasicConstraints(ca=False, path_length=None), "none"])
def test_a_ca_certificate_that_is_no_ca_is_refused(api: Any, constraints: Any) -> None:
    ca = _without_constraints() if constraints == "none" else make_ca(constraints=constraints)
    code = api.get_registration_code()["registrationCode"]
    offer = {"caCertificate": ca.pem, "verificationCertificate": verification(ca, code)}
    assert refusal(api.register_ca_certificate, **offer) == "CertificateValidationException"


def test_a_ca_is_registered_only_with_proof_of_its_key(api: Any) -> None:
    ca, other = make_ca(), make_ca()
    code = api.get_registration_code()["registrationCode"]
    for proof in (verification(ca, "0" * 64), verification(other, code), None):
        offer = {"caCertificate": ca.pem} | ({"verificationCertificate": proof} if proof else {})
        assert refusal(api.register_ca_certificate, **offer) in {
            "RegistrationCodeValidationException",
            "CertificateValidationException",
            "InvalidRequestException",
        }


def test_a_ca_registered_twice_is_named(api: Any, ca: ProviderCA) -> None:
    with pytest.raises(api.exceptions.ResourceAlreadyExistsException, match=ca.id):
        register(api, ca)


@pytest.mark.parametrize("status", ["PENDING_ACTIVATION", "PENDING_TRANSFER"])
def test_no_certificate_is_set_back_to_pending(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path, status: str
) -> None:
    unit = device(ca, tmp_path)
    meet(cloud, unit)
    activate(api, unit)
    assert refusal(api.update_certificate, certificateId=unit.id, newStatus=status) == "InvalidRequestException"
    assert state(api, unit) == "ACTIVE"


def test_the_endpoint_is_the_name_that_the_server_proves(cloud: SimCloud, api: Any) -> None:
    assert api.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"] == cloud.said["endpoint"]


def test_unknown_credentials_are_refused(cloud: SimCloud) -> None:
    stranger = cloud.boto(key="AKIANOBODY0000000000")
    assert refusal(stranger.get_registration_code) in {"UnrecognizedClientException", "InvalidClientTokenId"}
    stranger.close()


def _without_constraints() -> ProviderCA:
    """A CA certificate of X.509 v3 that does not say that it is one."""
    made = make_ca()
    name = made.certificate.subject
    bare = (
        x509.CertificateBuilder(name, name, made.key.public_key(), x509.random_serial_number())
        .not_valid_before(made.certificate.not_valid_before_utc)
        .not_valid_after(made.certificate.not_valid_after_utc)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(made.key.public_key()), critical=False)
    )
    return ProviderCA(bare.sign(made.key, hashes.SHA256()), made.key)
