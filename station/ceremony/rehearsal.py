"""A rehearsal: the same files, in a scratch SoftHSM token and the simulated AWS IoT, all below one new folder.

Nothing of the real token, of AWS or of the acts' own folders is touched. What another party would bring (the key file
of an `import`, the certificate for a CSR) is made for the occasion.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from station.aws import CaRegistry
from station.ca import issuing_certificate, self_signed_root
from station.ca.lint import throw_away_key
from station.ceremony import People, perform, plan
from station.ceremony.journal import now
from station.ceremony.registration import Registration
from station.config.acts import (
    AnyAct,
    ByCsr,
    ImportAct,
    IssuingAct,
    RegisterAct,
    RetireAct,
    RotateAct,
    load_ceremony,
)
from station.config.guards import REHEARSAL
from station.faults import Fault, FaultError
from station.hsm.uri import KeyUri
from station.model import KeyType, PrivateKey

_MAX_NAME = 64


@dataclass(frozen=True)
class Simulation:
    """The simulators, handed in by whoever knows them: a ceremony does not."""

    label: str
    module: str
    make_token: Callable[[Path], Mapping[str, str]]
    start_cloud: Callable[[Path, Mapping[str, str]], Mapping[str, Any]]
    environment: Mapping[str, str]


def rehearse(
    files: Sequence[Path], folder: Path, simulation: Simulation, people: People, agreed: Callable[[], bool]
) -> bool:
    """Perform the acts of ``files`` in their order; returns whether all are complete.

    Args:
        files: as they would be performed for real; nothing but the stage is changed in them.
        folder: where everything is written; new or empty.
        simulation: what stands in for token and cloud.
        people: as for the act itself.
        agreed: asks after each plan.

    Raises:
        FaultError: what each act would raise; `Fault.CEREMONY` where an act needs what no earlier one made.
    """
    acts = [(file, load_ceremony(file)) for file in files]
    stage = folder / "files"
    try:
        stage.mkdir(parents=True)
    except OSError as error:
        raise FaultError(Fault.CEREMONY, f"a rehearsal wants a new folder; {folder}: {error.strerror}") from error
    # Before anything that may speak to AWS: what this process holds of the real account is gone from here on.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(simulation.environment)
    os.environ.update(simulation.make_token(folder))
    cloud = simulation.start_cloud(folder / "cloud", os.environ)
    for file, act in acts:
        staged = _staged(file, act, folder, simulation, cloud)
        rehearsed = load_ceremony(staged)
        for line in plan(rehearsed):
            people.say(line)
        if not agreed():
            return False
        _stand_in_before(act, rehearsed, folder, cloud)
        if not perform(rehearsed, staged, people):
            if not _stand_in_between(rehearsed, folder):
                return False
            people.say("  (the root's owner, who is simulated, has certified the CSR)")
            perform(rehearsed, staged, people)
    return True


def _staged(file: Path, act: AnyAct, folder: Path, simulation: Simulation, cloud: Mapping[str, Any]) -> Path:
    """The act's file with the stage's token, cloud and folders in it."""
    values: dict[str, Any] = _moved(act.model_dump(exclude_none=True), folder, simulation)
    values |= {"rehearsal": True, "state": str(folder / "state")}
    for named in (values, values.get("new", {})):
        if "subject" in named:
            named["subject"]["common_name"] = _marked(named["subject"]["common_name"])
    if "simulator" in type(act).model_fields:
        values["simulator"] = {"api_url": cloud["api_url"]}
    if values.pop("line", None):  # no PostgreSQL stands on the stage: one more empty ledger answers for it
        values["ledgers"] = [*values["ledgers"], str(folder / "files" / "line.sqlite")]
    if isinstance(act, ImportAct):  # what comes may have the name of what the act writes
        brought = {"key": act.source.key, "certificate": act.source.certificate}
        values["source"] |= {name: str(folder / "brought" / path.name) for name, path in brought.items()}
    if isinstance(act, RegisterAct):
        values |= {"region": cloud["region"], **({"endpoint": cloud["endpoint"]} if act.endpoint else {})}
    staged = folder / f"{file.stem}.yaml"
    staged.write_text(json.dumps(values, indent=2) + "\n")
    return staged


def _moved(value: Any, folder: Path, simulation: Simulation) -> Any:
    match value:
        case Path():
            return str(folder / "files" / value.name)
        case {"credential": _} | {"file": _}:
            return {"file": str(folder / "pin")}
        case dict():
            return {name: _moved(one, folder, simulation) for name, one in value.items()}
        case list() | tuple():
            return [_moved(one, folder, simulation) for one in value]
        case str() if value.startswith("pkcs11:"):
            key = KeyUri.parse(value)
            # The keys of several tokens meet in one here.
            return str(KeyUri(simulation.label, simulation.module, f"{key.token}.{key.object}", key.id))
    return value


def _marked(name: str) -> str:
    return name if REHEARSAL in name else f"{name[: _MAX_NAME - len(REHEARSAL) - 1]} {REHEARSAL}"


def _stand_in_before(act: AnyAct, rehearsed: AnyAct, folder: Path, cloud: Mapping[str, Any]) -> None:
    """What others bring to the act, and what it asks: made for the occasion, or copied where it is no secret."""
    match rehearsed:
        case ImportAct():
            _bring_key(rehearsed, (folder / "pin").read_bytes().strip() if rehearsed.source.passphrase else None)
        case IssuingAct(root=ByCsr()) if not rehearsed.root.certificate.exists():
            key = throw_away_key(KeyType.P256)
            _write_key(folder / "offline-root-key.pem", key, None)
            rehearsed.root.certificate.write_bytes(_root(key, "Offline Root").public_bytes(Encoding.PEM))
        case RegisterAct() if rehearsed.template and isinstance(act, RegisterAct) and act.template:
            rehearsed.template.body.write_bytes(act.template.body.read_bytes())
        case RotateAct(old=old) | RetireAct(registration=old) if not old.exists():
            _bring_registration(old, cloud)
    for path in getattr(rehearsed, "ledgers", ()):
        _bring_ledger(path)
    new = getattr(rehearsed, "new", None)
    for wanted in (getattr(rehearsed, "certificate", None), getattr(new, "registration", None)):
        if wanted is not None and not wanted.exists():
            raise FaultError(
                Fault.CEREMONY,
                f"{wanted.name} is what another act makes; rehearse that one first, in the same command",
            )


def _stand_in_between(rehearsed: AnyAct, folder: Path) -> bool:
    """The root's owner answers a CSR. Returns whether this was what the act waits for."""
    if not isinstance(rehearsed, IssuingAct) or not isinstance(rehearsed.root, ByCsr) or rehearsed.outputs.csr is None:
        return False
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - one use

    root = x509.load_pem_x509_certificate(rehearsed.root.certificate.read_bytes())
    key: Any = load_pem_private_key((folder / "offline-root-key.pem").read_bytes(), None)
    request = x509.load_pem_x509_csr(rehearsed.outputs.csr.read_bytes())
    public: Any = request.public_key()
    made = issuing_certificate(
        public,
        request.subject,
        root,
        key,
        days=365,
        path_length=rehearsed.path_length,
        number=x509.random_serial_number(),
        not_before=datetime.now(UTC).replace(microsecond=0),
    )
    rehearsed.root.issued.write_bytes(made.public_bytes(Encoding.PEM))
    return True


def _bring_key(act: ImportAct, passphrase: bytes | None) -> None:
    key = throw_away_key(KeyType.RSA2048)
    act.source.key.parent.mkdir(exist_ok=True)
    _write_key(act.source.key, key, passphrase)
    act.source.certificate.write_bytes(_root(key, "Provider CA").public_bytes(Encoding.PEM))


def _write_key(path: Path, key: PrivateKey, passphrase: bytes | None) -> None:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def _root(key: PrivateKey, name: str) -> x509.Certificate:
    return self_signed_root(
        key,
        common_name=_marked(name),
        organization="Rehearsal",
        country=None,
        days=3650,
        path_length=1,
        number=x509.random_serial_number(),
        not_before=datetime.now(UTC).replace(microsecond=0),
    )


def _bring_registration(path: Path, cloud: Mapping[str, Any]) -> None:
    """A CA that has been in service, whose key is nobody's."""
    pem = _root(throw_away_key(KeyType.P256), "Old CA").public_bytes(Encoding.PEM).decode()
    found = CaRegistry(cloud["region"], api_url=cloud["api_url"]).register_ca(pem, None)
    said = Registration(
        ca_certificate_id=found.id,
        ca_certificate_arn=found.arn,
        region=cloud["region"],
        mode="SNI_ONLY",
        endpoint=cloud["endpoint"],
        registered_at=now(),
        rehearsal=True,
        simulator=cloud["api_url"],
    )
    path.write_text(said.model_dump_json(indent=2) + "\n")


def _bring_ledger(path: Path) -> None:
    from station.ledger.store import Store  # noqa: PLC0415 - slow to load, and seldom wanted

    Store(path, simulated=True).dispose()
