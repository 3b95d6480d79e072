"""A station adopts a hand-over: first it is proved that token, certificate and registration belong together.

Only then are files written, and the settings last and whole. Everything that is the station's own (slots, token, names,
comments) stays as it is.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from station import disk
from station.aws import CaRegistry
from station.ca import CertificateAuthority
from station.ceremony.handover import HandOver, read
from station.ceremony.journal import Say, write_whole
from station.ceremony.root import to_pem
from station.ceremony.session import pin_source
from station.config import load
from station.config.sections import read_token, with_sections
from station.config.tokens import Hsm
from station.faults import Fault, FaultError
from station.hsm.keys import token_key
from station.hsm.signers import Signers
from station.hsm.uri import KeyUri
from station.seal import seal_id

_NO_FEED = (
    "take note: no aws.activation.feed is set; the provider's activator has to read the ledger, or learns of no unit"
)


def adopt(folder: Path, config: Path, say: Say, seal: bytes | None = None) -> None:
    """Configure the station of ``config`` from a hand-over; may be repeated.

    Args:
        folder: the hand-over.
        config: the station's settings; `ca` and `aws` in them are written anew, with the owner and mode that the file
            has, and each former file is kept beside, as .before-TIME. A feed to the provider stays.
        say: hears each thing proved and done.
        seal: the public key (PEM) of the provider's seal, where the hand-over must be under it.

    Raises:
        FaultError: `Fault.HANDOVER`, `Fault.SEAL_INVALID`, `Fault.CONFIG`, `Fault.CA_MISMATCH`, `Fault.WRONG_ACCOUNT`,
            `Fault.CA_UNKNOWN_HERE`, `Fault.CA_NOT_ACCEPTING`; any C or N fault. Nothing is changed then.
    """
    given = read(folder, seal)
    under = f", sealed by {seal_id(seal)}" if seal else ""
    made = f"made {given.facts.made_at} by {given.facts.made_by}"
    say(f"  the hand-over is whole: {len(given.files)} files, {made}{under}")
    _prove_token(given, *read_token(config))
    say("  the token's key is that of the CA certificate: it signed, and the certificate verifies it")
    _prove_registration(given)
    say(f"  AWS IoT knows the CA in {given.registration.region}: ACTIVE, auto-registration on")
    text, files = _settings(given, config), _files(given, config)
    for path, content in files.items():
        if path.exists() and path.read_bytes() != content:
            raise FaultError(Fault.HANDOVER, f"{path} is there with another content; put it aside, then adopt again")
    owner = config.stat()
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            _put(path, content, owner, 0o644)
    _write_settings(config, text, say)


def _write_settings(config: Path, text: str, say: Say) -> None:
    """In one step, and with the owner and mode that they had: the daemon that could read them still can."""
    was, former = config.stat(), config.read_bytes()
    fresh = config.with_name(f".{config.stem}-adopting.yaml")
    try:
        _put(fresh, text.encode(), was, was.st_mode & 0o777)
        activation = load(fresh).aws.activation  # the whole, as the daemon will read it
        if former != text.encode():
            kept = config.with_name(f"{config.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            _put(kept, former, was, was.st_mode & 0o777)
            say(f"  the former settings are kept: {kept}")
        fresh.replace(config)
        disk.sync(config.parent)
    except OSError as error:
        raise FaultError(Fault.HANDOVER, f"{config} cannot be written: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)
    if activation.by == "provider":
        say(f"  the feed to the provider stays: {activation.feed.at.kind}" if activation.feed else f"  {_NO_FEED}")
    say(f"  the settings are written: {config}")


def _put(path: Path, content: bytes, owner: os.stat_result, mode: int) -> None:
    write_whole(path, content, 0o600)
    os.chown(path, owner.st_uid, owner.st_gid)
    path.chmod(mode)


def _prove_token(given: HandOver, hsm: Hsm, state: Path) -> None:
    with Signers(KeyUri.parse(hsm.key), pin_source(hsm.pin), state / "pin-latch", processes=1) as signers:
        key = token_key(given.certificate.public_key(), signers)
        CertificateAuthority(given.certificate, key).prove()


def _prove_registration(given: HandOver) -> None:
    told = given.registration
    registry = CaRegistry(told.region, api_url=told.simulator)
    endpoint = registry.data_endpoint()
    if endpoint != told.endpoint:
        raise FaultError(
            Fault.WRONG_ACCOUNT, f"these AWS credentials lead to {endpoint}, the hand-over is for {told.endpoint}"
        )
    found = registry.describe_ca(told.ca_certificate_id)
    if found is None:
        text = f"CA {told.ca_certificate_id} is not registered in this account and region"
        raise FaultError(Fault.CA_UNKNOWN_HERE, text)
    if (found.status, found.auto_registration) != ("ACTIVE", "ENABLE"):
        raise FaultError(Fault.CA_NOT_ACCEPTING, str(found))


def _named(given: HandOver) -> tuple[str, str]:
    """File names that no other CA's files have: an adoption of a new CA leaves the old one's where they are."""
    short = given.registration.ca_certificate_id[:12]
    return f"ca-{short}.pem", f"server-roots-{short}.pem"


def _settings(given: HandOver, config: Path) -> str:
    told, said = given.registration, given.facts
    ca, roots = _named(given)
    granted = {"policy": said.policy, "thing_type": said.thing_type}
    activation = {"by": said.activation, **{name: value for name, value in granted.items() if value}}
    aws: dict[str, Any] = {
        "region": told.region,
        "endpoint": told.endpoint,
        "port": said.port,
        "ca_certificate_id": told.ca_certificate_id,
        "server_roots": roots,
        "activation": activation,
    }
    if told.simulator:
        aws["simulator"] = {"api_url": told.simulator}
    return with_sections(config, {"certificate": ca}, aws)


def _files(given: HandOver, config: Path) -> dict[Path, bytes]:
    ca, roots = _named(given)
    files = {config.parent / ca: to_pem(given.certificate).encode(), config.parent / roots: given.server_roots}
    return files | {config.parent / "products" / name: content for name, content in given.products.items()}
