"""The provider's acts: `root` makes the CA key in its token and certifies it; `register` makes AWS IoT know the CA.

Each act is described by one reviewed file and may be interrupted anywhere: a journal beside its state says how far it
came, and the same file goes on from there. Its outputs must not exist before it began.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from station.aws import Registry
from station.ca import CertificateAuthority, load_ca_certificate, self_signed_root, verification_certificate
from station.config import RegisterAct, RootAct
from station.faults import Fault, FaultError
from station.hsm.keys import token_key
from station.hsm.pin import PinSource
from station.hsm.signers import Signers, find_public_key, generate_key
from station.hsm.uri import KeyUri
from station.model import serial_text

Say = Callable[[str], None]


def plan(act: RootAct | RegisterAct) -> list[str]:
    """What the act will do, in sentences, before anything is done."""
    kind = "REHEARSAL of the act" if act.rehearsal else "Act"
    match act:
        case RootAct():
            return [
                f"{kind} root:",
                f"  1. make a {act.key_type.value} key in the token: {act.key}",
                f"  2. certify it by itself as CN={act.subject.common_name}, {act.validity_days} days, CA:TRUE",
                f"  3. write the certificate to {act.outputs.certificate}",
            ]
        case RegisterAct():
            return [
                f"{kind} register, region {act.region}, mode {act.mode}:",
                "  1. ask AWS IoT for the registration code",
                f"  2. sign the verification certificate with {act.key}",
                f"  3. register {act.certificate}: active, auto-registration on",
                f"  4. write what AWS IoT says to {act.outputs.registration}",
            ]


def perform(act: RootAct | RegisterAct, file: Path, say: Say) -> None:
    """Perform the act, or go on with it, and say each thing done.

    Raises:
        FaultError: `Fault.CEREMONY` where an output exists already or another file's act was begun here; else what
            token, files or AWS had against it. Nothing is half done that a repetition would not complete.
    """
    match act:
        case RootAct():
            _root(act, file, say)
        case RegisterAct():
            _register(act, file, say)


def _root(act: RootAct, file: Path, say: Say) -> None:
    output = act.outputs.certificate
    journal = _Journal(act.state / f"ceremony-root-{_name(output)}.json", file, output)
    if journal.done(say):
        return
    pin = PinSource(credential=act.pin.credential, file=act.pin.file)
    latch = act.state / "pin-latch"
    key = KeyUri.parse(act.key)
    # The key's CKA_ID is on disk before the key exists: after a cut, a key of this id can only be ours.
    facts = journal.begin(
        key_id=(key.id or secrets.token_bytes(16)).hex(),
        number=serial_text(x509.random_serial_number()),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if not facts.get("key_wanted"):
        if find_public_key(replace(key, id=None), pin, latch) is not None:
            journal.forget()
            raise FaultError(Fault.CEREMONY, f"the token holds a key of this name already: {key}")
        facts = journal.add(key_wanted=True)
    key = replace(key, id=bytes.fromhex(facts["key_id"]))
    public = find_public_key(key, pin, latch)
    if public is None:
        public = generate_key(key, pin, latch, act.key_type)
    say(f"the key is in the token: {key}")
    with Signers(key, pin, latch, processes=1) as signers:
        certificate = self_signed_root(
            token_key(public, signers),
            common_name=act.subject.common_name,
            organization=act.subject.organization,
            country=act.subject.country,
            days=act.validity_days,
            path_length=act.path_length,
            number=int(facts["number"], 16),
            not_before=datetime.fromisoformat(facts["at"]),
        )
    journal.write_output(certificate.public_bytes(Encoding.PEM))
    say(f"the CA certificate is written: {output}")


def _register(act: RegisterAct, file: Path, say: Say) -> None:
    output = act.outputs.registration
    journal = _Journal(act.state / f"ceremony-register-{_name(output)}.json", file, output)
    if journal.done(say):
        return
    journal.begin(at=datetime.now(UTC).isoformat(timespec="seconds"))
    certificate = load_ca_certificate(act.certificate)
    pin = PinSource(credential=act.pin.credential, file=act.pin.file)
    registry = Registry(act.region, api_url=act.simulator.api_url if act.simulator else None)
    code = registry.registration_code()
    say("AWS IoT gave the registration code")
    with Signers(KeyUri.parse(act.key), pin, act.state / "pin-latch", processes=1) as signers:
        key = token_key(certificate.public_key(), signers)
        CertificateAuthority(certificate, key).prove()
        verification = verification_certificate(certificate, key, code)
    say("the verification certificate is signed in the token")
    ca_id = registry.register_ca(
        certificate.public_bytes(Encoding.PEM).decode(), verification.public_bytes(Encoding.PEM).decode()
    )
    say(f"the CA is registered, active, auto-registration on: {ca_id}")
    result = {
        "ca_certificate_id": ca_id,
        "region": act.region,
        "mode": act.mode,
        "endpoint": registry.data_endpoint(),
        "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rehearsal": act.rehearsal,
    }
    journal.write_output((json.dumps(result, indent=2) + "\n").encode())
    say(f"what the station needs to know is written: {output}")


class _Journal:
    """How far an act came: a small JSON file, replaced whole, synced before anything it announces."""

    def __init__(self, path: Path, file: Path, output: Path) -> None:
        self._path, self._output = path, output
        self._file_hash = hashlib.sha256(file.read_bytes()).hexdigest()
        self._facts: dict[str, Any] = self._read()

    def done(self, say: Say) -> bool:
        """Whether the act is complete. Refuse outputs that are not this act's."""
        if self._facts and self._facts.get("file") != self._file_hash:
            raise FaultError(Fault.CEREMONY, f"{self._path} belongs to another version of this file; restore that one")
        if not self._output.exists():
            return False
        if hashlib.sha256(self._output.read_bytes()).hexdigest() != self._facts.get("output"):
            raise FaultError(Fault.CEREMONY, f"{self._output} exists already; an act never overwrites")
        say(f"this act is complete: {self._output}")
        return True

    def begin(self, **facts: object) -> dict[str, Any]:
        """Put the act's own choices on disk; an act that was begun before keeps those it made then."""
        if not self._facts:
            self._save({"file": self._file_hash, **facts})
        return self._facts

    def add(self, **facts: object) -> dict[str, Any]:
        """Put more facts on disk."""
        self._save({**self._facts, **facts})
        return self._facts

    def forget(self) -> None:
        """Undo `begin` where nothing came of it."""
        self._path.unlink(missing_ok=True)

    def write_output(self, content: bytes) -> None:
        """Note what the output will be, then write it whole and synced: its presence is the act's end."""
        self.add(output=hashlib.sha256(content).hexdigest())
        _write_whole(self._output, content, 0o644)

    def _read(self) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise FaultError(Fault.CEREMONY, f"the journal {self._path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise FaultError(
                Fault.CEREMONY, f"the journal {self._path} is damaged; compare token and outputs by hand"
            ) from error
        return facts

    def _save(self, facts: dict[str, Any]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FaultError(Fault.CEREMONY, f"{self._path.parent} cannot be made: {error.strerror}") from error
        _write_whole(self._path, json.dumps(facts, indent=2).encode(), 0o600)
        self._facts = facts


def _name(output: Path) -> str:
    """The same output, from wherever it is named, has the same journal."""
    return hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:12]


def _write_whole(path: Path, content: bytes, mode: int) -> None:
    """Write, sync, rename, sync the folder: after a loss of power there is the old file or the new one."""
    staging = path.with_name(f".{path.name}.new")
    try:
        handle = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staging.rename(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise FaultError(Fault.CEREMONY, f"{path} cannot be written: {error.strerror}") from error
