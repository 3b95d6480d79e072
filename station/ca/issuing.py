"""The CA as the line uses it: checks a CSR, issues to one profile, and checks its own output before it leaves."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from station.ca import lint
from station.ca.requests import checked_key
from station.ca.signing import Clock, algorithm_of, now, profiled, signed
from station.faults import Fault, FaultError
from station.hsm.keys import token_key
from station.model import SERIAL, KeyType, PrivateKey, Product, Profile, PublicKey

if TYPE_CHECKING:
    from station.hsm.signers import Signers

_NONCE: Final = b"station proof of the CA key v1\n"
# RFC 5280, 4.1.2.2: positive, at most 20 octets. The lower bound is CA/Browser Forum BR 7.1's 64 bits of randomness:
# `x509.random_serial_number` draws 159 bits, of which fewer than 65 are used once in 2**95 draws.
_NUMBERS: Final = range(1 << 63, 1 << 159)


class CertificateAuthority:
    """`interfaces.Authority` over one CA certificate and its key, wherever the key is."""

    def __init__(self, certificate: x509.Certificate, key: PrivateKey, clock: Clock = now) -> None:
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
                `CERTIFICATE_LINT`, or any C fault of the token.
        """
        if not SERIAL.fullmatch(subject):
            raise FaultError(Fault.CONFIG, f"the client id {subject!r} is not of the form {SERIAL.pattern}")
        if number not in _NUMBERS:
            raise FaultError(Fault.CA_OUTPUT, "the serial number is none that a CA may use")
        public = checked_key(csr, subject, product.key_type)
        before, after = self._validity(product.profile)
        builder = profiled(public, subject, product.profile, self._certificate)
        builder = builder.serial_number(number).not_valid_before(before).not_valid_after(after)
        leaf = signed(builder, self._key, self._certificate)
        _same_as_asked(leaf, public, number, (before, after))
        lint.refuse(leaf, self._certificate, lint.Kind.UNIT)
        return self.chain(leaf)

    def try_out(self, product: Product) -> list[str]:
        """What is wrong with the certificates that ``product`` would get, by one of throw-away keys; none is right."""
        own, key = self._certificate, lint.throw_away_key(KeyType.P256)
        above = x509.CertificateBuilder(own.subject, own.subject, key.public_key(), x509.random_serial_number())
        above = above.not_valid_before(own.not_valid_before_utc).not_valid_after(own.not_valid_after_utc)
        above = above.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        stand_in = signed(above, key, None)
        before, after = self._validity(product.profile)
        subject = product.client_id.format(serial="S")
        builder = profiled(_any_key(product.key_type), subject, product.profile, stand_in)
        builder = builder.serial_number(_NUMBERS[-1]).not_valid_before(before).not_valid_after(after)
        return lint.findings(signed(builder, key, stand_in), stand_in, lint.Kind.UNIT)

    def largest(self, product: Product) -> tuple[x509.Certificate, ...]:
        """A chain as long as one of ``product`` can be, under a signature of zeros: to measure, never to leave.

        The subject is as long as a serial may be, every number as long as it gets. No key signs anything.
        """
        subject = product.client_id.format(serial="S" * 64)[:64]
        before, after = self._validity(product.profile)
        builder = profiled(_any_key(product.key_type), subject, product.profile, self._certificate)
        builder = builder.serial_number(_NUMBERS[-1]).not_valid_before(before).not_valid_after(after)
        blank = token_key(self._certificate.public_key(), cast("Signers", _Blank(self._certificate)))
        made = builder.sign(blank, algorithm_of(blank))
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


def _same_as_asked(leaf: x509.Certificate, public: PublicKey, number: int, validity: tuple[datetime, datetime]) -> None:
    """The certificate as parsed is the one that was meant."""
    got = (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    if leaf.public_key() != public or leaf.serial_number != number or got != validity:
        raise FaultError(Fault.CA_OUTPUT, f"certificate {number:x} came out otherwise than asked")


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
