"""A key pair and a CSR made on the station, for boards that cannot make their own. Shared by the families."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from station.credentials import Enrollment
from station.model import KeyType, PrivateKey

# All that the station can make, for families that hold whatever they are given.
EVERY_KEY: Final = frozenset(KeyType)


def enroll_here(subject: str, key_type: KeyType) -> Enrollment:
    """A fresh key and its PKCS #10 request (RFC 2986) with the subject ``CN=subject``: SHA-256, SHA-384 for P-384."""
    key = _generate(key_type)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    digest = hashes.SHA384() if key_type is KeyType.P384 else hashes.SHA256()
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, digest)
    return Enrollment(csr.public_bytes(Encoding.DER), key)


def _generate(key_type: KeyType) -> PrivateKey:
    match key_type:
        case KeyType.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyType.RSA2048 | KeyType.RSA3072 | KeyType.RSA4096:
            return rsa.generate_private_key(public_exponent=65_537, key_size=int(key_type.removeprefix("rsa")))
