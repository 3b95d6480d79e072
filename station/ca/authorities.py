"""The certificates of authorities: root, issuing CA, and the proof of possession for AWS IoT."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from station.ca.signing import Clock, authority_key, key_usage, now, profiled, signed
from station.faults import Fault, FaultError
from station.model import KeyType, PrivateKey, Profile, PublicKey


def self_signed_root(
    key: PrivateKey,
    *,
    common_name: str,
    organization: str,
    country: str | None,
    days: int,
    path_length: int,
    number: int,
    not_before: datetime,
) -> x509.Certificate:
    """The CA's own certificate (RFC 5280): CA:TRUE and keyUsage critical, SKI; valid ``days`` from ``not_before``.

    Raises:
        FaultError: `Fault.CA_OUTPUT`, or any C fault of the token.
    """
    subject = authority_name(common_name, organization, country)
    builder = _authority(key.public_key(), subject, subject, path_length, number)
    builder = builder.not_valid_before(not_before).not_valid_after(not_before + timedelta(days=days))
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    return signed(builder.add_extension(aki, critical=False), key, None)


def issuing_certificate(
    public: PublicKey,
    subject: x509.Name,
    root: x509.Certificate,
    key: PrivateKey,
    *,
    days: int,
    path_length: int,
    number: int,
    not_before: datetime,
) -> x509.Certificate:
    """A CA certificate under ``root``, signed with ``key``, which is the root's.

    Raises:
        FaultError: `Fault.CA_EXPIRES` where it would outlive the root; `Fault.CA_OUTPUT`, or any C fault of the token.
    """
    after = not_before + timedelta(days=days)
    if after > root.not_valid_after_utc:
        raise FaultError(
            Fault.CA_EXPIRES, f"{days} days would outlive the root, which ends on {root.not_valid_after_utc:%Y-%m-%d}"
        )
    builder = _authority(public, subject, root.subject, path_length, number)
    builder = builder.not_valid_before(not_before).not_valid_after(after)
    return signed(builder.add_extension(authority_key(root), critical=False), key, root)


def authority_name(common_name: str, organization: str, country: str | None) -> x509.Name:
    """A CA's name, from the widest part to the narrowest."""
    return x509.Name(
        [
            *([x509.NameAttribute(NameOID.COUNTRY_NAME, country)] if country else []),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def authority_request(key: PrivateKey, subject: x509.Name, path_length: int) -> x509.CertificateSigningRequest:
    """The CSR of an issuing CA, for a root elsewhere. Raises any C fault of the token."""
    algorithm = hashes.SHA384() if KeyType.of(key.public_key()) is KeyType.P384 else hashes.SHA256()
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .sign(key, algorithm)
    )


def _authority(
    public: PublicKey, subject: x509.Name, issuer: x509.Name, path_length: int, number: int
) -> x509.CertificateBuilder:
    """The CA profile (RFC 5280): CA:TRUE and keyUsage critical, SKI."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(number)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def verification_certificate(
    certificate: x509.Certificate, key: PrivateKey, code: str, clock: Clock = now
) -> x509.Certificate:
    """The proof of possession that AWS IoT asks for: CN = the registration code, signed by the CA key, for one day.

    AWS IoT developer guide, "Register a CA certificate in DEFAULT mode". It certifies a key that is thrown away.

    Raises:
        FaultError: `Fault.REGISTRATION_REFUSED` for a code that is none; `Fault.CA_OUTPUT`; any C fault of the token.
    """
    if not (code.isascii() and code.isalnum() and 1 <= len(code) <= 64):
        raise FaultError(Fault.REGISTRATION_REFUSED, f"AWS IoT gave the registration code {code!r}")
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    at = clock().replace(microsecond=0)
    builder = profiled(public, code, Profile(1, 0), certificate)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(max(at - timedelta(minutes=5), certificate.not_valid_before_utc))
    builder = builder.not_valid_after(min(at + timedelta(days=1), certificate.not_valid_after_utc))
    return signed(builder, key, certificate)
