"""The seal: signs with its own key, is verified by anybody with openssl's own means, and covers every byte."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tokens import Token

from station.config.tokens import Hsm, Pin, SealSettings
from station.faults import Fault, FaultError
from station.hsm.signers import generate_key
from station.hsm.uri import KeyUri
from station.model import KeyType, PublicKey
from station.seal import Seal, seal_id, verify


def pem(public: PublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def made(token: Token, key_type: KeyType = KeyType.P256) -> tuple[KeyUri, bytes]:
    key = token.key("station-seal", b"\x51")
    return key, pem(generate_key(key, token.pin, token.latch, key_type))


def refusal(public: bytes, message: bytes = b"m", signature: bytes = b"s") -> str:
    with pytest.raises(FaultError) as error:
        verify(public, message, signature)
    assert error.value.fault is Fault.SEAL_INVALID
    return error.value.detail


@pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.RSA2048])
def test_what_the_seal_signs_verifies_with_its_public_key_and_nothing_else_does(
    any_token: Token, key_type: KeyType
) -> None:
    key, public = made(any_token, key_type)
    with Seal(key, public, any_token.pin, any_token.latch) as seal:
        signature = seal.sign(b"the day's head")
    verify(public, b"the day's head", signature)
    assert "was changed since" in refusal(public, b"the day's heap", signature)
    assert "was changed since" in refusal(public, b"the day's head", signature[:-1] + bytes([signature[-1] ^ 1]))
    assert "was changed since" in refusal(public, b"the day's head", b"")
    other = pem(ec.generate_private_key(ec.SECP256R1()).public_key())
    assert seal_id(other)[:16] in refusal(other, b"the day's head", signature)


def test_openssl_verifies_a_seal_with_the_domain_in_front(softhsm: Token, tmp_path: Path) -> None:
    key, public = made(softhsm)
    with Seal(key, public, softhsm.pin, softhsm.latch) as seal:
        (tmp_path / "signature").write_bytes(seal.sign(b"minutes"))
    (tmp_path / "seal.pem").write_bytes(public)
    (tmp_path / "message").write_bytes(b"provisioning-station seal v1\nminutes")
    command = ["openssl", "dgst", "-sha256", "-verify", "seal.pem", "-signature", "signature", "message"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout == b"Verified OK\n"
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", "seal.pem", "-outform", "DER"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert seal.id == hashlib.sha256(der.stdout).hexdigest()


def test_a_key_that_is_not_the_seals_signs_nothing(softhsm: Token) -> None:
    key, _ = made(softhsm)
    stranger = pem(ec.generate_private_key(ec.SECP256R1()).public_key())
    with Seal(key, stranger, softhsm.pin, softhsm.latch) as seal, pytest.raises(FaultError) as error:
        seal.sign(b"m")
    assert error.value.fault is Fault.SEAL_MISMATCH


def test_the_settings_name_key_public_key_and_pin(softhsm: Token, tmp_path: Path) -> None:
    key, public = made(softhsm)
    (tmp_path / "seal.pem").write_bytes(public)
    settings = SealSettings(key=str(key), public=tmp_path / "seal.pem")
    hsm = Hsm(key=str(replace(key, object="device-ca")), pin=Pin(file=softhsm.folder / "pin"))
    with Seal.from_settings(settings, hsm, softhsm.latch) as seal:
        verify(public, b"m", seal.sign(b"m"))
    missing = settings.model_copy(update={"public": tmp_path / "none.pem"})
    with pytest.raises(FaultError, match="cannot be read") as error:
        Seal.from_settings(missing, hsm, softhsm.latch)
    assert error.value.fault is Fault.CONFIG


@pytest.mark.parametrize(
    ("public", "says"),
    [
        (b"", "no PEM public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no PEM public key"),
        (pem(ed25519.Ed25519PrivateKey.generate().public_key()), "p256"),
        (pem(ec.generate_private_key(ec.SECP521R1()).public_key()), "p256"),
        (pem(rsa.generate_private_key(65537, 1024).public_key()), "p256"),  # noqa: S505 - a weak one, on purpose
    ],
)
def test_what_is_no_seals_public_key_verifies_nothing(public: bytes, says: str) -> None:
    assert says in refusal(public)
