"""First contact as AWS IoT does it: dropped once, registered, activated, accepted; causes are asked of the registry.

A unit that is dropped cannot tell why. So every wait here ends either in what was waited for, or in the one fault that
the registry's answer names.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cryptography import x509

from station.aws import contact
from station.aws.calls import Pauses
from station.aws.registry import Grant, Registered, RegisteredCa, Registry
from station.credentials import Credentials
from station.faults import Fault, FaultError
from station.interfaces import Dial, Stop
from station.model import Call, CertificateStatus, Ending, Product, Unit, certificate_id

if TYPE_CHECKING:
    from station.config.settings import Aws

_REDIAL_S: Final = 1.0  # AWS IoT takes one CONNECT a second for each client id (AWS IoT quotas)
_LONGEST_RETRY_S: Final = 0.25
_HOLD_S: Final = 1.0
_PAYLOAD: Final = b'{"hello":"station"}'
_NETWORK: Final = {
    Ending.UNTRUSTED: (Fault.CLOUD_UNTRUSTED, "its certificate does not verify by the server roots and its name"),
    Ending.UNREACHABLE: (Fault.CLOUD_UNREACHABLE, "no connection"),
    Ending.SILENT: (Fault.CLOUD_SILENT, "connected, and no answer"),
}


@dataclass(frozen=True, slots=True)
class AwsCloud:
    """`interfaces.Cloud` over one account and region. ``policy`` is None where the provider activates.

    The station's own `dial` does not see a run's stop: that waits until the dial is over, ``dial_timeout_s`` at most.
    """

    registry: Registry
    server_roots: bytes
    endpoint: str
    port: int
    alpn: bool
    ca_certificate_id: str
    grant: Grant | None
    dial_timeout_s: float
    deadline_s: float

    @classmethod
    def from_settings(cls, settings: Aws, server_roots: bytes) -> AwsCloud:
        """The cloud that the settings name."""
        simulator, activation = settings.simulator, settings.activation
        return cls(
            registry=Registry(settings.region, api_url=simulator.api_url if simulator else None),
            server_roots=server_roots,
            endpoint=settings.endpoint,
            port=settings.port,
            alpn=settings.port == 443 or (simulator is not None and simulator.alpn),
            ca_certificate_id=settings.ca_certificate_id,
            grant=Grant(activation.policy, activation.thing_type) if activation.by == "station" else None,
            dial_timeout_s=settings.dial_timeout_s,
            deadline_s=settings.connect_deadline_s,
        )

    def call(self, unit: Unit, product: Product) -> Call:
        """What ``unit`` dials: its client id, and one small publish."""
        return Call(
            endpoint=self.endpoint,
            port=self.port,
            client_id=product.client_id_of(unit),
            topic=product.topic_of(unit),
            payload=_PAYLOAD,
            timeout_s=self.dial_timeout_s,
        )

    def status(self, leaf: x509.Certificate) -> CertificateStatus | None:
        """The registry's word for a certificate; a short absence of the network is waited out."""
        found = self.registry.find(leaf)
        return None if found is None else found.status

    def retire(self, leaf: x509.Certificate, ca_certificate_id: str) -> None:
        """Take a certificate out of service for good; see `Registry.retire`."""
        self.registry.retire(leaf, ca_certificate_id)

    def prove(self, known: x509.Certificate, *, registered: bool = False) -> None:
        """See that registry and endpoint answer, now and without any unit.

        Args:
            known: any certificate that the registry may be asked about; that it never heard of it is an answer.
            registered: see also that the CA is registered, active, and taken at first contact.

        Raises:
            FaultError: `CLOUD_UNREACHABLE`, `CLOUD_UNTRUSTED`, `CLOUD_SILENT`, `THROTTLED`, `AWS_DENIED`, `AWS_ERROR`;
                `CA_UNKNOWN_HERE`, `CA_NOT_ACCEPTING`.
        """
        once = self.registry.during(time.monotonic(), time.sleep)
        once.find(known)
        ending = contact.knock(self.endpoint, self.port, self.server_roots, self.dial_timeout_s, alpn=self.alpn)
        if ending in _NETWORK:
            raise _network_fault(ending, self.endpoint, self.port)
        if registered:
            _raise_not_taken(once.find_ca(self.ca_certificate_id), self.ca_certificate_id)

    def dial(self, credentials: Credentials, call: Call) -> Ending:
        """Connect as the unit would; see `contact.dial`."""
        return contact.dial(credentials, call, alpn=self.alpn)

    def wait_active(self, leaf: x509.Certificate, call: Call, dial: Dial, stop: Stop) -> None:
        """From dropped to ACTIVE.

        Raises:
            FaultError: `NOT_REGISTERED`, `CA_UNKNOWN_HERE`, `CA_NOT_ACCEPTING`, `FIRST_CONNECT_ACCEPTED`;
                `CERTIFICATE_OUT`, `POLICY_MISSING`, `THING_TYPE`, `STILL_PENDING`; `CLOUD_UNTRUSTED`,
                `CLOUD_UNREACHABLE`, `CLOUD_SILENT`; `THROTTLED`, `AWS_DENIED`, `AWS_ERROR`; or the stop's.
        """
        deadline = time.monotonic() + self.deadline_s
        registry = self.registry.during(deadline, stop.wait)
        known = self._known(leaf, call, dial, stop, deadline)
        _raise_out(known)
        if self.grant is not None:
            registry.activate(known, call.client_id, self.grant)
        pauses = Pauses()
        while not _active(found := registry.find(leaf)):
            _raise_out(found)
            if time.monotonic() > deadline:
                raise _not_active(found, leaf)
            stop.wait(next(pauses))

    def _known(self, leaf: x509.Certificate, call: Call, dial: Dial, stop: Stop, deadline: float) -> Registered:
        """Poll; and dial again now and then, so that a first dial that was lost does not cost a unit."""
        registry = self.registry.during(deadline, stop.wait)
        pauses, dialled, ending = Pauses(), time.monotonic(), Ending.DROPPED
        while (found := registry.find(leaf)) is None:
            if time.monotonic() > deadline:
                raise self._why_unknown(ending)
            if time.monotonic() - dialled > _REDIAL_S:
                ending = dial(call)
                dialled = time.monotonic()
                _raise_untrusted(ending, call)
            stop.wait(next(pauses))
        return found

    def _why_unknown(self, ending: Ending) -> FaultError:
        """AWS IoT never heard of the certificate: whose move is it?"""
        _raise_not_taken(self.registry.find_ca(self.ca_certificate_id), self.ca_certificate_id)
        if ending in _NETWORK:
            return _network_fault(ending, self.endpoint, self.port)
        if ending is Ending.ACKNOWLEDGED:
            text = f"{self.endpoint} accepts what the registry does not know: another account's or region's?"
            return FaultError(Fault.FIRST_CONNECT_ACCEPTED, text)
        return FaultError(Fault.NOT_REGISTERED, f"{ending} by {self.endpoint}, and nothing was registered")

    def wait_accepted(self, leaf: x509.Certificate, call: Call, dial: Dial, stop: Stop) -> None:
        """From ACTIVE to an acknowledged publish. A fresh policy takes AWS IoT a moment: dial until the deadline.

        Raises:
            FaultError: `POLICY_MISSING`, `CONNECT_REFUSED`, `PUBLISH_REFUSED`, `CLIENT_ID_TAKEN`, `CERTIFICATE_OUT`,
                `STILL_PENDING`, `NOT_REGISTERED`; `CLOUD_UNTRUSTED`, `CLOUD_UNREACHABLE`, `CLOUD_SILENT`;
                `THROTTLED`, `AWS_DENIED`, `AWS_ERROR`; or the stop's.
        """
        deadline = time.monotonic() + self.deadline_s
        pauses = Pauses(longest_s=_LONGEST_RETRY_S)
        while (ending := dial(call)) is not Ending.ACKNOWLEDGED:
            stop.check()
            _raise_untrusted(ending, call)
            if time.monotonic() > deadline:
                raise self._why_refused(leaf, call, dial, ending)
            stop.wait(next(pauses))

    def _why_refused(self, leaf: x509.Certificate, call: Call, dial: Dial, ending: Ending) -> FaultError:
        """All causes look alike to the unit; the registry tells them apart."""
        if ending in _NETWORK:
            return _network_fault(ending, self.endpoint, self.port)
        found = self.registry.find(leaf)
        _raise_out(found)
        if found is None or not _active(found):
            return _not_active(found, leaf)
        policies = self.registry.policies(found)
        if not policies:
            return FaultError(Fault.POLICY_MISSING, f"no policy is attached to certificate {found.id}")
        named = f"the policies {', '.join(policies)}"
        if ending is not Ending.UNACKNOWLEDGED:
            return FaultError(Fault.CONNECT_REFUSED, f"{ending}; {named} must allow the client id {call.client_id}")
        held = dial(replace(call, hold_s=_HOLD_S))
        if held is Ending.UNACKNOWLEDGED:
            text = f"dropped within {_HOLD_S} s of connecting: another client is {call.client_id}, too"
            return FaultError(Fault.CLIENT_ID_TAKEN, text)
        return FaultError(Fault.PUBLISH_REFUSED, f"{named} must allow publishing to {call.topic}; held: {held}")


def _raise_not_taken(ca: RegisteredCa | None, ca_certificate_id: str) -> None:
    """No unit of a CA that AWS IoT does not take gets past its first contact."""
    if ca is None:
        text = f"CA {ca_certificate_id} is not registered in this account and region"
        raise FaultError(Fault.CA_UNKNOWN_HERE, text)
    if not ca.accepting:
        raise FaultError(Fault.CA_NOT_ACCEPTING, str(ca))


def _active(found: Registered | None) -> bool:
    return found is not None and found.status is CertificateStatus.ACTIVE


def _raise_out(found: Registered | None) -> None:
    """No waiting mends that: somebody took it out of service."""
    if found is not None and found.out:
        raise FaultError(Fault.CERTIFICATE_OUT, str(found))


def _not_active(found: Registered | None, leaf: x509.Certificate) -> FaultError:
    if found is None:
        return FaultError(Fault.NOT_REGISTERED, f"certificate {certificate_id(leaf)} is gone from the registry")
    return FaultError(Fault.STILL_PENDING, str(found))


def _raise_untrusted(ending: Ending, call: Call) -> None:
    """No waiting mends that: the own CA as server root, a wrong clock, somebody in between."""
    if ending is Ending.UNTRUSTED:
        raise _network_fault(ending, call.endpoint, call.port)


def _network_fault(ending: Ending, endpoint: str, port: int) -> FaultError:
    fault, text = _NETWORK[ending]
    return FaultError(fault, f"{endpoint}:{port}: {text}")
