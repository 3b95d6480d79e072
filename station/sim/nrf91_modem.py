"""The modem of a simulated nRF91: its credential storage and AT commands, after Nordic's AT command reference.

Written from the documentation and from answers of real modems that Nordic's own tools have in their tests
(nrfcloud_utils, ``test_device_credentials_installer.py``); the attestation's CBOR is put together by hand here.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from station.sim.board_faults import Faults
from station.sim.terminal import keep, kept

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

KNOWN = {
    "full": ("", "each write ends in +CME ERROR: 515"),
    "not-allowed": ("", "no credential may be changed: +CME ERROR: 514"),
    "active": ("", "AT+CFUN=4 does not hold: +CME ERROR: 518"),
    "keeps": ("", "a credential that was deleted is still there: +CME ERROR: 519"),
    "keygen-fails": ("", "AT%KEYGEN ends in +CME ERROR: 523"),
    "no-null": ("", "the CSR is as RFC 5758 wants it, without the NULL"),
    "bad-digest": ("", "the attestation is of another CSR"),
    "wrong-tag": ("", "the attestation is of another tag"),
    "wrong-device": ("", "the attestation is of another modem"),
    "bad-attestation": ("", "the attestation is signed by a key that is not the modem's"),
    "no-attestation": ("", "the CSR comes without an attestation"),
    "no-uuid": ("", "AT%DEVICEUUID is not known, as before modem firmware 1.3"),
}

_TAG_MAX = 2_147_483_647
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA_SHA256_NULL = bytes.fromhex("300c06082a8648ce3d0403020500")
_PROTECTED = bytes.fromhex("a10126")  # {1: -7}: ES256
_WRITE = re.compile(rb'AT%CMNG=0,(\d{1,10}),(\d{1,2}),"([^"]*)"', re.DOTALL)
_LIST = re.compile(rb"AT%CMNG=1(?:,(\d{1,10})(?:,(\d{1,2}))?)?")
_DELETE = re.compile(rb"AT%CMNG=3,(\d{1,10}),(\d{1,2})")
_KEYGEN = re.compile(rb'AT%KEYGEN=(\d{1,10}),2,0(?:,"([^"]*)")?')
_SET = re.compile(rb"AT\+(CFUN|CMEE)=(\d)")


class _RefusalError(Exception):
    """A command ends in +CME ERROR with this number; 0 is a plain ERROR."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Modem:
    """One modem, by its IMEI, chip, model and firmware. Its store survives everything, its modes no restart."""

    def __init__(self, names: tuple[str, str, str, str], store: Path, faults: Faults) -> None:
        imei, chip, model, firmware = names
        self._said = {b"AT+CGSN": imei, b"AT+CGMM": model, b"AT+CGMR": firmware}
        self._uuid = _uuid(chip)
        self._store, self._faults = store, faults
        self.restart()

    def restart(self) -> None:
        """As the application leaves it after a start: online, errors without numbers."""
        self._functions, self._numbered = 1, False
        self.forget()

    def forget(self) -> None:
        """Lose the store, where ordered so."""
        if "forget" in self._faults:
            for file in self._store.glob("*.pem"):
                file.unlink()

    def obey(self, command: bytes) -> bytes:
        """The whole answer to one command, its line ends included."""
        try:
            said = self._answer(command)
        except _RefusalError as refusal:
            numbered = self._numbered and refusal.number
            return f"+CME ERROR: {refusal.number}\r\n".encode() if numbered else b"ERROR\r\n"
        return said + b"OK\r\n"

    def _answer(self, command: bytes) -> bytes:
        if command == b"AT":
            return b""
        if command in self._said:
            return f"{self._said[command]}\r\n".encode()
        if command == b"AT+CFUN?":
            return f"+CFUN: {self._functions}\r\n".encode()
        if command == b"AT%DEVICEUUID" and "no-uuid" not in self._faults:
            return f"%DEVICEUUID: {self._uuid}\r\n".encode()
        acts: tuple[tuple[re.Pattern[bytes], Callable[[re.Match[bytes]], bytes]], ...] = (
            (_SET, self._set),
            (_WRITE, self._write),
            (_LIST, self._list),
            (_DELETE, self._delete),
            (_KEYGEN, self._keygen),
        )
        for pattern, act in acts:
            if found := pattern.fullmatch(command):
                return act(found)
        raise _RefusalError(0)

    def _set(self, asked: re.Match[bytes]) -> bytes:
        value = int(asked[2])
        if asked[1] == b"CMEE":
            self._numbered = value == 1
        elif {0: "no-restart", 4: "active"}.get(value, "") not in self._faults:
            self._functions = value
        return b""

    def _write(self, asked: re.Match[bytes]) -> bytes:
        self._may_change()
        if kept(self._store, self._file(asked)) is not None:
            raise _RefusalError(519)
        if "full" in self._faults:
            raise _RefusalError(515)
        if int(asked[2]) > 2 or not _is_pem(int(asked[2]), asked[3]):
            raise _RefusalError(527)
        keep(self._store, self._file(asked), asked[3])
        return b""

    def _delete(self, asked: re.Match[bytes]) -> bytes:
        self._may_change()
        if kept(self._store, self._file(asked)) is None:
            raise _RefusalError(513)
        if "keeps" not in self._faults:
            (self._store / self._file(asked)).unlink()
        return b""

    def _list(self, asked: re.Match[bytes]) -> bytes:
        lines = []
        for file in sorted(self._store.glob("*.pem")):
            tag, kind = file.stem.split("-")
            if asked[1] in {None, tag.encode()} and asked[2] in {None, kind.encode()}:
                digest = hashlib.sha256(file.read_bytes()).hexdigest().upper()
                if kind == "1" and "flip" in self._faults:
                    digest = digest[::-1]
                lines.append(f'%CMNG: {tag},{kind},"{digest}"\r\n')
        return "".join(lines).encode()

    def _keygen(self, asked: re.Match[bytes]) -> bytes:
        from station.sim.board_crypto import make_csr, make_key

        self._may_change()
        name = f"{int(asked[1])}-2.pem"
        if kept(self._store, name) is not None:
            raise _RefusalError(519)
        if "keygen-fails" in self._faults:
            raise _RefusalError(523)
        subject = (asked[2] or f"CN={self._uuid}".encode()).decode("ascii").removeprefix("CN=")
        key = make_key("p256")
        keep(self._store, name, key)
        csr = self._as_the_modem_writes_it(make_csr(key, subject))
        parts = [csr] if "no-attestation" in self._faults else [csr, self._attestation(csr, int(asked[1]))]
        return b'%KEYGEN: "' + b".".join(_base64url(part) for part in parts) + b'"\r\n'

    def _as_the_modem_writes_it(self, der: bytes) -> bytes:
        """With a NULL behind ecdsa-with-SHA256, which RFC 5758, 3.2 forbids."""
        from cryptography import x509

        request = x509.load_der_x509_csr(der)
        signature = request.signature
        if "bad-csr-signature" in self._faults:
            signature = signature[:-1] + bytes([signature[-1] ^ 1])
        algorithm = _ECDSA_SHA256 if "no-null" in self._faults else _ECDSA_SHA256_NULL
        return _der(0x30, request.tbs_certrequest_bytes + algorithm + _der(0x03, b"\x00" + signature))

    def _attestation(self, csr: bytes, tag: int) -> bytes:
        """COSE_Sign1 (RFC 9052, 4.2) over [9, device, tag, SHA-256 of the CSR, nonce], by the modem's identity key."""
        from cryptography.hazmat.primitives.asymmetric import ec, utils
        from cryptography.hazmat.primitives.hashes import SHA256

        digest = hashlib.sha256(csr + (b"x" if "bad-digest" in self._faults else b"")).digest()
        device = uuid.uuid4() if "wrong-device" in self._faults else self._uuid
        payload = bytes.fromhex("d9d9f78509")
        payload += _bstr(device.bytes) + _bstr(_uint(tag + ("wrong-tag" in self._faults)))
        payload += _bstr(digest) + _bstr(os.urandom(16))
        message = b"\x84\x6aSignature1" + _bstr(_PROTECTED) + b"\x40" + _bstr(payload)
        stranger = "bad-attestation" in self._faults
        key = ec.generate_private_key(ec.SECP256R1()) if stranger else self._identity_key()
        r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return b"\xd2\x84" + _bstr(_PROTECTED) + b"\xa1\x04\x41\x21" + _bstr(payload) + _bstr(signature)

    def _identity_key(self) -> EllipticCurvePrivateKey:
        """The key that was burnt in at Nordic; its public half lies beside the store for who must know it."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

        from station.sim.board_crypto import make_key

        pem = kept(self._store, "identity.key")
        if pem is None:
            pem = make_key("p256")
            keep(self._store, "identity.key", pem)
        key = load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - made above
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        keep(self._store, "identity.pub", public)
        return key

    def _may_change(self) -> None:
        if self._functions in {1, 2, 21}:
            raise _RefusalError(518)
        if "not-allowed" in self._faults:
            raise _RefusalError(514)

    def _file(self, asked: re.Match[bytes]) -> str:
        if int(asked[1]) > _TAG_MAX:
            raise _RefusalError(514)
        return f"{int(asked[1])}-{int(asked[2])}.pem"


def _uuid(chip: str) -> uuid.UUID:
    try:
        return uuid.UUID(chip)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, chip)


def _is_pem(kind: int, text: bytes) -> bool:
    """Whether the modem can use it: certificates for 0 and 1, a private key for 2."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if kind == 2:
            load_pem_private_key(text, None)
        else:
            x509.load_pem_x509_certificates(text)
    except (ValueError, TypeError):
        return False
    return b"\\n" not in text


def _base64url(data: bytes) -> bytes:
    import base64

    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _head(kind: int, value: int) -> bytes:
    """The head of a CBOR item (RFC 8949, 3)."""
    if value < 24:
        return bytes([kind << 5 | value])
    size = next(n for n in (1, 2, 4) if value < 1 << 8 * n)
    return bytes([kind << 5 | {1: 24, 2: 25, 4: 26}[size]]) + value.to_bytes(size, "big")


def _bstr(data: bytes) -> bytes:
    return _head(2, len(data)) + data


def _uint(value: int) -> bytes:
    return _head(0, value)
