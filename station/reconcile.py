"""Compares the record with AWS IoT, certificate by certificate, and mends what may be mended without a person.

The outbox takes what did not pass out of service already, and the activator brings what connects into it. This finds
what slipped by both: a ledger that was restored, a cloud that was changed by hand, somebody with the CA's key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509

from station.aws.registry import Grant, Registered, Registry
from station.ledger.standing import Read, Recorded, all_recorded
from station.model import CertificateStatus, StandingState

Progress = Callable[[str, int], None]


class Kind(StrEnum):
    """What a certificate is, as both sides together say. The first four are as they should be."""

    PASSED = "passed"  # passed, and ACTIVE
    AT_WORK = "at work"  # its run is not over
    WAITING = "waiting"  # provisioned, and not at its first contact yet
    OUT = "out"  # an orphan or superseded, and out of service
    PENDING = "pending"  # passed, or provisioned and connected, and never activated
    TAKEN_OUT = "taken out"  # passed or provisioned, and somebody set it INACTIVE or REVOKED
    UNKNOWN_THERE = "unknown there"  # passed, and AWS IoT has it no more
    ORPHAN = "orphan"  # must be out of service, and is not
    UNKNOWN_HERE = "unknown here"  # AWS IoT has it under our CA, and this record does not

    @property
    def well(self) -> bool:
        """Whether both sides agree."""
        return self in {Kind.PASSED, Kind.AT_WORK, Kind.WAITING, Kind.OUT}

    @property
    def next(self) -> str:
        """What to do about it."""
        return _NEXT.get(self, "")


_NEXT: Final = {
    Kind.PENDING: "--fix activates it, where the station is the activator; else ask the provider to",
    Kind.TAKEN_OUT: "ask who did it and why; nothing sets it ACTIVE again by itself",
    Kind.UNKNOWN_THERE: "ask who deleted it; its unit needs a rework order, or to connect and be activated anew",
    Kind.ORPHAN: "--fix sets it INACTIVE",
    Kind.UNKNOWN_HERE: "another station's, or a stranger's: compare the other ledgers; --revoke-unknown revokes it",
}


@dataclass(frozen=True, slots=True)
class Found:
    """One certificate that is not as it should be; ``fixed`` says what was done about it."""

    kind: Kind
    certificate_id: str
    serial: str
    status: str
    fixed: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """How many of each kind there are, and all that are not well."""

    counts: dict[Kind, int]
    found: tuple[Found, ...]

    @property
    def left(self) -> int:
        """Differences that nothing was done about."""
        return sum(not one.fixed for one in self.found)


@dataclass(frozen=True, slots=True)
class Repair:
    """What may be mended: ``grant`` is None where the provider activates; ``revoke`` only where a person said yes."""

    ca: x509.Certificate
    grant: Grant | None
    revoke: bool = False


def compare(
    read: Read, registry: Registry, ca_certificate_id: str, progress: Progress, repair: Repair | None = None
) -> Result:
    """Both sides of one CA; with ``repair``, mended as far as that may be done.

    AWS is listed first and the record read after it: what is made in between is at work, and no stranger.

    Raises:
        FaultError: what AWS or the ledger has against being asked. What was mended until then stays so.
    """
    there: dict[str, Registered] = {}
    for registered in registry.certificates(ca_certificate_id):
        there[registered.id] = registered
        progress("listed at AWS IoT", len(there))
    counts = dict.fromkeys(Kind, 0)
    found: list[Found] = []
    for number, (kind, here, registered_or_none) in enumerate(_pairs(read, ca_certificate_id, there), 1):
        counts[kind] += 1
        progress("compared", number)
        if not kind.well:
            found.append(_mended(registry, repair, kind, here, registered_or_none))
    return Result(counts, tuple(found))


def _pairs(
    read: Read, ca_certificate_id: str, there: dict[str, Registered]
) -> Iterator[tuple[Kind, Recorded | None, Registered | None]]:
    with read() as connection:
        for here in all_recorded(connection, ca_certificate_id):
            registered = there.pop(here.standing.certificate_id, None)
            yield _kind(here.standing.state, registered), here, registered
    for registered in there.values():
        yield Kind.UNKNOWN_HERE, None, registered


def _kind(state: StandingState, registered: Registered | None) -> Kind:
    status = registered.status if registered else None
    match state:
        case StandingState.CONNECTING | StandingState.WORKING:
            return Kind.AT_WORK
        case StandingState.OUT:
            # Unknown there is no state to be in: its next connection would register it.
            return Kind.OUT if registered is not None and registered.out else Kind.ORPHAN
        case StandingState.PROVISIONED if status is None:
            return Kind.WAITING
    if status is None:
        return Kind.UNKNOWN_THERE
    if status is CertificateStatus.ACTIVE:
        return Kind.PASSED
    return Kind.PENDING if status is CertificateStatus.PENDING_ACTIVATION else Kind.TAKEN_OUT


def _mended(
    registry: Registry, repair: Repair | None, kind: Kind, here: Recorded | None, registered: Registered | None
) -> Found:
    found = Found(
        kind,
        here.standing.certificate_id if here else registered.id if registered else "",
        here.serial if here else "",
        registered.status.value if registered else "absent",
    )
    if repair is None:
        return found
    done = ""
    if kind is Kind.ORPHAN and here is not None:
        registry.retire(x509.load_der_x509_certificate(here.der), repair.ca)
        done = "set INACTIVE"
    elif kind is Kind.PENDING and here is not None and registered is not None and repair.grant is not None:
        registry.activate(registered, here.standing.thing, repair.grant)
        done = "activated"
    elif kind is Kind.UNKNOWN_HERE and registered is not None and repair.revoke:
        registry.revoke(registered)
        done = "revoked"
    return Found(found.kind, found.certificate_id, found.serial, found.status, done)
