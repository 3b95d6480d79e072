"""Act `import`: an existing CA key goes from its PEM file into the token, and is proved to be its certificate's."""

from __future__ import annotations

from cryptography import x509

from station.ca import CertificateAuthority, issuing_key, lint, load_ca_certificate
from station.ceremony.root import to_pem
from station.ceremony.session import Session, own_key, pin_source, signers_of
from station.config.acts import ImportAct
from station.config.guards import REHEARSAL
from station.faults import Fault, FaultError
from station.hsm.keys import token_key


def plan(act: ImportAct) -> list[str]:
    """What the act will do."""
    return [
        f"take the key in {act.source.key} into the token: {act.key}; from then on it never leaves it",
        f"prove that it is the key of {act.source.certificate}",
        f"write the certificate to {act.outputs.certificate}",
        f"ask whether {act.source.key} and every copy are destroyed; until then the key is not the token's alone",
    ]


def perform(act: ImportAct, session: Session) -> bool:
    """Perform it; complete when this returns."""
    journal = session.journal
    certificate = load_ca_certificate(act.source.certificate)
    _refuse_mixing(act, certificate)
    pem = journal.keep("certificate", lambda: to_pem(certificate))
    if pem != to_pem(certificate):
        raise FaultError(Fault.CEREMONY, f"{act.source.certificate} is another certificate than when the act began")
    public = issuing_key(certificate)
    passphrase = pin_source(act.source.passphrase) if act.source.passphrase else None
    key = own_key(act, session, lambda maker: maker.take_in(public, act.source.key, passphrase, again=True))
    session.step("key", f"the key is in the token: {key}")

    if not journal.stepped("proof"):
        with signers_of(act, key) as signers:
            journal.add(token=signers.describe())
            CertificateAuthority(certificate, token_key(public, signers)).prove()
        session.step("proof", "the token signed, and the CA certificate verifies it")
    _look_over(session, certificate)
    session.evidence["certificates"] = {"ca": pem}
    session.evidence["key_origin"] = "imported"

    journal.write_output("certificate", pem)
    session.step("written", f"the CA certificate is written: {act.outputs.certificate}")
    _ask_destroyed(act, session)
    return True


def _refuse_mixing(act: ImportAct, certificate: x509.Certificate) -> None:
    marked = REHEARSAL in certificate.subject.rfc4514_string()
    if marked is not act.rehearsal:
        said = "a rehearsal's" if marked else "not a rehearsal's"
        raise FaultError(
            Fault.SIMULATION_MIXED,
            f"{act.source.certificate} is {said} (the word {REHEARSAL} in its subject), the file says"
            f" rehearsal: {str(act.rehearsal).lower()}",
        )


def _look_over(session: Session, certificate: x509.Certificate) -> None:
    """An old CA is as it is: what is not as it should be is told and put into the minutes, not refused."""
    own = certificate.subject == certificate.issuer
    found = lint.findings(certificate, certificate, lint.Kind.ROOT) if own else []
    session.journal.add(findings=found)
    for finding in session.journal.facts["findings"]:
        session.say(f"take note: the CA certificate {finding}")
    if not own:
        session.say("take note: the CA certificate is another CA's; it was not looked over as one of its own")


def _ask_destroyed(act: ImportAct, session: Session) -> None:
    """What the operator says about the file is on record once, whatever it is."""
    if session.journal.stepped("file"):
        return
    sworn = session.people.confirm(f"Type destroyed when {act.source.key} and every copy of it are: ", "destroyed")
    if sworn and act.source.key.exists():
        session.say(f"{act.source.key} is still there; next: shred -u {act.source.key}")
        sworn = False
    who = session.people.by
    session.step(
        "file",
        f"{who} confirms that {act.source.key} and its copies are destroyed"
        if sworn
        else f"NOT confirmed: that {act.source.key} and its copies are destroyed; the key is not the token's alone",
    )
