"""May this certificate be activated? The one function that decides, and does it.

The daemon (`station.activator.daemon`) calls it for each event of AWS IoT and for what its slow poll finds; the Lambda
function (`station.activator.function`) calls the very same.

A certificate is activated only where AWS IoT has it under our CA and PENDING_ACTIVATION, and the record says that the
unit's latest run is at CONNECT now, or PROVISIONED. A stranger (signed by our CA, and no run made it) is never
activated: it is put on record and told loudly, for somebody may have used the CA's key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from station.aws.registry import Grant, Registered, Registry
from station.interfaces import Register
from station.model import CertificateStatus, Standing, StandingState

CERTIFICATE_ID: Final = re.compile(r"[0-9a-f]{64}")


class Verdict(StrEnum):
    """What became of one certificate."""

    ACTIVATED = "activated"
    ACTIVE = "active"  # already
    OUT = "out"  # INACTIVE or REVOKED: somebody's decision, and not ours to change
    ABSENT = "absent"  # AWS IoT does not know it
    FOREIGN = "foreign"  # another CA's
    STRANGER = "stranger"  # our CA signed it, and no run made it
    EARLY = "early"  # its run is not at CONNECT yet
    REFUSED = "refused"  # an orphan, superseded, or passed before; where it was ACTIVE, INACTIVE now

    @property
    def may_change(self) -> bool:
        """Whether the line may say otherwise in a moment: what it records and what AWS tells are on two ways to us."""
        return self in {Verdict.STRANGER, Verdict.EARLY, Verdict.ABSENT}

    @property
    def alarming(self) -> bool:
        """Whether it waits under our CA and must not be activated: somebody should look at it."""
        return self in {Verdict.STRANGER, Verdict.EARLY, Verdict.REFUSED}


@dataclass(frozen=True, slots=True)
class Activator:
    """Decides and activates. Safe from any thread, and from several places at once: each step may be repeated."""

    registry: Registry
    register: Register
    ca_certificate_id: str
    grant: Grant

    def consider(self, certificate_id: str) -> Verdict:
        """Activate the certificate where it may be. AWS IoT is asked now: what a listing said of it may be old.

        One that is ACTIVE is judged again: whoever activated it may have been cut off before the second look.

        Raises:
            FaultError: what AWS or the register has against being asked; nothing is decided then.
        """
        if not CERTIFICATE_ID.fullmatch(certificate_id):
            return Verdict.ABSENT
        found = self.registry.find_by_id(certificate_id)
        if found is None:
            return Verdict.ABSENT
        if found.ca != self.ca_certificate_id:
            return Verdict.FOREIGN
        if found.status is CertificateStatus.PENDING_ACTIVATION:
            return self._decide(found)
        if found.status is CertificateStatus.ACTIVE:
            return self._kept(found, Verdict.ACTIVE, {StandingState.OUT})
        return Verdict.OUT

    def _decide(self, found: Registered) -> Verdict:
        """Of one that waits under our CA: what the line says."""
        known = self.register.standing(found.id)
        verdict = self._may(known)
        if verdict is not None or known is None:
            return verdict or Verdict.STRANGER
        self.registry.activate(found, known.thing, self.grant)
        # The run may have ended meanwhile, and the station have said INACTIVE before we said ACTIVE.
        return self._kept(found, Verdict.ACTIVATED, {StandingState.OUT, StandingState.EXPIRED})

    def _kept(self, found: Registered, verdict: Verdict, over: set[StandingState]) -> Verdict:
        """``verdict`` of an active one, unless the line says by now that it is ``over``: then INACTIVE."""
        now = self.register.standing(found.id)
        if now is None or now.state not in over:
            return verdict
        self.registry.deactivate(found)
        return Verdict.REFUSED

    def _may(self, known: Standing | None) -> Verdict | None:
        """None where it may be activated."""
        if known is None:
            return Verdict.STRANGER
        if known.authority != self.ca_certificate_id:
            return Verdict.FOREIGN
        if known.state is StandingState.WORKING:
            return Verdict.EARLY
        return None if known.state.wanted else Verdict.REFUSED
