"""Act `register`: AWS IoT is made to know the CA, active and with auto-registration on."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from station.aws import CaRecord, CaRegistry
from station.ca import CertificateAuthority, lint, load_ca_certificate, self_signed_root, verification_certificate
from station.ceremony.journal import now
from station.ceremony.root import to_pem
from station.ceremony.session import Session, signers_of
from station.config.acts import RegisterAct, Template
from station.config.guards import REHEARSAL
from station.faults import Fault, FaultError
from station.hsm.keys import token_key
from station.hsm.uri import KeyUri
from station.model import KeyType, PrivateKey, certificate_id

_REFUSED = frozenset({Fault.CA_NOT_CA, Fault.CA_SUBJECT_FULL, Fault.REGISTRATION_REFUSED})
_MAX_TEMPLATE = 10_240  # RegisterCACertificate: templateBody


def plan(act: RegisterAct) -> list[str]:
    """What the act will do."""
    default = [
        "ask AWS IoT for the registration code",
        f"sign the verification certificate for it with {act.key}; one of throw-away keys is looked over first",
    ]
    alone = [f"prove that {act.key} is the certificate's key; AWS IoT asks for no proof in mode SNI_ONLY, we do"]
    extras = [*(["with tags"] if act.tags else []), *(["with a provisioning template"] if act.template else [])]
    return [
        f"see that the endpoint is {act.endpoint}" if act.endpoint else "ask AWS IoT for the endpoint of the units",
        *(default if act.mode == "DEFAULT" else alone),
        f"register {act.certificate} in {act.region}, mode {act.mode}, active, auto-registration on"
        + "".join(f", {extra}" for extra in extras),
        f"read the registration back, and write it to {act.outputs.registration}",
    ]


def perform(act: RegisterAct, session: Session) -> bool:
    """Perform it; complete when this returns."""
    journal = session.journal
    certificate = load_ca_certificate(act.certificate)
    _refuse_mixing(act, certificate)
    session.evidence["certificates"] = {"ca": to_pem(certificate)}
    if not journal.kept("registration"):
        _register(act, certificate, session)
    session.evidence["aws"] = journal.facts["aws"]
    journal.write_output("registration", journal.kept("registration"))
    session.step("registration written", f"what the station needs to know is written: {act.outputs.registration}")
    return True


def _register(act: RegisterAct, certificate: x509.Certificate, session: Session) -> None:
    journal = session.journal
    template, endpoint = look_ahead(act)
    registry = _registry(act)
    session.step("endpoint", f"the units' endpoint is {endpoint}")
    with signers_of(act, KeyUri.parse(act.key)) as signers:
        journal.add(token=signers.describe())
        key = token_key(certificate.public_key(), signers)
        CertificateAuthority(certificate, key).prove()
        session.step("proof", "the token signed, and the CA certificate verifies it")
        verification = _verification(registry, certificate, key, session) if act.mode == "DEFAULT" else None
    if not journal.stepped("registered"):
        before = registry.describe_ca(certificate_id(certificate))
        journal.add(known_before=asdict(before) if before else None)
    try:
        found = registry.register_ca(to_pem(certificate), verification, act.tags, template)
    except FaultError as error:
        if error.fault in _REFUSED and "key_wanted" not in journal.facts:
            journal.forget()  # AWS IoT took nothing, and no key was made: a corrected file begins anew
        raise
    _refuse_half(found)
    session.step("registered", f"the CA is registered: {found}")
    journal.add(aws={**asdict(found), "region": act.region, "endpoint": endpoint})
    journal.keep("registration", lambda: _text(act, found, endpoint))


def look_ahead(act: RegisterAct) -> tuple[tuple[str, str] | None, str]:
    """What can be known without a key: the provisioning template, and the units' endpoint in the account that is meant.

    Raises:
        FaultError: `Fault.CONFIG`, `Fault.WRONG_ACCOUNT`; what AWS has against being asked.
    """
    template = _template(act.template) if act.template else None
    endpoint = _registry(act).data_endpoint()
    if act.endpoint and endpoint != act.endpoint:
        raise FaultError(
            Fault.WRONG_ACCOUNT,
            f"units of these AWS credentials in {act.region} connect to {endpoint}, the file says {act.endpoint};"
            " nothing was registered",
        )
    return template, endpoint


def _registry(act: RegisterAct) -> CaRegistry:
    return CaRegistry(act.region, api_url=act.simulator.api_url if act.simulator else None)


def undo(act: RegisterAct, session: Session) -> None:
    """Take the registration away again: INACTIVE, auto-registration off, then deleted.

    One that AWS IoT knew before the act gets the status and auto-registration back that it had. Tags and template that
    the act wrote stay: AWS IoT does not tell what was there before.
    """
    certificate = load_ca_certificate(act.certificate)
    registry = _registry(act)
    name, before = certificate_id(certificate), session.journal.facts.get("known_before")
    session.evidence["aws"] = {"region": act.region, "id": name}
    if registry.describe_ca(name) is None:
        ours = "undo_began" in session.journal.facts  # cut after it was deleted, before that was noted
        session.step("undone", f"CA {name} is deleted in AWS IoT" if ours else f"AWS IoT knows no CA {name}")
        return
    first = next(registry.certificates_of(name), [])
    if first and not before:
        raise FaultError(
            Fault.CEREMONY, f"units of CA {name} are registered ({first[0]}, ...): it is to be retired, not undone"
        )
    session.journal.add(undo_began=now())
    if before:
        registry.restore_ca(name, before["status"], before["auto_registration"])
        stays = "; tags and template of this act stay" if act.tags or act.template else ""
        session.step("undone", f"as before: {registry.describe_ca(name)}{stays}")
    else:
        registry.switch_ca(name, on=False)
        registry.delete_ca(name)
        session.step("undone", f"CA {name} is deleted in AWS IoT")


def _verification(registry: CaRegistry, certificate: x509.Certificate, key: PrivateKey, session: Session) -> str:
    code = registry.registration_code()
    session.step("code", "AWS IoT gave the registration code")
    stand_in = lint.throw_away_key(KeyType.of(certificate.public_key()) or KeyType.P256)
    above = self_signed_root(
        stand_in,
        common_name="Trial",
        organization="Trial",
        country=None,
        days=30,
        path_length=0,
        number=x509.random_serial_number(),
        not_before=datetime.fromisoformat(now()),
    )
    lint.refuse(verification_certificate(above, stand_in, code), above, lint.Kind.VERIFICATION)
    made = verification_certificate(certificate, key, code)
    lint.refuse(made, certificate, lint.Kind.VERIFICATION)
    session.step("verification", "the verification certificate is signed in the token and is without a finding")
    return to_pem(made)


def _refuse_half(found: CaRecord) -> None:
    if (found.status, found.auto_registration) != ("ACTIVE", "ENABLE"):
        raise FaultError(Fault.CA_NOT_ACCEPTING, f"read back after the registration: {found}")


def _template(template: Template) -> tuple[str, str]:
    try:
        with template.body.open("rb") as file:
            text = file.read(_MAX_TEMPLATE + 1).decode("utf-8")
        body: Any = json.loads(text)
    except OSError as error:
        raise FaultError(Fault.CONFIG, f"the template {template.body} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FaultError(Fault.CONFIG, f"the template {template.body} is no JSON: {error}") from error
    if len(text) > _MAX_TEMPLATE or not isinstance(body, dict) or "Resources" not in body:
        raise FaultError(
            Fault.CONFIG,
            f"the template {template.body} should be an object with Resources, of {_MAX_TEMPLATE} characters",
        )
    return text, template.role_arn


def _refuse_mixing(act: RegisterAct, certificate: x509.Certificate) -> None:
    marked = REHEARSAL in certificate.subject.rfc4514_string()
    if marked is not act.rehearsal:
        said = "a rehearsal's CA" if marked else "no rehearsal's CA"
        raise FaultError(
            Fault.SIMULATION_MIXED,
            f"{act.certificate} is {said}, and the file says rehearsal: {str(act.rehearsal).lower()}",
        )


def _text(act: RegisterAct, found: CaRecord, endpoint: str) -> str:
    result = {
        "ca_certificate_id": found.id,
        "ca_certificate_arn": found.arn,
        "region": act.region,
        "mode": found.mode,
        "endpoint": endpoint,
        "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rehearsal": act.rehearsal,
        "simulator": act.simulator.api_url if act.simulator else None,
    }
    return json.dumps(result, indent=2) + "\n"
