"""What every certificate of ours has in common: how it is signed, and what its own output must be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from station.faults import Fault, FaultError
from station.model import KeyType, PrivateKey, Profile, PublicKey

_MAX_FILE: Final = 65_536

Clock = Callable[[], datetime]


def now() -> datetime:
    """The present, UTC."""
    return datetime.now(UTC)


def must_be_a_ca(certificate: x509.Certificate) -> None:
    """As strict as AWS IoT, not more: a provider's CA may be older than this house."""
    name = certificate.subject.rfc4514_string()
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        if error.oid == ExtensionOID.BASIC_CONSTRAINTS:
            raise FaultError(Fault.CA_NOT_CA, f"{name} has no basicConstraints, so not CA:TRUE") from error
        usage = None  # RFC 5280, 4.2.1.3: the key may be used for everything then
    except (x509.DuplicateExtension, ValueError) as error:
        raise FaultError(Fault.CA_NOT_CA, f"{name}: {error}") from error
    if not constraints.ca or (usage is not None and not usage.key_cert_sign):
        raise FaultError(Fault.CA_NOT_CA, f"{name} has not CA:TRUE, or may not sign certificates (keyCertSign)")


def authority_key(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """What a certificate names its issuer's key by: the issuer's own word for it (RFC 5280, 4.2.1.1)."""
    try:
        ski = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing_key(certificate))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)


def issuing_key(certificate: x509.Certificate) -> PublicKey:
    """The CA's public key. Raises `Fault.CA_NOT_CA` where it is of a kind that no CA here has."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise FaultError(Fault.CA_NOT_CA, f"the CA certificate holds a {type(key).__name__}; EC or RSA is right")
    return key


def load_ca_certificate(path: Path) -> x509.Certificate:
    """The CA's certificate from a PEM file.

    Raises:
        FaultError: `Fault.CONFIG` where the file is unreadable or holds not exactly one certificate;
            `Fault.CA_NOT_CA` where the certificate is not that of a CA (AWS IoT refuses it too).
    """
    try:
        with path.open("rb") as file:
            found = x509.load_pem_x509_certificates(file.read(_MAX_FILE))
    except OSError as error:
        raise FaultError(Fault.CONFIG, f"the CA certificate {path} cannot be read: {error.strerror}") from error
    except (ValueError, x509.InvalidVersion) as error:
        raise FaultError(Fault.CONFIG, f"{path} holds no PEM certificate: {error}") from error
    if len(found) != 1:
        raise FaultError(Fault.CONFIG, f"{path} should hold the CA's certificate alone, not {len(found)} certificates")
    must_be_a_ca(found[0])
    return found[0]


def key_usage(*, encipherment: bool = False, authority: bool = False) -> x509.KeyUsage:
    """What the key is for (RFC 5280, 4.2.1.3): a CA signs certificates and CRLs, a unit signs handshakes."""
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def algorithm_of(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """The digest to sign with: of the curve's strength for P-384, SHA-256 for all others."""
    return hashes.SHA384() if KeyType.of(key.public_key()) is KeyType.P384 else hashes.SHA256()


def signed(builder: x509.CertificateBuilder, key: PrivateKey, authority: x509.Certificate | None) -> x509.Certificate:
    """Sign, parse what came of it anew, and verify it: the builder would take any bytes for a signature (hsm.md)."""
    made = x509.load_der_x509_certificate(builder.sign(key, algorithm_of(key)).public_bytes(Encoding.DER))
    try:
        made.verify_directly_issued_by(authority or made)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise FaultError(
            Fault.CA_OUTPUT, f"what the token signed does not verify with the CA certificate ({type(error).__name__})"
        ) from error
    return made


def profiled(public: PublicKey, subject: str, profile: Profile, authority: x509.Certificate) -> x509.CertificateBuilder:
    """The device profile. Nothing of the CSR but its key."""
    names = [x509.NameAttribute(NameOID.COMMON_NAME, subject)]
    if profile.organization:
        names.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, profile.organization))
    if profile.organizational_unit:
        names.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, profile.organizational_unit))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(authority.subject)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # keyEncipherment: TLS 1.2's RSA key exchange, for RSA keys alone (RFC 5246, 7.4.6).
        .add_extension(key_usage(encipherment=isinstance(public, rsa.RSAPublicKey)), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(authority_key(authority), critical=False)
    )
