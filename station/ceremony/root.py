"""Act `root`: the CA key is made in its token, and certified by itself."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from station.ca import lint, self_signed_root
from station.ceremony.journal import now
from station.ceremony.session import Session, own_key, own_public, signers_of
from station.config.acts import RootAct
from station.hsm.keys import token_key
from station.model import PrivateKey, serial_text


def plan(act: RootAct) -> list[str]:
    """What the act will do."""
    return [
        f"make a {act.key_type.value} key in the token: {act.key}",
        f"certify a throw-away key by itself as CN={act.subject.common_name}, CA:TRUE, and look the certificate over",
        f"certify the key in the token in the same way, for {act.validity_days} days, and look it over again",
        f"write the certificate to {act.outputs.certificate}",
    ]


def perform(act: RootAct, session: Session) -> bool:
    """Perform it; complete when this returns."""
    journal = session.journal
    journal.add(number=serial_text(x509.random_serial_number()), not_before=now())
    trial = _certify(act, session, lint.throw_away_key(act.key_type))
    lint.refuse(trial, trial, lint.Kind.ROOT)
    session.step("trial", "a trial certificate of a throw-away key is without a finding")

    key = own_key(act, session, lambda maker: maker.generate(act.key_type, again=True))
    session.step("key", f"the key is in the token: {key}")

    if not journal.kept("certificate"):
        with signers_of(act, key) as signers:
            journal.add(token=signers.describe())
            own = token_key(own_public(session), signers)
            journal.keep("certificate", lambda: to_pem(_certify(act, session, own)))
    pem = journal.kept("certificate")
    certificate = x509.load_pem_x509_certificate(pem.encode())
    lint.refuse(certificate, certificate, lint.Kind.ROOT)
    session.step("certificate", "the CA certificate is signed by its own key and is without a finding")
    session.evidence["certificates"] = {"ca": pem}

    journal.write_output("certificate", pem)
    session.step("written", f"the CA certificate is written: {act.outputs.certificate}")
    return True


def _certify(act: RootAct, session: Session, key: PrivateKey) -> x509.Certificate:
    facts = session.journal.facts
    return self_signed_root(
        key,
        common_name=act.subject.common_name,
        organization=act.subject.organization,
        country=act.subject.country,
        days=act.validity_days,
        path_length=act.path_length,
        number=int(facts["number"], 16),
        not_before=datetime.fromisoformat(facts["not_before"]),
    )


def to_pem(certificate: x509.Certificate) -> str:
    """A certificate as PEM text."""
    return certificate.public_bytes(Encoding.PEM).decode()
