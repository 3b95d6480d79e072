"""The attestation that a Nordic modem puts beside its CSR: COSE_Sign1 (RFC 9052, 4.2) by the modem's identity key.

Its payload is the CBOR array [message id, device UUID, tag (itself CBOR), SHA-256 of the CSR, nonce] (``AT%KEYGEN`` in
Nordic's AT command reference; ``nrfcloud_utils/modem_credentials_parser.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from station.faults import Fault, FaultError

_SIGN1: Final = 18  # the CBOR tag of COSE_Sign1
_CSR_MESSAGE: Final = 9  # "CSR_msg_v1"
_ES256: Final = {1: -7}
_MOST: Final = 2_048
_MOST_KEYS: Final = 10_000
_KEY_FILE_MOST: Final = 4 * 1024 * 1024
_END: Final = b"-----END PUBLIC KEY-----"


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a modem's identity key vouches for, before its signature is looked at."""

    device: bytes
    tag: int
    digest: bytes
    message: bytes  # what is signed: Sig_structure (RFC 9052, 4.4)
    signature: bytes

    @classmethod
    def read(cls, cose: bytes) -> Attestation:
        """Read one.

        Raises:
            FaultError: `Fault.UNIT_GARBLED` for anything else.
        """
        if len(cose) > _MOST:
            raise FaultError(Fault.UNIT_GARBLED, f"an attestation of {len(cose)} bytes")
        try:
            return cls._of(cbor2.loads(cose))
        except (cbor2.CBORDecodeError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise FaultError(Fault.UNIT_GARBLED, f"the attestation cannot be read: {error}") from error

    @classmethod
    def _of(cls, found: Any) -> Attestation:
        if not isinstance(found, cbor2.CBORTag) or found.tag != _SIGN1:
            raise ValueError("no COSE_Sign1")
        protected, _, payload, signature = found.value
        if cbor2.loads(protected) != _ES256 or len(signature) != 64:
            raise ValueError("it is not signed by ES256")
        kind, device, tag, digest, _ = cbor2.loads(payload)
        if kind != _CSR_MESSAGE:
            raise ValueError(f"message {kind!r} is not of a CSR")
        number = cbor2.loads(tag)
        if not (isinstance(device, bytes) and isinstance(digest, bytes) and isinstance(number, int)):
            raise TypeError("a part of the payload is of another kind")
        message = cbor2.dumps(["Signature1", protected, b"", payload])
        # Nordic's parser: a tag above 2**31 comes as a negative number.
        return cls(device, number % 2**32, digest, message, signature)

    def check(self, csr: bytes, tag: int, device: str | None, keys: Sequence[ec.EllipticCurvePublicKey]) -> None:
        """See that it is of this CSR (as the modem wrote it), tag and device, and by one of ``keys`` if there are any.

        Raises:
            FaultError: `Fault.UNATTESTED`.
        """
        if self.digest != hashlib.sha256(csr).digest():
            raise FaultError(Fault.UNATTESTED, "the modem's attestation is of another CSR")
        if self.tag != tag:
            raise FaultError(Fault.UNATTESTED, f"the modem's attestation is of the tag {self.tag}, not {tag}")
        if device is not None and self.device.hex() != device.replace("-", ""):
            raise FaultError(Fault.UNATTESTED, f"the modem's attestation is of the device {self.device.hex()[:40]}")
        if keys and not any(self._is_by(key) for key in keys):
            raise FaultError(Fault.UNATTESTED, f"the attestation is by none of the {len(keys)} listed keys")

    def _is_by(self, key: ec.EllipticCurvePublicKey) -> bool:
        r, s = (int.from_bytes(self.signature[at : at + 32], "big") for at in (0, 32))
        try:
            key.verify(utils.encode_dss_signature(r, s), self.message, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


def identity_keys(file: Path) -> tuple[ec.EllipticCurvePublicKey, ...]:
    """The public keys (PEM, P-256) of a file, one behind another.

    Raises:
        ValueError: with a sentence, where the file does not hold that.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(_KEY_FILE_MOST + 1)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    blocks = [block + _END for block in text.split(_END) if b"-----BEGIN" in block]
    if not blocks or len(blocks) > _MOST_KEYS or len(text) > _KEY_FILE_MOST:
        raise ValueError(f"{file} should hold 1 to {_MOST_KEYS} public keys (PEM)")
    keys = [load_pem_public_key(block) for block in blocks]
    found = [key for key in keys if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"]
    if len(found) != len(keys):
        raise ValueError(f"{file} holds a key that is not P-256")
    return tuple(found)
