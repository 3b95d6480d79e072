"""What a board's crypto library does for it. Imported only once a command needs it, so that a board starts quickly.

Keys travel as PKCS #8 PEM, as they lie in the board's flash.
"""

from __future__ import annotations

from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

_Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}


class CryptoError(Exception):
    """What lies in the key's place is no key that this board can use."""


def make_key(kind: str) -> bytes:
    """A fresh key: ``p256``, ``p384``, or ``rsa`` and its bits."""
    curve = _CURVES.get(kind)
    key: _Key = (
        ec.generate_private_key(curve)
        if curve
        else rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))  # 1024 bits by the fault weak-rsa
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_csr(key_pem: bytes, common_name: str) -> bytes:
    """The DER of a PKCS #10 request (RFC 2986) for ``CN=common_name`` (UTF8String)."""
    key = _load(key_pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    big_curve = isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1)
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, SHA384() if big_curve else SHA256()).public_bytes(Encoding.DER)


def sign(key_pem: bytes, message: bytes) -> bytes:
    """SHA-256 with ECDSA (DER, RFC 3279) or RSASSA-PKCS1-v1_5."""
    key = _load(key_pem)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(SHA256()))
    return key.sign(message, padding.PKCS1v15(), SHA256())


def kind_of(key_pem: bytes) -> str:
    """The name by which `make_key` makes such a key."""
    key = _load(key_pem)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"secp256r1": "p256", "secp384r1": "p384"}[key.curve.name]
    return f"rsa{key.key_size}"


def _load(key_pem: bytes) -> _Key:
    try:
        key = load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as error:
        raise CryptoError(str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CryptoError(f"{type(key).__name__} is no key of this board")
    return key
