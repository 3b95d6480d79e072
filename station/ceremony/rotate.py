"""Acts `rotate` and `retire`: a CA goes out of service when nothing waits for it; `rotate` makes a new one before.

Units that are ACTIVE are not touched: an INACTIVE CA registers no new certificate, and that is all (AWS IoT developer
guide, "Deactivate a CA certificate").
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from station.aws import CaRecord, CaRegistry
from station.ceremony import register, root
from station.ceremony.journal import now
from station.ceremony.registration import Registration, load_registration
from station.ceremony.session import Session
from station.config.acts import (
    CertificateOutputs,
    NewByKey,
    NewByRegistration,
    RegisterAct,
    RegisterOutputs,
    RetireAct,
    RootAct,
    RotateAct,
)
from station.config.settings import Simulator
from station.faults import Fault, FaultError
from station.ledger.readers import ledger_reader, line_reader
from station.ledger.standing import Read
from station.ledger.waiting import waiting_for

_SHOWN = 5


def plan(act: RotateAct | RetireAct) -> list[str]:
    """What the act will do."""
    asked = f"ask {_asked(act)} for open orders and units that wait for it; if any does, the act waits too"
    match act:
        case RotateAct():
            return [
                *_plan_new(act),
                asked + f" (old CA: {act.old})",
                "set the old CA INACTIVE, auto-registration off; units that are ACTIVE go on",
            ]
        case RetireAct():
            compromised = "do not wait for anybody: the key is compromised"
            return [
                asked if act.asks else compromised,
                f"set the CA of {act.registration} INACTIVE, auto-registration off; units that are ACTIVE go on",
                *(["delete it in AWS IoT; this cannot be undone"] if act.delete else []),
            ]


def _plan_new(act: RotateAct) -> list[str]:
    if isinstance(act.new, NewByRegistration):
        return [f"see that the new CA ({act.new.registration}) is ACTIVE with auto-registration on"]
    return [
        *root.plan(_root_act(act, act.new)),
        f"register it in the old CA's account and region, mode {act.new.mode}, active, auto-registration on",
        f"read the registration back, and write it to {act.outputs.registration}",
    ]


def perform_rotate(act: RotateAct, session: Session) -> bool:
    """Perform it; returns False while something waits for the old CA."""
    old = _registration(act.old, rehearsal=act.rehearsal)
    new = _new(act, old, session)
    if old.ca_certificate_id == new.ca_certificate_id:
        raise FaultError(Fault.CEREMONY, "old and new are registrations of the same CA")
    found = _known(_registry(new, act.simulator), new)
    if (found.status, found.auto_registration) != ("ACTIVE", "ENABLE"):
        raise FaultError(Fault.CA_NOT_ACCEPTING, f"the new {found}")
    session.step("new", f"the new {found}")
    out = _put_out(act, old, session)
    session.evidence["aws"]["new id"] = new.ca_certificate_id
    return out


def _new(act: RotateAct, old: Registration, session: Session) -> Registration:
    """The new CA's registration: brought along, or made and registered here by what `root` and `register` do."""
    if isinstance(act.new, NewByRegistration):
        return _registration(act.new.registration, rehearsal=act.rehearsal)
    register_act = _register_act(act, act.new, old)
    if not session.journal.committed:  # all that can be known before there is a key
        _known(_registry(old, act.simulator), old)
        register.look_ahead(register_act)
    root.perform(_root_act(act, act.new), session)
    register.perform(register_act, session)
    return _registration(register_act.outputs.registration, rehearsal=act.rehearsal)


def _root_act(act: RotateAct, new: NewByKey) -> RootAct:
    outputs = CertificateOutputs.model_construct(minutes=act.outputs.minutes, certificate=act.outputs.certificate)
    return RootAct.model_construct(
        act="root",
        rehearsal=act.rehearsal,
        state=act.state,
        outputs=outputs,
        **{name: getattr(new, name) for name in ("key", "pin", "key_type", "subject", "validity_days", "path_length")},
    )


def _register_act(act: RotateAct, new: NewByKey, old: Registration) -> RegisterAct:
    outputs = RegisterOutputs.model_construct(minutes=act.outputs.minutes, registration=act.outputs.registration)
    return RegisterAct.model_construct(
        act="register",
        rehearsal=act.rehearsal,
        state=act.state,
        simulator=act.simulator,
        certificate=act.outputs.certificate,
        region=old.region,
        endpoint=old.endpoint,
        outputs=outputs,
        **{name: getattr(new, name) for name in ("key", "pin", "mode", "tags", "template")},
    )


def perform_retire(act: RetireAct, session: Session) -> bool:
    """Perform it; returns False while something waits for the CA."""
    registration = _registration(act.registration, rehearsal=act.rehearsal)
    if not _put_out(act, registration, session):
        return False
    if act.delete:
        _registry(registration, act.simulator).delete_ca(registration.ca_certificate_id)
        session.step("deleted", f"CA {registration.ca_certificate_id} is deleted in AWS IoT")
    return True


def undo(act: RotateAct | RetireAct, session: Session) -> None:
    """Give the CA the status and auto-registration back that it had before the act took it out of service."""
    path = act.old if isinstance(act, RotateAct) else act.registration
    registration = _registration(path, rehearsal=act.rehearsal)
    registry = _registry(registration, act.simulator)
    session.evidence["aws"] = {"region": registration.region, "id": registration.ca_certificate_id}
    if isinstance(act, RetireAct) and act.delete and registry.describe_ca(registration.ca_certificate_id) is None:
        raise FaultError(Fault.CEREMONY, "a CA that was deleted is registered anew by the act register, not undone")
    session.journal.add(undo_began=now())
    if (former := session.journal.facts.get("switching")) is None:
        session.step("undone", f"the act had taken nothing out of service: {_known(registry, registration)}")
    else:
        registry.restore_ca(registration.ca_certificate_id, *former)
        session.step("undone", f"as before: {_known(registry, registration)}")
    if isinstance(act, RotateAct):
        session.step("new stays", "the new CA stays registered; the act retire takes it out of service")


def _put_out(act: RotateAct | RetireAct, registration: Registration, session: Session) -> bool:
    registry = _registry(registration, act.simulator)
    name = registration.ca_certificate_id
    session.evidence["aws"] = {"region": registration.region, "id": name, "endpoint": registration.endpoint}
    if not session.journal.stepped("out"):
        found = _known(registry, registration)
        if act.asks and not _nothing_waits(act, registration, registry, session):
            return False
        session.journal.add(switching=[found.status, found.auto_registration])
        registry.switch_ca(name, on=False)
        session.step("out", f"out of service: {_known(registry, registration)}")
    return True


def _nothing_waits(
    act: RotateAct | RetireAct, registration: Registration, registry: CaRegistry, session: Session
) -> bool:
    orders, others = set[str](), set[str]()
    units: dict[str, str] = {}
    for opened in _records(act):
        with opened as read:
            found = waiting_for(read, registration.ca_certificate_id, simulated=registration.rehearsal)
        orders.update(found.orders)
        others.update(found.others)
        units.update(found.units)
    if units:  # AWS IoT knows those that have connected since
        for page in registry.certificates_of(registration.ca_certificate_id):
            for name in page:
                units.pop(name, None)
    if orders or units:
        session.say(f"the CA {registration.ca_certificate_id} stays in service, for these wait for it:")
        session.say(f"  {len(orders)} open order(s) built under it{_some(orders)}")
        session.say(f"  {len(units)} PROVISIONED unit(s) that have still to register{_some(set(units.values()))}")
        session.say("perform this file again when the orders are closed and the units have connected")
        return False
    if others - orders and not _adopted(others - orders, session):
        return False
    session.step("waits", f"no open order built under it and no PROVISIONED unit waits for it, by {_asked(act)}")
    return True


def _adopted(others: set[str], session: Session) -> bool:
    """What no record tells: whether an order that was not begun under the CA will be; a person says, and it is kept."""
    session.say(f"{len(others)} open order(s) of which no board was built under it yet{_some(others)}")
    if not session.people.confirm("Type adopted when every station that builds them has another CA: ", "adopted"):
        session.say("the CA stays in service; perform this file again, without --yes, when the stations have adopted")
        return False
    session.step("adopted", f"{session.people.by} confirms that no station builds these under it{_some(others)}")
    return True


def _records(act: RotateAct | RetireAct) -> list[AbstractContextManager[Read]]:
    line = [line_reader(act.line)] if act.line else []
    return [*map(ledger_reader, act.ledgers), *line]


def _asked(act: RotateAct | RetireAct) -> str:
    ledgers = [f"{len(act.ledgers)} ledger(s)"] if act.ledgers else []
    return " and ".join([*ledgers, *(["the line's database"] if act.line else [])])


def _some(names: set[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    more = ", ..." if len(names) > _SHOWN else ""
    return f": {', '.join(shown)}{more}" if shown else ""


def _registration(path: Path, *, rehearsal: bool) -> Registration:
    found = load_registration(path)
    if found.rehearsal is not rehearsal:
        raise FaultError(Fault.SIMULATION_MIXED, f"{path} and the act are not both a rehearsal's")
    return found


def _registry(registration: Registration, simulator: Simulator | None) -> CaRegistry:
    return CaRegistry(registration.region, api_url=simulator.api_url if simulator else None)


def _known(registry: CaRegistry, registration: Registration) -> CaRecord:
    found = registry.describe_ca(registration.ca_certificate_id)
    if found is None:
        raise FaultError(
            Fault.CA_UNKNOWN_HERE,
            f"CA {registration.ca_certificate_id} is not registered in this account and region {registration.region}",
        )
    return found
