"""Compares the record with AWS IoT, certificate by certificate, and mends what may be mended without a person.

The outbox takes what did not pass out of service already, and the activator brings what connects into it. This finds
what slipped by both: a ledger that was restored, a cloud that was changed by hand, somebody with the CA's key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from cryptography import x509

from station.aws.registry import Grant, Registered, Registry
from station.ledger.schema import issued
from station.ledger.standing import Read, Recorded, all_ids, all_recorded, recorded
from station.model import CertificateStatus, StandingState

Progress = Callable[[str, int], None]


class Kind(StrEnum):
    """What a certificate is, as both sides together say. The first five are as they should be."""

    PASSED = "passed"  # passed, and ACTIVE
    AT_WORK = "at work"  # its run is not over
    WAITING = "waiting"  # provisioned, and not at its first contact yet
    OUT = "out"  # an orphan, superseded or a stranger, and out of service
    ELSEWHERE = "elsewhere"  # another station's of this line: that one looks after it
    PENDING = "pending"  # passed, or provisioned and connected, and never activated
    TAKEN_OUT = "taken out"  # passed or provisioned, and somebody set it INACTIVE or REVOKED
    UNKNOWN_THERE = "unknown there"  # passed, and AWS IoT has it no more
    ORPHAN = "orphan"  # must be out of service, and is not
    UNKNOWN_HERE = "unknown here"  # AWS IoT has it under our CA, and no record that was asked

    @property
    def well(self) -> bool:
        """Whether both sides agree."""
        return self in {Kind.PASSED, Kind.AT_WORK, Kind.WAITING, Kind.OUT, Kind.ELSEWHERE}

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
class Sides:
    """What is compared: AWS IoT under one CA, the station's record, and its line's where there is one to be asked."""

    registry: Registry
    ca_certificate_id: str
    record: Read
    line: Read | None = None

    def compare(self, progress: Progress) -> Result:
        """Both sides, certificate by certificate. Nothing is changed.

        AWS is listed first and the records are read after it: what is made in between is at work, and no stranger.

        Raises:
            FaultError: what AWS or a record has against being asked.
        """
        there: dict[str, Registered] = {}
        for registered in self.registry.certificates(self.ca_certificate_id):
            there[registered.id] = registered
            progress("listed at AWS IoT", len(there))
        counts = dict.fromkeys(Kind, 0)
        found: list[Found] = []
        for number, one in enumerate(self._pairs(there), 1):
            counts[one.kind] += 1
            progress("compared", number)
            if not one.kind.well:
                found.append(one)
        return Result(counts, tuple(found))

    def _pairs(self, there: dict[str, Registered]) -> Iterator[Found]:
        with self.record() as connection:
            for here in all_recorded(connection, self.ca_certificate_id):
                name = here.standing.certificate_id
                yield _found(name, here, there.pop(name, None), elsewhere=False)
        elsewhere: set[str] = set()
        if there and self.line is not None:
            with self.line() as connection:
                elsewhere = all_ids(connection, self.ca_certificate_id)
        for name, registered in there.items():
            yield _found(name, None, registered, elsewhere=name in elsewhere)

    def mend(self, result: Result, kinds: Collection[Kind], grant: Grant | None) -> Result:
        """Mend what was found of ``kinds``; ``grant`` is None where the provider activates.

        Both sides are asked again about each certificate right before: while the first was mended, the last may have
        been taken out of service, or have passed.

        Raises:
            FaultError: what AWS or a record has against it. What was mended until then stays so.
        """
        found = (self._mended(one, kinds, grant) if one.kind in kinds else one for one in result.found)
        return Result(result.counts, tuple(found))

    def _mended(self, one: Found, kinds: Collection[Kind], grant: Grant | None) -> Found:
        here, elsewhere = self._recorded(one.certificate_id)
        there = self.registry.find_by_id(one.certificate_id)
        now = _found(one.certificate_id, here, there, elsewhere=elsewhere)
        done = ""
        if now.kind.well:
            done = f"by itself: {now.kind.value} by now"
        elif now.kind not in kinds:
            pass  # somebody decided meanwhile
        elif now.kind is Kind.ORPHAN and here is not None:
            self.registry.retire(x509.load_der_x509_certificate(here.der), self.ca_certificate_id)
            done = "set INACTIVE"
        elif now.kind is Kind.PENDING and here is not None and there is not None and grant is not None:
            self.registry.activate(there, here.standing.thing, grant)
            done = "activated"
        elif now.kind is Kind.UNKNOWN_HERE and there is not None:
            self.registry.revoke(there)
            done = "revoked"
        return replace(now, fixed=done)

    def _recorded(self, certificate_id: str) -> tuple[Recorded | None, bool]:
        """The certificate on this record; and whether it is only on the line's."""
        with self.record() as connection:
            for here in recorded(connection, issued.c.certificate_id == certificate_id):
                return here, False
        if self.line is None:
            return None, False
        with self.line() as connection:
            return None, bool(recorded(connection, issued.c.certificate_id == certificate_id))


def _found(certificate_id: str, here: Recorded | None, there: Registered | None, *, elsewhere: bool) -> Found:
    if here is not None:
        kind = _kind(here.standing.state, there)
    elif elsewhere:
        kind = Kind.ELSEWHERE
    else:  # a REVOKED stranger is one that a person decided about; one that was deleted meanwhile is gone
        gone = there is None or there.status is CertificateStatus.REVOKED
        kind = Kind.OUT if gone else Kind.UNKNOWN_HERE
    return Found(kind, certificate_id, here.serial if here else "", there.status.value if there else "absent")


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
