"""A key pair and a CSR made on the station, for boards that cannot make their own. Shared by the families."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from station.boards.keys import KEYS
from station.credentials import Enrollment
from station.model import KeyType

# All that the station can make, for families that hold whatever they are given.
EVERY_KEY: Final = frozenset(KeyType)


def enroll_here(subject: str, key_type: KeyType) -> Enrollment:
    """A fresh key and its PKCS #10 request (RFC 2986) with the subject ``CN=subject``: SHA-256, SHA-384 for P-384."""
    key = KEYS.take(key_type)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    digest = hashes.SHA384() if key_type is KeyType.P384 else hashes.SHA256()
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, digest)
    return Enrollment(csr.public_bytes(Encoding.DER), key)
