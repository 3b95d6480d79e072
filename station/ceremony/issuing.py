"""Act `issuing`: a CA under an offline root, by a CSR that travels, or in one go where the root's key is in reach."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from station.ca import (
    CertificateAuthority,
    authority_name,
    authority_request,
    issuing_certificate,
    lint,
    load_ca_certificate,
    self_signed_root,
)
from station.ceremony.journal import now
from station.ceremony.root import to_pem
from station.ceremony.session import Session, latch_of, own_key, own_public, pin_source, signers_of
from station.config.acts import ByKey, IssuingAct
from station.faults import Fault, FaultError
from station.hsm.keys import token_key
from station.hsm.signers import Signers
from station.hsm.uri import KeyUri
from station.model import KeyType, PrivateKey, serial_text


def plan(act: IssuingAct) -> list[str]:
    """What the act will do."""
    made = f"make a {act.key_type.value} key in the token: {act.key}"
    named = f"CN={act.subject.common_name}, CA:TRUE"
    tried = "look over the certificate that it is to have, of throw-away keys"
    if isinstance(act.root, ByKey):
        return [
            tried,
            made,
            f"certify it as {named}, {act.root.validity_days} days, with the root's key {act.root.key}",
            f"write the certificate to {act.outputs.certificate}",
        ]
    return [
        tried,
        made,
        f"write a CSR for {named} to {act.outputs.csr}",
        f"wait until the root's owner has put the certificate at {act.root.issued}; perform this file again then",
        f"look it over, prove it to be the key's and the root's, and write it to {act.outputs.certificate}",
    ]


def perform(act: IssuingAct, session: Session) -> bool:
    """Perform it; returns False where it waits for the root's owner."""
    journal = session.journal
    root = load_ca_certificate(act.root.certificate)
    journal.add(number=serial_text(x509.random_serial_number()), not_before=now())
    _try_out(act, root, session)
    key = own_key(act, session, lambda maker: maker.generate(act.key_type, again=True))
    session.step("key", f"the key is in the token: {key}")
    if not journal.stepped("certificate") and not _certified(act, key, root, session):
        return False
    pem = journal.kept("certificate")
    session.evidence["certificates"] = {"ca": pem, "root": to_pem(root)}
    journal.write_output("certificate", pem)
    session.step("written", f"the CA certificate is written: {act.outputs.certificate}")
    return True


def _certified(act: IssuingAct, key: KeyUri, root: x509.Certificate, session: Session) -> bool:
    """The certificate is kept in the journal; False where it has still to come from the root's owner."""
    journal = session.journal
    with signers_of(act, key) as signers:
        journal.add(token=signers.describe())
        private = token_key(own_public(session), signers)
        if isinstance(act.root, ByKey):
            by = act.root
            pem = journal.keep("certificate", lambda: _sign(act, by, root, session))
        else:
            issued = act.root.issued
            request = journal.keep("csr", lambda: _request(act, private))
            journal.write_output("csr", request)
            session.step("csr", f"the CSR is written: {act.outputs.csr}; bring it to the root's owner")
            if not issued.exists():
                session.say(f"it waits for the certificate at {issued}; perform this file again then")
                return False
            pem = journal.keep("certificate", lambda: _issued(act, issued, root, session))
        certificate = x509.load_pem_x509_certificate(pem.encode())
        CertificateAuthority(certificate, private).prove()
    session.step("certificate", "the certificate is the key's and the root's, and without a finding")
    return True


def _request(act: IssuingAct, key: PrivateKey) -> str:
    return authority_request(key, _name(act), act.path_length).public_bytes(Encoding.PEM).decode()


def _name(act: IssuingAct) -> x509.Name:
    return authority_name(act.subject.common_name, act.subject.organization, act.subject.country)


def _try_out(act: IssuingAct, root: x509.Certificate, session: Session) -> None:
    """The same certificate for a throw-away key, under a throw-away root as long-lived as the real one.

    How long a CSR's certificate will be valid is its root's owner's to say: a day will do.
    """
    stand_in = lint.throw_away_key(KeyType.of(root.public_key()) or KeyType.P256)
    above = self_signed_root(
        stand_in,
        common_name="Trial",
        organization="Trial",
        country=None,
        days=(root.not_valid_after_utc - root.not_valid_before_utc).days,
        path_length=2,
        number=x509.random_serial_number(),
        not_before=root.not_valid_before_utc,
    )
    facts = session.journal.facts
    trial = issuing_certificate(
        lint.throw_away_key(act.key_type).public_key(),
        _name(act),
        above,
        stand_in,
        days=act.root.validity_days if isinstance(act.root, ByKey) else 1,
        path_length=act.path_length,
        number=int(facts["number"], 16),
        not_before=datetime.fromisoformat(facts["not_before"]),
    )
    lint.refuse(trial, above, lint.Kind.ISSUING)
    session.step("trial", "a trial certificate of throw-away keys is without a finding")


def _sign(act: IssuingAct, by: ByKey, root: x509.Certificate, session: Session) -> str:
    """Certify with the root's key, wherever its token is."""
    facts = session.journal.facts
    with Signers(KeyUri.parse(by.key), pin_source(by.pin), latch_of(act), processes=1) as signers:
        key = token_key(root.public_key(), signers)
        CertificateAuthority(root, key).prove()
        made = issuing_certificate(
            own_public(session),
            _name(act),
            root,
            key,
            days=by.validity_days,
            path_length=act.path_length,
            number=int(facts["number"], 16),
            not_before=datetime.fromisoformat(facts["not_before"]),
        )
    lint.refuse(made, root, lint.Kind.ISSUING)
    return to_pem(made)


def _issued(act: IssuingAct, path: Path, root: x509.Certificate, session: Session) -> str:
    """What came back from the root's owner, if it is what was asked for."""
    made = load_ca_certificate(path)
    problems = []
    if made.public_key() != own_public(session):
        problems.append("is for another key")
    if made.subject != _name(act):
        problems.append(f"is for {made.subject.rfc4514_string()}")
    try:
        made.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        problems.append(f"is not issued by {act.root.certificate}")
    if not made.not_valid_before_utc <= datetime.now(UTC) < made.not_valid_after_utc:
        problems.append("is not valid now")
    length = made.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if length is None or length > act.path_length:
        problems.append(f"has the path length {length}; {act.path_length} was asked for")
    if problems:
        raise FaultError(Fault.CA_MISMATCH, f"{path} {'; '.join(problems)}")
    lint.refuse(made, root, lint.Kind.ISSUING)
    return to_pem(made)
