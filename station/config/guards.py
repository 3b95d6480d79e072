"""Simulation is all or nothing: one simulated part forbids a production CA, endpoint and port; and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from station.config.loader import ConfigError, Document, Location
from station.faults import Fault

if TYPE_CHECKING:
    from cryptography import x509

    from station.config.settings import StationFile

REHEARSAL = "REHEARSAL"  # stands in the subject of every CA that was not made in the HSM of a real ceremony

# SHA-256 of the DER: Amazon Root CA 1 to 4, https://www.amazontrust.com/repository/
_AMAZON = frozenset(
    {
        "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",
        "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",
        "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",
        "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",
    }
)
_Problem = tuple[Location, str]


def refuse_mixing(document: Document, station: StationFile) -> None:
    """Refuse a station whose parts are not all simulated or all real.

    Raises:
        ConfigError: `Fault.CONFIG` where a certificate file cannot be read, else `Fault.SIMULATION_MIXED`.
    """
    roots = _certificates(document, ("aws", "server_roots"), station.aws.server_roots)
    authority = _certificates(document, ("ca", "certificate"), station.ca.certificate)[0]
    rehearsed = REHEARSAL in authority.subject.rfc4514_string()
    found = _simulated(station, rehearsed=rehearsed) if station.simulate else _real(station, roots, rehearsed=rehearsed)
    problems = [document.problem(where, text) for where, text in found]
    if problems:
        raise ConfigError(problems, Fault.SIMULATION_MIXED)


def _simulated(station: StationFile, *, rehearsed: bool) -> Iterator[_Problem]:
    if station.aws.simulator is None:
        yield ("aws", "simulator"), "is missing; with `simulate: true` the cloud is simulated too"
    if station.aws.endpoint != "localhost":
        yield ("aws", "endpoint"), "should be localhost with `simulate: true`"
    if not rehearsed:
        yield ("ca", "certificate"), f"is a production CA (no {REHEARSAL} in its subject); a simulation must not use it"
    for index, slot in enumerate(station.slots):
        if slot.usb is not None:
            yield ("slots", index), "is a real place on the USB; a simulated board is a link, `port: ...`"


def _real(station: StationFile, roots: list[x509.Certificate], *, rehearsed: bool) -> Iterator[_Problem]:
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - as in `_certificates`

    aws = station.aws
    named = aws.server_roots_for == aws.endpoint
    if aws.simulator is not None:
        yield ("aws", "simulator"), "must not stand here with `simulate: false`"
    if not named:
        if problem := endpoint_problem(aws.endpoint, aws.region):
            yield ("aws", "endpoint"), problem
        if any(root.fingerprint(hashes.SHA256()).hex() not in _AMAZON for root in roots):
            yield (
                ("aws", "server_roots"),
                f"holds a root that is not Amazon's; if that is meant, say `server_roots_for: {aws.endpoint}`",
            )
    if rehearsed:
        yield ("ca", "certificate"), "was made in a rehearsal (its subject says so); production needs the real CA"
    for index, slot in enumerate(station.slots):
        if slot.port is None:
            continue
        real = slot.port.resolve()
        if real.is_relative_to("/dev/pts"):
            yield ("slots", index, "port"), "is a pseudo terminal; a production board is on a real port"
        if real.name in _consoles():
            yield ("slots", index, "port"), f"is {real}, this machine's own console; no board is there"


def _consoles() -> list[str]:
    """The ttys that the kernel prints to (Documentation/ABI/testing/sysfs-tty)."""
    try:
        return Path("/sys/class/tty/console/active").read_text(encoding="ascii").split()
    except OSError:
        return []


def endpoint_problem(endpoint: str, region: str) -> str | None:
    """Why this is not a data endpoint of that region as AWS names it; None where it is one."""
    suffix = f".iot.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
    if re.fullmatch(rf"[a-z0-9]{{6,32}}-ats{re.escape(suffix)}", endpoint):
        return None
    if re.fullmatch(rf"[a-z0-9]{{6,32}}{re.escape(suffix)}", endpoint):
        return "is the old data endpoint (its roots are no longer trusted); use the one with -ats"
    return f"should be xxxx-ats{suffix}, as `aws iot describe-endpoint --endpoint-type iot:Data-ATS` prints it"


def _certificates(document: Document, where: Location, path: Path) -> list[x509.Certificate]:
    from cryptography import x509  # noqa: PLC0415 - the schema and the messages do without it

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError([document.problem(where, f"{path} cannot be read: {error.strerror}")]) from error
    except ValueError as error:
        raise ConfigError([document.problem(where, f"{path} holds no PEM certificate")]) from error
