"""Looks a certificate over before it is given out: RFC 5280, and the profile of this house (the design's jitr.md).

What is made is looked over twice: made with a throw-away key first (an act's at once, a product's at the station's
start), so that a mistake in the settings costs no signature of the CA's, and again as it came out of the token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from station.faults import Fault, FaultError
from station.model import KeyType, PrivateKey

_HANDLED: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_TIME: Final = re.compile(rb"\x17\x0d[0-9]{12}Z|\x18\x0f[0-9]{14}Z")


class Kind(StrEnum):
    """What a certificate is for."""

    ROOT = "root"
    ISSUING = "issuing"
    UNIT = "unit"
    VERIFICATION = "verification"


@dataclass(frozen=True, slots=True)
class _Case:
    made: x509.Certificate
    issuer: x509.Certificate
    kind: Kind

    @property
    def is_ca(self) -> bool:
        return self.kind in {Kind.ROOT, Kind.ISSUING}

    def extension(self, kind: type[_Extension]) -> x509.Extension[_Extension] | None:
        try:
            return self.made.extensions.get_extension_for_class(kind)
        except x509.ExtensionNotFound:
            return None


def findings(made: x509.Certificate, issuer: x509.Certificate, kind: Kind) -> list[str]:
    """Everything that is not as it should be, a sentence each, with the rule's place in RFC 5280; none is right."""
    case = _Case(made, issuer, kind)
    try:
        list(made.extensions)
    except (x509.DuplicateExtension, ValueError) as error:
        return [f"the extensions cannot be read: {error} (4.2)"]
    return [finding for rule in _RULES for finding in rule(case)]


def refuse(made: x509.Certificate, issuer: x509.Certificate, kind: Kind) -> None:
    """Raise `Fault.CERTIFICATE_LINT` with every finding."""
    found = findings(made, issuer, kind)
    if found:
        raise FaultError(Fault.CERTIFICATE_LINT, f"{kind} certificate: " + "; ".join(found))


def throw_away_key(key_type: KeyType) -> PrivateKey:
    """A key of that type that signs a trial certificate and is forgotten."""
    match key_type:
        case KeyType.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return rsa.generate_private_key(65_537, int(key_type.value.removeprefix("rsa")))


def _version(case: _Case) -> Iterator[str]:
    if case.made.version is not x509.Version.v3:
        yield "is not version 3 (4.1.2.1)"
    if not 1 << 63 <= case.made.serial_number < 1 << 159:
        yield "its serial number is not positive with 64 to 159 bits (4.1.2.2)"


def _signature(case: _Case) -> Iterator[str]:
    made = case.made
    if not isinstance(made.signature_hash_algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        yield "is not signed with SHA-2 (AWS IoT takes no other)"
    if not isinstance(made.signature_algorithm_parameters, PKCS1v15 | ec.ECDSA):
        yield "is not signed with ECDSA or RSA PKCS #1 v1.5 (AWS IoT takes no other)"
    try:
        made.verify_directly_issued_by(case.issuer)
    except (InvalidSignature, ValueError, TypeError) as error:
        yield f"does not verify with its issuer ({type(error).__name__}) (6.1.3)"
    if made.issuer.public_bytes() != case.issuer.subject.public_bytes():
        yield "its issuer is not its issuer's subject, byte for byte (4.1.2.4)"


def _key(case: _Case) -> Iterator[str]:
    key = case.made.public_key()
    if KeyType.of(key) is None:
        yield f"its key is none of {', '.join(KeyType)}"
    if isinstance(key, rsa.RSAPublicKey) and key.public_numbers().e != 65_537:
        yield "its RSA exponent is not 65537"


def _names(case: _Case) -> Iterator[str]:
    if not case.made.subject.rdns:
        yield "its subject is empty (4.1.2.6)"
    limits = {NameOID.COUNTRY_NAME: 2}
    for part in case.made.subject.rdns:
        if len(list(part)) != 1:
            yield "a part of its subject holds several values"
        for one in part:
            text = str(one.value)
            if not text or len(text) > limits.get(one.oid, 64) or text != text.strip() or not text.isprintable():
                yield f"the subject's {one.rfc4514_attribute_name} is empty, too long, padded or unprintable (A.1)"
            if one.oid == NameOID.COUNTRY_NAME and not re.fullmatch("[A-Z]{2}", text):
                yield "the subject's country is not two capital letters (A.1)"
    twice = [
        oid for oid in {one.oid for one in case.made.subject} if len(case.made.subject.get_attributes_for_oid(oid)) > 1
    ]
    if twice:
        yield "its subject says the same thing twice"


def _validity(case: _Case) -> Iterator[str]:
    made, issuer = case.made, case.issuer
    if made.not_valid_before_utc >= made.not_valid_after_utc:
        yield "it ends before it begins (4.1.2.5)"
    if made.not_valid_after_utc > issuer.not_valid_after_utc or made.not_valid_before_utc < issuer.not_valid_before_utc:
        yield "it is valid while its issuer is not (6.1.3)"
    tags = [bool(found.startswith(b"\x18")) for found in _TIME.findall(made.tbs_certificate_bytes)]
    late = [when.year >= 2050 for when in (made.not_valid_before_utc, made.not_valid_after_utc)]
    if tags[:2] != late:
        yield "its times are not UTCTime until 2049 and GeneralizedTime after (4.1.2.5)"


def _constraints(case: _Case) -> Iterator[str]:
    found = case.extension(x509.BasicConstraints)
    if found is None:
        yield "has no basicConstraints (4.2.1.9)"
    elif found.value.ca is not case.is_ca:
        yield f"has CA:{str(found.value.ca).upper()} (4.2.1.9)"
    elif not found.critical:
        yield "its basicConstraints is not critical (4.2.1.9)"


def _usage(case: _Case) -> Iterator[str]:
    found = case.extension(x509.KeyUsage)
    if found is None:
        yield "has no keyUsage (4.2.1.3)"
        return
    if not found.critical:
        yield "its keyUsage is not critical (4.2.1.3)"
    usage = found.value
    if usage.key_cert_sign is not case.is_ca:
        yield "keyCertSign stands with CA:TRUE and only there (4.2.1.3)"
    if not case.is_ca and not usage.digital_signature:
        yield "has not digitalSignature, by which TLS proves the key (4.2.1.3)"
    if usage.key_encipherment and isinstance(case.made.public_key(), ec.EllipticCurvePublicKey):
        yield "has keyEncipherment, which an EC key cannot do (RFC 5480, 3)"


def _identifiers(case: _Case) -> Iterator[str]:
    own, issuers = case.extension(x509.SubjectKeyIdentifier), case.extension(x509.AuthorityKeyIdentifier)
    for name, found, section in (("subject", own, "4.2.1.2"), ("authority", issuers, "4.2.1.1")):
        if found is None:
            yield f"has no {name}KeyIdentifier ({section})"
        elif found.critical:
            yield f"its {name}KeyIdentifier is critical ({section})"
    try:
        wanted = case.issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return
    if issuers is not None and issuers.value.key_identifier != wanted:
        yield "its authorityKeyIdentifier is not its issuer's subjectKeyIdentifier (4.2.1.1)"


def _purpose(case: _Case) -> Iterator[str]:
    found = case.extension(x509.ExtendedKeyUsage)
    if case.kind is Kind.UNIT and (found is None or list(found.value) != [ExtendedKeyUsageOID.CLIENT_AUTH]):
        yield "its extendedKeyUsage is not clientAuth alone (4.2.1.12)"
    if case.is_ca and found is not None:
        yield "is a CA's and has an extendedKeyUsage"


def _unknown(case: _Case) -> Iterator[str]:
    for extension in case.made.extensions:
        if extension.oid not in _HANDLED:
            yield f"holds the extension {extension.oid.dotted_string}, which this house does not use"


_RULES: Final[tuple[Callable[[_Case], Iterator[str]], ...]] = (
    _version,
    _signature,
    _key,
    _names,
    _validity,
    _constraints,
    _usage,
    _identifiers,
    _purpose,
    _unknown,
)
