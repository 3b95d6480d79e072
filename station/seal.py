"""The seal: the station's own signature under its records, with a key of its own in the token, never the CA's.

A signature of the CA's key could be a certificate; one of the seal's never can, and what it signs begins with words
that no other use of the key begins with.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from station.faults import Fault, FaultError
from station.hsm.keys import token_key
from station.hsm.pin import PinSource
from station.hsm.signers import Signers
from station.hsm.uri import KeyUri
from station.model import KeyType, PublicKey

if TYPE_CHECKING:
    from station.config.tokens import Hsm, SealSettings

_DOMAIN: Final = b"provisioning-station seal v1\n"
_MAX_FILE: Final = 16_384
_SCHEME: Final = ec.ECDSA(hashes.SHA256())


class Seal:
    """Signs with the seal's key in the token. Safe from any thread; use as a context manager."""

    def __init__(
        self, key: KeyUri, public_key_pem: bytes, pin: PinSource, latch_folder: Path, *, timeout_s: float = 5.0
    ) -> None:
        self.public_key_pem = public_key_pem
        self._public = _loaded(public_key_pem)
        self._signers = Signers(key, pin, latch_folder, timeout_s=timeout_s)
        self._key = token_key(self._public, self._signers)

    @classmethod
    def from_settings(cls, seal: SealSettings, hsm: Hsm, latch_folder: Path) -> Seal:
        """The seal that ``station.yaml`` names; the PIN is the CA key's, for the token is the same.

        Raises:
            FaultError: `Fault.CONFIG` where the public key's file is missing; `Fault.SEAL_INVALID` where it holds none.
        """
        public = read_public(seal.public)
        pin = PinSource(credential=hsm.pin.credential, file=hsm.pin.file)
        return cls(KeyUri.parse(seal.key), public, pin, latch_folder, timeout_s=hsm.timeout_s)

    @property
    def id(self) -> str:
        """Lowercase hex SHA-256 of the public key's DER: names the seal beside a signature."""
        return seal_id(self.public_key_pem)

    def __enter__(self) -> Self:
        """Log in to the token. Raises any of the C faults."""
        self._signers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the token."""
        self._signers.__exit__()

    def sign(self, message: bytes) -> bytes:
        """ECDSA (DER) or RSA PKCS #1 v1.5, over SHA-256. It has been verified when it leaves.

        Raises:
            FaultError: `Fault.SEAL_MISMATCH` where the token's key is not that of the public key; any other C fault.
        """
        data = _DOMAIN + message
        match self._key:
            case ec.EllipticCurvePrivateKey():
                signature = self._key.sign(data, _SCHEME)
            case rsa.RSAPrivateKey():
                signature = self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        try:
            verify(self.public_key_pem, message, signature)
        except FaultError as error:
            raise FaultError(
                Fault.SEAL_MISMATCH, f"what the token signed does not verify with the seal {self.id[:16]}"
            ) from error
        return signature


def read_public(path: Path) -> bytes:
    """A seal's public key (PEM), unlooked at. Raises `Fault.CONFIG` where its file cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE)
    except OSError as error:
        raise FaultError(Fault.CONFIG, f"the seal's public key {path} cannot be read: {error.strerror}") from error


def verify(public_key_pem: bytes, message: bytes, signature: bytes) -> None:
    """Return where the seal of that public key signed this very message.

    Raises:
        FaultError: `Fault.SEAL_INVALID` where it did not, or where the public key is none of a seal.
    """
    try:
        match _loaded(public_key_pem):
            case ec.EllipticCurvePublicKey() as key:
                key.verify(signature, _DOMAIN + message, _SCHEME)
            case rsa.RSAPublicKey() as key:
                key.verify(signature, _DOMAIN + message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise FaultError(
            Fault.SEAL_INVALID, f"seal {seal_id(public_key_pem)[:16]} did not sign this, or it was changed since"
        ) from None


def seal_id(public_key_pem: bytes) -> str:
    """Lowercase hex SHA-256 of the DER of a seal's public key.

    Raises:
        FaultError: `Fault.SEAL_INVALID` where it is none.
    """
    der = _loaded(public_key_pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _loaded(public_key_pem: bytes) -> PublicKey:
    try:
        key = load_pem_public_key(public_key_pem[:_MAX_FILE])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FaultError(Fault.SEAL_INVALID, f"the seal's public key is no PEM public key: {error}") from error
    if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) and KeyType.of(key):
        return key
    raise FaultError(
        Fault.SEAL_INVALID, f"the seal's public key is a {type(key).__name__}; {', '.join(KeyType)} are right"
    )
