"""What the CA demands of a CSR and of its key."""

from __future__ import annotations

import math
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from station.faults import Fault, FaultError
from station.model import KeyType, PublicKey

_MAX_CSR: Final = 16_384
_PRIMES: Final = tuple(n for n in range(3, 168, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2)))
_FERMAT_STEPS: Final = 100


def checked_key(csr: bytes, subject: str, key_type: KeyType) -> PublicKey:
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
