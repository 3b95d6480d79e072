"""Keys in the token with the private-key interface of ``cryptography``, so that its X.509 builders take them.

The public half comes from the CA certificate, never from the token: what the token signs must verify with what the
world was given.
"""

from __future__ import annotations

from typing import Final, NoReturn, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from station.faults import Fault, FaultError
from station.hsm.signers import Mechanism, Signers
from station.model import PrivateKey

# DER of DigestInfo up to the digest itself (RFC 8017, 9.2, note 1).
_DIGEST_INFO: Final = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


class TokenECKey:
    """An EC private key in the token."""

    def __init__(self, public_key: ec.EllipticCurvePublicKey, signers: Signers) -> None:
        self._public_key, self._signers = public_key, signers

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve of the key."""
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve's order."""
        return self._public_key.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The half that the CA certificate names."""
        return self._public_key

    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """ECDSA as DER (RFC 3279, 2.2.3). Raises `FaultError`, any of the C faults."""
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.HashAlgorithm):
            _refuse("a prehashed digest")
        raw = self._signers.sign(_digest(data, algorithm), Mechanism.ECDSA)
        half = len(raw) // 2
        if not half or len(raw) % 2:
            raise FaultError(Fault.CA_MISMATCH, f"an ECDSA signature of {len(raw)} bytes")
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


class TokenRSAKey:
    """An RSA private key in the token; PKCS #1 v1.5 only, which is what X.509 with AWS IoT uses."""

    def __init__(self, public_key: rsa.RSAPublicKey, signers: Signers) -> None:
        self._public_key, self._signers = public_key, signers

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._public_key.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """The half that the CA certificate names."""
        return self._public_key

    def sign(self, data: bytes, scheme: object, algorithm: hashes.HashAlgorithm) -> bytes:
        """PKCS #1 v1.5. Raises `FaultError`, any of the C faults."""
        if not isinstance(scheme, padding.PKCS1v15) or algorithm.name not in _DIGEST_INFO:
            _refuse(f"{type(scheme).__name__} with {algorithm.name}")
        return self._signers.sign(_DIGEST_INFO[algorithm.name] + _digest(data, algorithm), Mechanism.RSA_PKCS)


# Registered, not subclassed: a new abstract method in a later `cryptography` must not break the line (hsm.md).
ec.EllipticCurvePrivateKey.register(TokenECKey)
rsa.RSAPrivateKey.register(TokenRSAKey)


def token_key(public_key: object, signers: Signers) -> PrivateKey:
    """The private key in the token whose public half this is.

    Raises:
        FaultError: `Fault.CA_MISMATCH` for a kind of key that no token of ours holds.
    """
    match public_key:
        case ec.EllipticCurvePublicKey():
            return cast("PrivateKey", TokenECKey(public_key, signers))
        case rsa.RSAPublicKey():
            return cast("PrivateKey", TokenRSAKey(public_key, signers))
    raise FaultError(Fault.CA_MISMATCH, f"the CA certificate holds a {type(public_key).__name__}; EC or RSA is right")


def _digest(data: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    context = hashes.Hash(algorithm)
    context.update(data)
    return context.finalize()


def _refuse(what: str) -> NoReturn:
    raise FaultError(Fault.UNEXPECTED, f"the token's key was asked to sign {what}")
