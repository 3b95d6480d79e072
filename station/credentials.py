"""What a unit is given, and how it shows what it holds: CSR, chain, key, read-back. Values, no I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from station.faults import Fault, FaultError
from station.model import ChainForm, KeyProof, KeyType, PrivateKey


@dataclass(frozen=True, slots=True)
class Enrollment:
    """A CSR (DER), and the private key where the station made it."""

    csr: bytes
    private_key: PrivateKey | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a unit gets: the chain, leaf first, and the key where the station made it.

    ``server_roots`` are the PEM roots by which the unit shall know the cloud.
    """

    chain: tuple[x509.Certificate, ...]
    server_roots: bytes
    private_key: PrivateKey | None = field(default=None, repr=False)
    form: ChainForm = ChainForm.LEAF_CA

    @property
    def leaf(self) -> x509.Certificate:
        """The unit's own certificate."""
        return self.chain[0]

    @property
    def pieces(self) -> tuple[tuple[x509.Certificate, ...], ...]:
        """The certificates of each place in the unit, leaf first."""
        match self.form:
            case ChainForm.LEAF:
                return ((self.leaf,),)
            case ChainForm.TWO_SLOTS:
                return ((self.leaf,), self.chain[1:])
        return (self.chain,)

    @property
    def chain_pem(self) -> bytes:
        """All that the unit holds of the chain as PEM, leaf first, LF line ends: what it sends when it connects."""
        return b"".join(_pem(piece) for piece in self.pieces)

    def texts(self, *, der: bool = False) -> tuple[bytes, ...]:
        """What goes into each place: PEM with LF line ends, or DER, of which a place holds one certificate."""
        return tuple(_der(piece) if der else _pem(piece) for piece in self.pieces)

    def key_text(self, *, der: bool = False) -> bytes:
        """The station-made key, PKCS #8 (RFC 5958), not encrypted: to be made only where it goes into the unit."""
        if self.private_key is None:
            raise FaultError(Fault.UNEXPECTED, "the key is on the board")
        encoding = Encoding.DER if der else Encoding.PEM
        return self.private_key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())


# PKCS #8 in DER (RFC 5958) with the public key, and with every number of an RSA key at its longest (RFC 8017, A.1.2).
_KEY_DER: Final = {
    KeyType.P256: 138,
    KeyType.P384: 185,
    KeyType.RSA2048: 1220,
    KeyType.RSA3072: 1796,
    KeyType.RSA4096: 2377,
}


def longest_key(kind: KeyType, *, der: bool) -> int:
    """The most bytes of `Credentials.key_text` for a key of this type."""
    size = _KEY_DER[kind]
    encoded = -(-size // 3) * 4
    return (
        size if der else encoded + -(-encoded // 64) + len("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")
    )


def _pem(piece: tuple[x509.Certificate, ...]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in piece)


def _der(piece: tuple[x509.Certificate, ...]) -> bytes:
    if len(piece) != 1:
        raise FaultError(Fault.CONFIG, f"{len(piece)} certificates in one place cannot be DER; the chain form is wrong")
    return piece[0].public_bytes(Encoding.DER)


def chosen_roots(roots: bytes, names: tuple[str, ...]) -> bytes:
    """The PEM of the roots with these common names, in their order; of all of ``roots`` where none is named.

    Nothing but certificates is left of the file: its comments are for people, and some boards refuse them.

    Raises:
        FaultError: `Fault.CONFIG` where a name is none of theirs, or ``roots`` holds no certificates.
    """
    try:
        found = x509.load_pem_x509_certificates(roots)
    except ValueError as error:
        raise FaultError(Fault.CONFIG, f"the server roots are no PEM certificates: {error}") from error
    if not names:
        return _pem(tuple(found))
    known = {_common_name(one): one for one in found}
    if missing := [name for name in names if name not in known]:
        raise FaultError(Fault.CONFIG, f"no server root is called {missing[0]!r}; there are {', '.join(sorted(known))}")
    return _pem(tuple(known[name] for name in names))


def root_ders(roots: bytes) -> list[bytes]:
    """Each certificate of ``roots`` (PEM) as DER, in their order."""
    return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(roots)]


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


@dataclass(frozen=True, slots=True)
class Held:
    """One thing as a unit shows it: its bytes, or the SHA-256 of them where the family offers no more.

    ``der`` where the unit holds DER instead of PEM; ``ending`` is what the firmware puts behind the text before it
    hashes or stores it (Zephyr: a NUL), ``line_end`` what it makes of each line end (Nordic's AT shell: CR LF).
    """

    value: bytes
    digest: bool = False
    der: bool = False
    ending: bytes = b""
    line_end: bytes = b"\n"

    def expected(self, text: bytes) -> bytes:
        """What `value` must be where the unit holds ``text``."""
        held = (text if self.der else text.replace(b"\n", self.line_end)) + self.ending
        return hashlib.sha256(held).digest() if self.digest else held


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a unit holds after its reset.

    ``chain`` has a `Held` for each place (`Credentials.pieces`); it is empty where the unit holds no chain. ``key`` is
    a signature over `possession_message` (ECDSA as DER, or PKCS #1 v1.5, with SHA-256), or a digest of the key that
    was installed; None where the family can show neither. ``roots`` is None where the family does not show them; in
    DER they are one behind the other.
    """

    chain: tuple[Held, ...]
    key: bytes | Held | None
    roots: Held | None = None


def possession_message(nonce: bytes) -> bytes:
    """The bytes a unit signs to prove its key: prefixed, so that no nonce can be a CSR or a TLS transcript."""
    return b"station possession v1\n" + nonce


def examine(evidence: Evidence, credentials: Credentials, nonce: bytes) -> KeyProof:
    """See that a unit kept over its reset what it was given, and the key that the leaf names.

    Raises:
        FaultError: `NOT_PERSISTENT`, `READBACK_DIFFERS`, `KEY_UNPROVEN`.
    """
    if not any(held.value for held in evidence.chain):
        raise FaultError(Fault.NOT_PERSISTENT, "no chain is left after the reset")
    if len(evidence.chain) != len(credentials.pieces):
        raise FaultError(
            Fault.READBACK_DIFFERS, f"{len(evidence.chain)} places hold a chain, not {len(credentials.pieces)}"
        )
    for place, held in enumerate(evidence.chain):
        _same("chain", held, credentials.texts(der=held.der)[place])
    if evidence.roots is not None:
        roots = credentials.server_roots
        _same("server roots", evidence.roots, b"".join(root_ders(roots)) if evidence.roots.der else roots)
    match evidence.key:
        case None:
            return KeyProof.UNPROVEN
        case Held(digest=True) as held if credentials.private_key is not None:
            _same("key", held, credentials.key_text(der=held.der))
            return KeyProof.DIGEST
        case bytes() as signature:
            _signed(credentials.leaf, signature, nonce)
            return KeyProof.SIGNED
    raise FaultError(Fault.KEY_UNPROVEN, "the board shows a key where a signature or a digest was to come")


def _same(what: str, held: Held, text: bytes) -> None:
    expected = held.expected(text)
    if held.value == expected:
        return
    if held.digest:
        raise FaultError(Fault.READBACK_DIFFERS, f"the {what}: the SHA-256 read back is not that of what was installed")
    raise FaultError(Fault.READBACK_DIFFERS, f"the {what}: {_difference(held.value, expected)}")


def _signed(leaf: x509.Certificate, signature: bytes, nonce: bytes) -> None:
    key, message = leaf.public_key(), possession_message(nonce)
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            case rsa.RSAPublicKey():
                key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            case _:
                raise FaultError(Fault.KEY_TYPE, f"the leaf holds a {type(key).__name__}")
    except InvalidSignature as error:
        raise FaultError(Fault.KEY_UNPROVEN, "the signature over the nonce is not by the leaf's key") from error


def _difference(got: bytes, sent: bytes) -> str:
    """Where two texts part, for the engineer: an offset and two lengths, never the content."""
    offset = next((i for i, (a, b) in enumerate(zip(got, sent, strict=False)) if a != b), min(len(got), len(sent)))
    return f"sent {len(sent)} bytes, read {len(got)}; they differ from byte {offset} on"
