"""The hand-over: all that a line needs of the provider, in one folder with checksums. Never a private key."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography import x509
from pydantic import Field, ValidationError

from station import disk
from station.ca import load_ca_certificate
from station.ceremony.journal import now, write_whole
from station.ceremony.registration import Registration, load_registration
from station.config.loader import Strict
from station.config.sections import check_product
from station.config.settings import PolicyName, ThingTypeName
from station.faults import Fault, FaultError
from station.model import certificate_id
from station.seal import Seal, verify

CHECKSUMS: Final = "SHA256SUMS"  # as `sha256sum -c` reads it
_SEAL: Final = "SHA256SUMS.seal"  # a signature over it, base64
_DOMAIN: Final = b"handover v1\n"
_FACTS: Final = "handover.json"
_CA: Final = "ca.pem"
_ROOTS: Final = "server-roots.pem"
_REGISTRATION: Final = "registration.json"
_MAX_FILE: Final = 1024 * 1024
_MAX_FILES: Final = 600


class Facts(Strict):
    """``handover.json``: what the files do not say by themselves."""

    version: Literal[1] = 1
    made_at: Annotated[str, Field(max_length=40)]
    made_by: Annotated[str, Field(max_length=64)]
    port: Annotated[int, Field(ge=1, le=65535)] = 8883
    activation: Literal["station", "provider"]
    policy: PolicyName | None = None
    thing_type: ThingTypeName | None = None


@dataclass(frozen=True)
class HandOver:
    """A hand-over that is whole: every file is as its checksum says, and they belong together."""

    folder: Path
    facts: Facts
    registration: Registration
    certificate: x509.Certificate
    files: Mapping[str, bytes]

    @property
    def products(self) -> dict[str, bytes]:
        """Product files, by their names."""
        return {Path(name).name: content for name, content in self.files.items() if name.startswith("products/")}

    @property
    def server_roots(self) -> bytes:
        """What units and station know the cloud by."""
        return self.files[_ROOTS]


def make(
    folder: Path,
    facts: Facts,
    *,
    registration: Path,
    certificate: Path,
    roots: Path,
    products: Sequence[Path],
    seal: Seal | None = None,
) -> list[str]:
    """Write a hand-over into a new folder, its checksums under a seal where there is one; returns its files.

    Raises:
        FaultError: `Fault.HANDOVER` where it is not new, or would hold a private key, or its parts do not belong
            together; `Fault.CONFIG` where one cannot be read or is wrong.
    """
    if not products:
        raise FaultError(Fault.HANDOVER, "name at least one product file: a line builds products")
    files = {_CA: _read(certificate), _ROOTS: _read(roots), _REGISTRATION: _read(registration)}
    for product in products:
        check_product(product)
        files[f"products/{product.name}"] = _read(product)
    files[_FACTS] = (facts.model_dump_json(indent=2) + "\n").encode()
    _refuse_secrets(files)
    _belong(load_registration(registration), load_ca_certificate(certificate), facts)
    try:
        (folder / "products").mkdir(parents=True)
    except OSError as error:
        raise FaultError(Fault.HANDOVER, f"a hand-over wants a new folder; {folder}: {error.strerror}") from error
    for name, content in files.items():
        write_whole(folder / name, content, 0o644)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    sealed = {_SEAL: base64.b64encode(seal.sign(_DOMAIN + sums.encode())) + b"\n"} if seal else {}
    for name, content in sealed.items():
        write_whole(folder / name, content, 0o644)
    write_whole(folder / CHECKSUMS, sums.encode(), 0o644)  # last: a folder without it is no hand-over
    disk.sync(folder)
    return [*sorted(files), *sealed, CHECKSUMS]


def facts(by: str, *, activation: str, policy: str | None, port: int, thing_type: str | None = None) -> Facts:
    """What the provider says. Raises `Fault.HANDOVER` where it does not fit together."""
    if (activation == "station") != (policy is not None) or (thing_type and not policy):
        raise FaultError(Fault.HANDOVER, "--policy and --thing-type stand with --activation station, and only there")
    said = {"made_at": now(), "made_by": by, "port": port, "activation": activation}
    try:
        return Facts.model_validate({**said, "policy": policy, "thing_type": thing_type})
    except ValidationError as error:
        raise FaultError(Fault.HANDOVER, _first(error)) from None


def read(folder: Path, seal: bytes | None = None) -> HandOver:
    """Read a hand-over, which is whole or refused.

    Args:
        folder: where it is.
        seal: the public key (PEM) of the seal that it must be under; None where nobody asks for one.

    Raises:
        FaultError: `Fault.HANDOVER` with the file that is missing, changed, or not of this hand-over;
            `Fault.SEAL_INVALID` where that seal did not sign it.
    """
    sums = _read(folder / CHECKSUMS)
    if seal is not None:
        verify(seal, _DOMAIN + sums, _signature(folder / _SEAL))
    files = _checked(folder, sums)
    _refuse_secrets(files)
    try:
        said = Facts.model_validate_json(files[_FACTS])
    except ValidationError as error:
        raise FaultError(Fault.HANDOVER, f"{folder / _FACTS}: {_first(error)}") from None
    registration, certificate = load_registration(folder / _REGISTRATION), load_ca_certificate(folder / _CA)
    for name in files:
        if name.startswith("products/"):
            check_product(folder / name)
    _belong(registration, certificate, said)
    return HandOver(folder, said, registration, certificate, files)


def _signature(path: Path) -> bytes:
    if not path.exists():
        raise FaultError(Fault.HANDOVER, f"{path} is not there: this hand-over is under no seal")
    try:
        return base64.b64decode(_read(path).strip(), validate=True)
    except ValueError:
        return b""


def _checked(folder: Path, sums: bytes) -> dict[str, bytes]:
    wanted: dict[str, str] = {}
    for line in sums.decode("utf-8", "replace").splitlines()[:_MAX_FILES]:
        checksum, _, name = line.partition("  ")
        if name.startswith("/") or ".." in Path(name).parts or not name.isprintable():
            raise FaultError(Fault.HANDOVER, f"{folder / CHECKSUMS} names a file outside of the folder")
        wanted[name] = checksum
    missing = {_FACTS, _CA, _ROOTS, _REGISTRATION} - wanted.keys()
    if missing:
        raise FaultError(Fault.HANDOVER, f"{folder / CHECKSUMS} does not name {', '.join(sorted(missing))}")
    files = {name: _read(folder / name) for name in wanted}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != wanted[name]:
            raise FaultError(Fault.HANDOVER, f"{folder / name} is not as it was handed over: its checksum differs")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    if extra := found - wanted.keys() - {CHECKSUMS, _SEAL}:
        raise FaultError(Fault.HANDOVER, f"{folder} holds what was not handed over: {', '.join(sorted(extra)[:3])}")
    return files


def _belong(registration: Registration, certificate: x509.Certificate, said: Facts) -> None:
    name = certificate_id(certificate)
    if registration.ca_certificate_id != name:
        raise FaultError(
            Fault.HANDOVER, f"the registration is of CA {registration.ca_certificate_id}, the certificate is {name}"
        )
    if (said.activation == "station") != (said.policy is not None):
        raise FaultError(Fault.HANDOVER, "a policy belongs to activation by the station, and only there")


def _refuse_secrets(files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        if b"PRIVATE KEY" in content:
            raise FaultError(Fault.HANDOVER, f"{name} holds a private key; that is never handed over")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise FaultError(Fault.HANDOVER, f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_FILE:
        raise FaultError(Fault.HANDOVER, f"{path} is larger than {_MAX_FILE} bytes")
    return content


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
