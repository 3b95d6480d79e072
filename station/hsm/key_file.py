"""A CA key as its owner hands it over, in PEM: read in the token's child alone, and turned into PKCS#11 objects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pkcs11 import Attribute
from pkcs11.util import ec as p11_ec
from pkcs11.util import rsa as p11_rsa

from station.faults import Fault, FaultError
from station.hsm.pin import PinSource
from station.model import KeyType
from station.secret import refuse_open_files

_MAX_FILE: Final = 65_536

FoundKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def read(path: Path, passphrase: PinSource | None) -> FoundKey:
    """The key in the file.

    Raises:
        FaultError: `Fault.KEY_FILE`, with a sentence that quotes nothing of the file.
    """
    try:
        with path.open("rb") as file:
            refuse_open_files(path, os.fstat(file.fileno()), "the CA key")
            pem = file.read(_MAX_FILE)
    except OSError as error:
        raise FaultError(Fault.KEY_FILE, f"{path} cannot be read: {error.strerror}") from error
    secret = passphrase.read().encode() if passphrase else None
    # None of these is chained: their texts are about the bytes of a private key.
    try:
        key = load_pem_private_key(pem, secret)
    except TypeError:
        why = "is not encrypted; leave `passphrase` out" if secret else "is encrypted; name its `passphrase`"
        raise FaultError(Fault.KEY_FILE, f"the key in {path} {why}") from None
    except (ValueError, UnsupportedAlgorithm):
        why = "or the passphrase is wrong" if secret else "or it is damaged"
        raise FaultError(Fault.KEY_FILE, f"{path} holds no private key in PEM, {why}") from None
    if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) and KeyType.of(key):
        return key
    raise FaultError(Fault.KEY_FILE, f"{path} holds a {type(key).__name__} of another kind than {', '.join(KeyType)}")


def objects(key: FoundKey) -> tuple[dict[Attribute, Any], dict[Attribute, Any]]:
    """The public and the private object's own attributes."""
    secret = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        point = p11_ec.decode_ec_public_key(public_der(key))
        return {**point, Attribute.VERIFY: True}, p11_ec.decode_ec_private_key(secret)
    pkcs1 = public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    verifying = {Attribute.ENCRYPT: False, Attribute.WRAP: False, Attribute.VERIFY: True}
    return {**p11_rsa.decode_rsa_public_key(pkcs1), **verifying}, p11_rsa.decode_rsa_private_key(secret)


def public_der(key: FoundKey) -> bytes:
    """Its public half, by which it is known."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
