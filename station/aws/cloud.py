"""First contact as AWS IoT does it: dropped once, registered, activated, accepted; causes are asked of the registry.

A unit that is dropped cannot tell why (docs/adr and jitr.md): so every wait ends either in what was waited for, or in
the one fault that the registry's answer names.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from cryptography import x509

from station.aws.contact import dial
from station.aws.registry import Registry
from station.config.settings import Aws, StationActivates
from station.faults import Fault, FaultError
from station.interfaces import Dial, Stop
from station.model import Call, CertificateStatus, Credentials, Ending, Product, Unit, certificate_id

_REDIAL_S: Final = 1.0  # AWS IoT takes one CONNECT a second for each client id (AWS IoT quotas)
_BLIP_S: Final = 5.0
_HOLD_S: Final = 1.0
_PASSING: Final = frozenset({Fault.THROTTLED, Fault.CLOUD_UNREACHABLE, Fault.AWS_ERROR})
_OUT: Final = frozenset({CertificateStatus.INACTIVE, CertificateStatus.REVOKED})
_NOT_ACTIVE: Final = {
    None: Fault.NOT_REGISTERED,
    CertificateStatus.INACTIVE: Fault.CERTIFICATE_OUT,
    CertificateStatus.REVOKED: Fault.CERTIFICATE_OUT,
}
_NETWORK: Final = {
    Ending.UNTRUSTED: (Fault.CLOUD_UNTRUSTED, "the server's certificate is not under the server roots"),
    Ending.UNREACHABLE: (Fault.CLOUD_UNREACHABLE, "no connection"),
    Ending.SILENT: (Fault.CLOUD_SILENT, "connected, and no answer"),
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class AwsCloud:
    """`interfaces.Cloud` over one account and region. ``policy`` is None where the provider activates."""

    registry: Registry
    server_roots: bytes
    endpoint: str
    port: int
    alpn: bool
    ca_certificate_id: str
    policy: str | None
    dial_timeout_s: float
    deadline_s: float

    @classmethod
    def from_settings(cls, settings: Aws, server_roots: bytes) -> AwsCloud:
        """The cloud that the settings name."""
        simulator = settings.simulator
        return cls(
            registry=Registry(settings.region, api_url=simulator.api_url if simulator else None),
            server_roots=server_roots,
            endpoint=settings.endpoint,
            port=settings.port,
            alpn=settings.port == 443 or bool(simulator and simulator.alpn),
            ca_certificate_id=settings.ca_certificate_id,
            policy=settings.activation.policy if isinstance(settings.activation, StationActivates) else None,
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
            payload=b'{"hello":"station"}',
            timeout_s=self.dial_timeout_s,
        )

    def status(self, leaf: x509.Certificate) -> CertificateStatus | None:
        """The registry's word for a certificate; a short absence of the network is waited out."""
        return _patiently(lambda: self.registry.status(leaf), time.monotonic() + _BLIP_S, time.sleep)

    def dial(self, credentials: Credentials, call: Call) -> Ending:
        """Connect as the unit would."""
        return dial(credentials, call, alpn=self.alpn)

    def wait_active(self, leaf: x509.Certificate, call: Call, dial: Dial, stop: Stop) -> None:
        """From dropped to ACTIVE.

        Raises:
            FaultError: `NOT_REGISTERED`, `CA_UNKNOWN_HERE`, `CA_NOT_ACCEPTING`, `STILL_PENDING`, `CERTIFICATE_OUT`,
                `POLICY_MISSING`; `CLOUD_UNTRUSTED`, `CLOUD_UNREACHABLE`, `CLOUD_SILENT`; `THROTTLED`, `AWS_DENIED`,
                `AWS_ERROR`; or the stop's.
        """
        deadline = time.monotonic() + self.deadline_s
        self._until_known(leaf, call, dial, stop, deadline)
        if self.policy is not None:
            policy = self.policy
            _patiently(lambda: self.registry.activate(leaf, call.client_id, policy), deadline, stop.wait)
        pause = _Pauses()
        while (status := self._ask(leaf, deadline, stop)) is not CertificateStatus.ACTIVE:
            if status in _OUT:
                raise FaultError(Fault.CERTIFICATE_OUT, f"certificate {certificate_id(leaf)} is {status}")
            if time.monotonic() > deadline:
                raise FaultError(Fault.STILL_PENDING, f"certificate {certificate_id(leaf)} is {status}")
            stop.wait(next(pause))

    def _until_known(self, leaf: x509.Certificate, call: Call, dial: Dial, stop: Stop, deadline: float) -> None:
        """Poll; and dial again now and then, so that a first dial that was lost does not cost a unit."""
        pause, dialled, ending = _Pauses(), time.monotonic(), Ending.DROPPED
        while (status := self._ask(leaf, deadline, stop)) is None:
            if time.monotonic() > deadline:
                raise self._why_unknown(ending)
            if time.monotonic() - dialled > _REDIAL_S:
                ending = dial(call)
                dialled = time.monotonic()
                _raise_untrusted(ending, call)
            stop.wait(next(pause))
        if status in _OUT:
            raise FaultError(Fault.CERTIFICATE_OUT, f"certificate {certificate_id(leaf)} is {status}")

    def _ask(self, leaf: x509.Certificate, deadline: float, stop: Stop) -> CertificateStatus | None:
        return _patiently(lambda: self.registry.status(leaf), deadline, stop.wait)

    def _why_unknown(self, ending: Ending) -> FaultError:
        """AWS IoT never heard of the certificate: whose move is it?"""
        found = self.registry.describe_ca(self.ca_certificate_id)
        if found is None:
            return FaultError(
                Fault.CA_UNKNOWN_HERE, f"CA {self.ca_certificate_id} is not registered in this account and region"
            )
        if found["status"] != "ACTIVE" or found.get("autoRegistrationStatus") != "ENABLE":
            return FaultError(
                Fault.CA_NOT_ACCEPTING,
                f"CA {self.ca_certificate_id} is {found['status']},"
                f" auto-registration {found.get('autoRegistrationStatus')}",
            )
        if ending in _NETWORK:
            return _network_fault(ending, self.endpoint, self.port)
        return FaultError(Fault.NOT_REGISTERED, f"{ending} by {self.endpoint}, and nothing was registered")

    def wait_accepted(self, leaf: x509.Certificate, call: Call, dial: Dial, stop: Stop) -> None:
        """From ACTIVE to an acknowledged publish. A fresh policy takes AWS IoT a moment: dial until the deadline.

        Raises:
            FaultError: `POLICY_MISSING`, `CONNECT_REFUSED`, `PUBLISH_REFUSED`, `CLIENT_ID_TAKEN`, `CERTIFICATE_OUT`,
                `STILL_PENDING`, `NOT_REGISTERED`, and as in `wait_active`.
        """
        deadline = time.monotonic() + self.deadline_s
        pause = _Pauses(longest_s=0.25)
        while (ending := dial(call)) is not Ending.ACKNOWLEDGED:
            _raise_untrusted(ending, call)
            if time.monotonic() > deadline:
                raise self._why_refused(leaf, call, dial, ending)
            stop.wait(next(pause))

    def _why_refused(self, leaf: x509.Certificate, call: Call, dial: Dial, ending: Ending) -> FaultError:
        """All causes look alike to the unit; the registry tells them apart."""
        if ending in _NETWORK:
            return _network_fault(ending, self.endpoint, self.port)
        status, name = self.status(leaf), certificate_id(leaf)
        if status is not CertificateStatus.ACTIVE:
            return FaultError(_NOT_ACTIVE.get(status, Fault.STILL_PENDING), f"certificate {name} is {status}")
        if not self.registry.has_policy(leaf):
            return FaultError(Fault.POLICY_MISSING, f"no policy is attached to certificate {name}")
        if ending is not Ending.UNACKNOWLEDGED:
            return FaultError(Fault.CONNECT_REFUSED, f"{ending}; the policy must allow the client id {call.client_id}")
        if dial(replace(call, hold_s=_HOLD_S)) is Ending.ACKNOWLEDGED:
            return FaultError(Fault.PUBLISH_REFUSED, f"connected; the policy must allow publishing to {call.topic}")
        return FaultError(Fault.CLIENT_ID_TAKEN, f"dropped after connecting as {call.client_id}")

    def retire(self, leaf: x509.Certificate, ca: x509.Certificate) -> None:
        """Take a certificate out of service for good, whatever AWS IoT knows of it. May be repeated.

        One that never connected is registered INACTIVE: otherwise its next connection would register it.
        """
        status = self.registry.status(leaf)
        if status is None:
            self.registry.register_inactive(leaf, ca)
        elif status not in _OUT:
            self.registry.update(leaf, CertificateStatus.INACTIVE)


class _Pauses:
    """50 ms first, then longer by half, with a tenth of jitter so that slots do not march in step."""

    def __init__(self, longest_s: float = 1.0) -> None:
        self._next, self._longest = 0.05, longest_s

    def __next__(self) -> float:
        pause, self._next = self._next, min(self._next * 1.5, self._longest)
        return pause * random.uniform(0.9, 1.1)  # noqa: S311 - not a secret


def _patiently(ask: Callable[[], _T], deadline: float, wait: Callable[[float], None]) -> _T:
    """Ask until there is an answer; what may pass by itself is a fault only at the deadline."""
    pause = _Pauses()
    while True:
        try:
            return ask()
        except FaultError as error:
            if error.fault not in _PASSING or time.monotonic() > deadline:
                raise
        wait(next(pause))


def _raise_untrusted(ending: Ending, call: Call) -> None:
    """No waiting mends that: own CA as server root, a wrong clock, somebody in between."""
    if ending is Ending.UNTRUSTED:
        raise _network_fault(ending, call.endpoint, call.port)


def _network_fault(ending: Ending, endpoint: str, port: int) -> FaultError:
    fault, text = _NETWORK[ending]
    return FaultError(fault, f"{endpoint}:{port}: {text}")
