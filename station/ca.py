"""The CA as the line uses it: checks a CSR, issues to one profile, and checks its own output before it leaves."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from station.faults import Fault, FaultError
from station.hsm.keys import token_key
from station.model import SERIAL, KeyType, PrivateKey, Product, Profile, PublicKey

if TYPE_CHECKING:
    from station.hsm.signers import Signers

_MAX_CSR: Final = 16_384
_MAX_FILE: Final = 65_536
# RFC 5280, 4.1.2.2: positive, at most 20 octets. The lower bound is CA/Browser Forum BR 7.1's 64 bits of randomness:
# `x509.random_serial_number` draws 159 bits, of which fewer than 65 are used once in 2**95 draws.
_NUMBERS: Final = range(1 << 63, 1 << 159)
_PRIMES: Final = tuple(n for n in range(3, 168, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2)))
_FERMAT_STEPS: Final = 100
_NONCE: Final = b"station proof of the CA key v1\n"

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


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
    _must_be_a_ca(found[0])
    return found[0]


def _must_be_a_ca(certificate: x509.Certificate) -> None:
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


def _authority_key(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
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


class CertificateAuthority:
    """`interfaces.Authority` over one CA certificate and its key, wherever the key is."""

    def __init__(self, certificate: x509.Certificate, key: PrivateKey, clock: Clock = _now) -> None:
        self._certificate, self._key, self._clock = certificate, key, clock

    @property
    def identity(self) -> str:
        """Lowercase hex SHA-256 of the CA certificate's DER."""
        return self.identity_of(self._certificate)

    @staticmethod
    def identity_of(certificate: x509.Certificate) -> str:
        """A CA's identity, which is its id in AWS IoT too: lowercase hex SHA-256 of the certificate's DER."""
        return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()

    def prove(self) -> None:
        """See that the key signs what the certificate verifies, now.

        Raises:
            FaultError: `Fault.CA_MISMATCH`, `Fault.CA_EXPIRES`, or any C fault of the token.
        """
        now = self._clock()
        if not self._certificate.not_valid_before_utc <= now < self._certificate.not_valid_after_utc:
            raise FaultError(
                Fault.CA_EXPIRES,
                f"the CA certificate is valid from {self._certificate.not_valid_before_utc:%Y-%m-%d %H:%M}"
                f" to {self._certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; it is {now:%Y-%m-%d %H:%M}",
            )
        message = _NONCE + hashlib.sha256(str(now).encode()).digest()
        public = self._certificate.public_key()
        try:
            if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(self._key, ec.EllipticCurvePrivateKey):
                public.verify(self._key.sign(message, ec.ECDSA(hashes.SHA256())), message, ec.ECDSA(hashes.SHA256()))
                return
            if isinstance(public, rsa.RSAPublicKey) and isinstance(self._key, rsa.RSAPrivateKey):
                signature = self._key.sign(message, padding.PKCS1v15(), hashes.SHA256())
                public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
                return
        except InvalidSignature:
            pass
        raise FaultError(
            Fault.CA_MISMATCH, f"the key in the token is not that of {self._certificate.subject.rfc4514_string()}"
        )

    def chain(self, leaf: x509.Certificate) -> tuple[x509.Certificate, ...]:
        """Leaf first, then the CA: what AWS IoT needs at first contact."""
        return (leaf, self._certificate)

    def issue(self, csr: bytes, subject: str, product: Product, number: int) -> tuple[x509.Certificate, ...]:
        """Certify the key of a CSR for one unit.

        Args:
            csr: PKCS #10, DER, at most 16 KiB. Its key is used, and nothing else of it.
            subject: the common name that the CSR must ask for, and gets.
            product: its key type and certificate profile.
            number: the certificate's serial number, on record already.

        Raises:
            FaultError: `CSR_INVALID`, `CSR_SUBJECT`, `KEY_TYPE`, `KEY_WEAK` (the unit's); `CA_EXPIRES`, `CA_OUTPUT`,
                or any C fault of the token.
        """
        if not SERIAL.fullmatch(subject):
            raise FaultError(Fault.CONFIG, f"the client id {subject!r} is not of the form {SERIAL.pattern}")
        if number not in _NUMBERS:
            raise FaultError(Fault.CA_OUTPUT, "the serial number is none that a CA may use")
        public = _checked(csr, subject, product.key_type)
        before, after = self._validity(product.profile)
        builder = _profiled(public, subject, product.profile, self._certificate)
        builder = builder.serial_number(number).not_valid_before(before).not_valid_after(after)
        leaf = _signed(builder, self._key, self._certificate)
        _same_as_asked(leaf, public, number, (before, after))
        return self.chain(leaf)

    def largest(self, product: Product) -> tuple[x509.Certificate, ...]:
        """A chain as long as one of ``product`` can be, under a signature of zeros: to measure, never to leave.

        The subject is as long as a serial may be, every number as long as it gets. No key signs anything.
        """
        subject = product.client_id.format(serial="S" * 64)[:64]
        before, after = self._validity(product.profile)
        builder = _profiled(_any_key(product.key_type), subject, product.profile, self._certificate)
        builder = builder.serial_number(_NUMBERS[-1]).not_valid_before(before).not_valid_after(after)
        blank = token_key(self._certificate.public_key(), cast("Signers", _Blank(self._certificate)))
        made = builder.sign(blank, _algorithm(blank))
        return self.chain(x509.load_der_x509_certificate(made.public_bytes(Encoding.DER)))

    def _validity(self, profile: Profile) -> tuple[datetime, datetime]:
        now = self._clock().replace(microsecond=0)
        before = max(now - timedelta(seconds=profile.backdate_s), self._certificate.not_valid_before_utc)
        after = now + timedelta(days=profile.validity_days)
        if after > self._certificate.not_valid_after_utc:
            raise FaultError(
                Fault.CA_EXPIRES,
                f"{profile.validity_days} days would outlive the CA, which ends on"
                f" {self._certificate.not_valid_after_utc:%Y-%m-%d}",
            )
        return before, after


def _checked(csr: bytes, subject: str, key_type: KeyType) -> PublicKey:
    """The public key of a CSR that is right in every respect."""
    if len(csr) > _MAX_CSR:
        raise FaultError(Fault.CSR_INVALID, f"a CSR of {len(csr)} bytes")
    try:
        request = x509.load_der_x509_csr(csr)
        public = request.public_key()
        valid = request.is_signature_valid
        algorithm = request.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion) as error:
        raise FaultError(Fault.CSR_INVALID, f"the CSR cannot be read: {error}") from error
    if not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise FaultError(Fault.KEY_TYPE, f"the CSR holds a {type(public).__name__}, not a {key_type.value} key")
    if isinstance(public, rsa.RSAPublicKey) and (why := _weakness(public)):
        raise FaultError(Fault.KEY_WEAK, why)
    if KeyType.of(public) is not key_type:
        raise FaultError(Fault.KEY_TYPE, f"the CSR holds a key of {public.key_size} bits, not a {key_type.value} key")
    if not valid or not isinstance(algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        raise FaultError(Fault.CSR_INVALID, "the CSR is not signed by its own key with SHA-2")
    names = [attribute for rdn in request.subject.rdns for attribute in rdn]
    if len(names) != 1 or names[0].oid != NameOID.COMMON_NAME or names[0].value != subject:
        raise FaultError(
            Fault.CSR_SUBJECT, f"the CSR asks for {request.subject.rfc4514_string()!r}; CN={subject} is right"
        )
    return public


def _weakness(key: rsa.RSAPublicKey) -> str | None:
    """Why an RSA key must not be certified; None for a sound one."""
    numbers = key.public_numbers()
    if key.key_size < 2048:
        return f"an RSA key of {key.key_size} bits; 2048 is the least (NIST SP 800-131A)"
    if numbers.e != 65_537:
        return f"an RSA key with the exponent {numbers.e}; 65537 is right (AWS IoT takes no other for sure)"
    if numbers.n % 2 == 0 or any(numbers.n % prime == 0 for prime in _PRIMES):
        return "an RSA modulus with a small factor"
    if all(numbers.n % prime in _powers(prime) for prime in _PRIMES):
        return "an RSA key with the fingerprint of the ROCA flaw (CVE-2017-15361)"
    root = math.isqrt(numbers.n - 1) + 1
    for a in range(root, root + _FERMAT_STEPS):
        if math.isqrt(a * a - numbers.n) ** 2 == a * a - numbers.n:
            return "an RSA modulus whose two primes are next to each other (CVE-2022-26320)"
    return None


@cache
def _powers(prime: int) -> frozenset[int]:
    """The powers of 65537 modulo a prime: all that a ROCA modulus can leave there (Nemec et al., 2017)."""
    return frozenset(pow(65_537, exponent, prime) for exponent in range(prime))


def _profiled(
    public: PublicKey, subject: str, profile: Profile, authority: x509.Certificate
) -> x509.CertificateBuilder:
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
        .add_extension(_usage(encipherment=isinstance(public, rsa.RSAPublicKey)), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_authority_key(authority), critical=False)
    )


def _usage(*, encipherment: bool = False, authority: bool = False) -> x509.KeyUsage:
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


def _algorithm(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    return hashes.SHA384() if KeyType.of(key.public_key()) is KeyType.P384 else hashes.SHA256()


def _signed(builder: x509.CertificateBuilder, key: PrivateKey, authority: x509.Certificate | None) -> x509.Certificate:
    """Sign, parse what came of it anew, and verify it: the builder would take any bytes for a signature (hsm.md)."""
    made = x509.load_der_x509_certificate(builder.sign(key, _algorithm(key)).public_bytes(Encoding.DER))
    try:
        made.verify_directly_issued_by(authority or made)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise FaultError(
            Fault.CA_OUTPUT, f"what the token signed does not verify with the CA certificate ({type(error).__name__})"
        ) from error
    return made


class _Blank:
    """Signs with bytes as long as a signature of the CA's key can be."""

    def __init__(self, authority: x509.Certificate) -> None:
        key = authority.public_key()
        size = (getattr(key, "key_size", 0) + 7) // 8
        self._bytes = b"\xff" * size * (2 if isinstance(key, ec.EllipticCurvePublicKey) else 1)

    def sign(self, _data: bytes, _mechanism: object) -> bytes:
        return self._bytes


def _any_key(key_type: KeyType) -> PublicKey:
    """A public key of that type's size; for RSA one that has no private half, since making one takes seconds."""
    match key_type:
        case KeyType.P256:
            return ec.generate_private_key(ec.SECP256R1()).public_key()
        case KeyType.P384:
            return ec.generate_private_key(ec.SECP384R1()).public_key()
    bits = int(key_type.removeprefix("rsa"))
    return rsa.RSAPublicNumbers(65_537, (1 << bits) - 1).public_key()


def _same_as_asked(leaf: x509.Certificate, public: PublicKey, number: int, validity: tuple[datetime, datetime]) -> None:
    """The certificate as parsed is the one that was meant."""
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    got = (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    if leaf.public_key() != public or leaf.serial_number != number or got != validity or constraints.ca:
        raise FaultError(Fault.CA_OUTPUT, f"certificate {number:x} came out otherwise than asked")


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
    return _signed(builder.add_extension(aki, critical=False), key, None)


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
    return _signed(builder.add_extension(_authority_key(root), critical=False), key, root)


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
        .add_extension(_usage(authority=True), critical=True)
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
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def verification_certificate(
    certificate: x509.Certificate, key: PrivateKey, code: str, clock: Clock = _now
) -> x509.Certificate:
    """The proof of possession that AWS IoT asks for: CN = the registration code, signed by the CA key, for one day.

    AWS IoT developer guide, "Register a CA certificate in DEFAULT mode". It certifies a key that is thrown away.

    Raises:
        FaultError: `Fault.REGISTRATION_REFUSED` for a code that is none; `Fault.CA_OUTPUT`; any C fault of the token.
    """
    if not (code.isascii() and code.isalnum() and 1 <= len(code) <= 64):
        raise FaultError(Fault.REGISTRATION_REFUSED, f"AWS IoT gave the registration code {code!r}")
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    now = clock().replace(microsecond=0)
    builder = _profiled(public, code, Profile(1, 0), certificate)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(max(now - timedelta(minutes=5), certificate.not_valid_before_utc))
    builder = builder.not_valid_after(min(now + timedelta(days=1), certificate.not_valid_after_utc))
    return _signed(builder, key, certificate)
