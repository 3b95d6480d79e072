"""AWS IoT's registry of things, certificates and CAs, as the station and the ceremonies use it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from station.aws.calls import CALLS_PER_S, AbsentError, AnswerError, ExistsError, RefusedError
from station.aws.clients import client
from station.faults import Fault, FaultError
from station.model import CertificateStatus, certificate_id

_PAGE: Final = 250  # the most that ListCertificatesByCA gives a page
_OUT = frozenset({CertificateStatus.INACTIVE, CertificateStatus.REVOKED})


@dataclass(frozen=True, slots=True)
class Registered:
    """A device certificate that AWS IoT knows."""

    id: str
    arn: str
    status: CertificateStatus
    ca: str = ""  # the id of the CA that AWS IoT knows it under, where that was asked
    since: datetime | None = None  # when it was registered

    def __str__(self) -> str:
        """For a fault's detail."""
        return f"certificate {self.id} is {self.status}"

    @property
    def out(self) -> bool:
        """Whether somebody took it out of service."""
        return self.status in _OUT


@dataclass(frozen=True, slots=True)
class Grant:
    """What a unit gets with ACTIVE: the policy on its certificate, and the type of its thing where things have one."""

    policy: str
    thing_type: str | None = None


@dataclass(frozen=True, slots=True)
class RegisteredCa:
    """A CA that AWS IoT knows."""

    id: str
    status: str
    auto_registration: str
    arn: str = ""

    def __str__(self) -> str:
        """For a fault's detail."""
        return f"CA {self.id} is {self.status}, auto-registration {self.auto_registration}"

    @property
    def accepting(self) -> bool:
        """Whether the first connection of a certificate of this CA registers it."""
        return (self.status, self.auto_registration) == ("ACTIVE", "ENABLE")


class Registry:
    """One account's registry in one region. Safe from any thread.

    Every call raises `FaultError`: `CLOUD_UNREACHABLE`, `THROTTLED` and, of AWS's own trouble, `AWS_ERROR`, after some
    seconds of patience; `AWS_DENIED`, `AWS_ERROR` at once; and what its method names.
    """

    def __init__(self, region: str, *, api_url: str | None = None, per_s: float = CALLS_PER_S) -> None:
        self._calls = client("iot", region, api_url=api_url, per_s=per_s)

    def during(self, deadline: float, wait: Callable[[float], None]) -> Registry:
        """The same registry for one run: patient until a ``time.monotonic()``, waiting by ``wait``.

        Its calls react to the run's stop between tries; one that AWS leaves hanging, after 5 s.
        """
        other = copy.copy(self)
        other._calls = self._calls.during(deadline, wait)  # noqa: SLF001 - a copy of its own
        return other

    def find(self, leaf: x509.Certificate) -> Registered | None:
        """The certificate as AWS IoT knows it, or None (DescribeCertificate)."""
        return self.find_by_id(certificate_id(leaf))

    def find_by_id(self, name: str) -> Registered | None:
        """As `find`, by the certificate's id."""
        try:
            found = self._calls("describe_certificate", "certificateDescription", certificateId=name)
        except AbsentError:
            return None
        return _registered("describe_certificate", found, str(found.get("caCertificateId") or ""))

    def certificates(self, ca_certificate_id: str) -> Iterator[Registered]:
        """Every certificate that AWS IoT knows under one CA, newest first, a page of 250 a call (ListCertificatesByCA).

        Raises:
            FaultError: as every call, and `Fault.AWS_ERROR` where the pages go in a circle.
        """
        more: dict[str, str] = {}
        while True:
            page = self._calls("list_certificates_by_ca", caCertificateId=ca_certificate_id, pageSize=_PAGE, **more)
            for one in page.get("certificates", []):
                yield _registered("list_certificates_by_ca", one, ca_certificate_id)
            marker = page.get("nextMarker")
            if not marker:
                return
            if marker == more.get("marker"):
                raise FaultError(Fault.AWS_ERROR, "list_certificates_by_ca: the same page again")
            more = {"marker": marker}

    def activate(self, found: Registered, thing: str, grant: Grant) -> None:
        """Thing, principal, policy, and only then ACTIVE: an active certificate without its policy is dropped.

        May be repeated. A thing that is there already keeps its type.

        Raises:
            FaultError: `Fault.POLICY_MISSING`, `Fault.THING_TYPE` where AWS IoT has no such policy or type.
        """
        self._create_thing(thing, grant.thing_type)
        self._calls("attach_thing_principal", thingName=thing, principal=found.arn)
        try:
            self._calls("attach_policy", policyName=grant.policy, target=found.arn)
        except AbsentError as error:
            text = f"there is no policy {grant.policy} in this account and region"
            raise FaultError(Fault.POLICY_MISSING, text) from error
        self._update(found.id, CertificateStatus.ACTIVE)

    def _create_thing(self, thing: str, thing_type: str | None) -> None:
        wanted = {"thingTypeName": thing_type} if thing_type else {}
        try:
            with suppress(ExistsError):
                self._calls("create_thing", thingName=thing, **wanted)
        except (AbsentError, RefusedError) as error:
            if thing_type is None:
                raise
            raise FaultError(Fault.THING_TYPE, f"of the type {thing_type}: {error.detail}") from error

    def deactivate(self, found: Registered) -> None:
        """Take a certificate that AWS IoT knows out of service. May be repeated."""
        self._update(found.id, CertificateStatus.INACTIVE)

    def revoke(self, found: Registered) -> None:
        """Take a certificate out of service so that everybody sees why; the activator leaves it so for ever."""
        self._update(found.id, CertificateStatus.REVOKED)

    def policies(self, found: Registered) -> list[str]:
        """The names of the policies on the certificate itself, the first page (ListAttachedPolicies)."""
        attached = self._calls("list_attached_policies", "policies", target=found.arn)
        return [str(one.get("policyName")) for one in attached]

    def retire(self, leaf: x509.Certificate, ca_certificate_id: str) -> None:
        """Take a certificate out of service for good, whatever AWS IoT knows of it. May be repeated.

        ``ca_certificate_id`` is the CA that signed it: after a rotation, not always the one that the station has now.
        One that never connected is registered INACTIVE: otherwise its next connection would register it. Should it
        connect in this very moment, it exists by then, and is set INACTIVE as any other.

        Raises:
            FaultError: `Fault.CA_NOT_ACCEPTING` where the certificate cannot be registered, since its CA is unknown or
                INACTIVE here. Nor can it connect then; the caller tries again in case the CA comes back.
        """
        once = self.during(time.monotonic(), time.sleep)  # patience is the caller's
        found = once.find(leaf)
        if found is None:
            try:
                once._register_inactive(leaf, ca_certificate_id)  # noqa: SLF001 - a Registry too
            except ExistsError:
                once._update(certificate_id(leaf), CertificateStatus.INACTIVE)  # noqa: SLF001 - a Registry too
        elif not found.out:
            once._update(found.id, CertificateStatus.INACTIVE)  # noqa: SLF001 - a Registry too

    def _register_inactive(self, leaf: x509.Certificate, ca_certificate_id: str) -> None:
        try:
            ca = self._calls("describe_ca_certificate", "certificateDescription", certificateId=ca_certificate_id)
            pem = str(ca.get("certificatePem"))
            self._calls("register_certificate", certificatePem=_pem(leaf), caCertificatePem=pem, status="INACTIVE")
        except (AbsentError, RefusedError) as error:
            raise FaultError(Fault.CA_NOT_ACCEPTING, f"CA {ca_certificate_id}: {error.detail}") from error

    def _update(self, name: str, status: CertificateStatus) -> None:
        self._calls("update_certificate", certificateId=name, newStatus=status.value)

    def find_ca(self, ca_certificate_id: str) -> RegisteredCa | None:
        """The CA as this account and region know it, or None (DescribeCACertificate)."""
        try:
            found = self._calls("describe_ca_certificate", "certificateDescription", certificateId=ca_certificate_id)
        except AbsentError:
            return None
        return RegisteredCa(
            ca_certificate_id,
            str(found.get("status")),
            str(found.get("autoRegistrationStatus")),
            str(found.get("certificateArn", "")),
        )

    def policy_document(self, name: str) -> str:
        """The default version of a policy, as JSON text (GetPolicy).

        Raises:
            FaultError: `Fault.POLICY_MISSING` where AWS IoT has no such policy.
        """
        try:
            return str(self._calls("get_policy", "policyDocument", policyName=name))
        except AbsentError as error:
            raise FaultError(Fault.POLICY_MISSING, f"there is no policy {name} in this account and region") from error

    def thing_type(self, name: str) -> None:
        """See that things can be made of a type (DescribeThingType).

        Raises:
            FaultError: `Fault.THING_TYPE` where AWS IoT has no such type, or it is deprecated.
        """
        try:
            about = self._calls("describe_thing_type", "thingTypeMetadata", thingTypeName=name)
        except AbsentError as error:
            text = f"there is no thing type {name} in this account and region"
            raise FaultError(Fault.THING_TYPE, text) from error
        if about.get("deprecated"):
            raise FaultError(Fault.THING_TYPE, f"the thing type {name} is deprecated: no thing can be made of it")

    def rights(self, certificate_arn: str, policy: str | None) -> list[str]:
        """Try what the station does, on a certificate that cannot exist; returns the calls that AWS would let through.

        AWS looks at the right first and then for the thing: "no such certificate" is the answer of who may, and "no
        such thing type" that of who may make things. Nothing is changed.

        Raises:
            FaultError: `Fault.AWS_DENIED` for the first call that is not allowed.
        """
        none = "0" * 64
        tries: list[tuple[str, dict[str, str]]] = [
            ("describe_certificate", {"certificateId": none}),
            ("update_certificate", {"certificateId": none, "newStatus": "INACTIVE"}),
            ("register_certificate", {"certificatePem": "none", "status": "INACTIVE"}),
        ]
        if policy is not None:
            tries += [
                ("create_thing", {"thingName": f"no-{none}", "thingTypeName": f"no-{none}"}),
                ("attach_policy", {"policyName": policy, "target": certificate_arn}),
                ("attach_thing_principal", {"thingName": f"no-{none}", "principal": certificate_arn}),
            ]
        for operation, arguments in tries:
            with suppress(AnswerError):
                self._calls(operation, **arguments)
        return [operation for operation, _ in tries]

    def data_endpoint(self) -> str:
        """Where units connect (DescribeEndpoint, iot:Data-ATS; never the legacy iot:Data)."""
        return str(self._calls("describe_endpoint", "endpointAddress", endpointType="iot:Data-ATS"))


def _registered(operation: str, found: Any, ca: str) -> Registered:
    try:
        since = found.get("creationDate")
        return Registered(
            str(found["certificateId"]),
            str(found["certificateArn"]),
            CertificateStatus(found["status"]),
            ca,
            since if isinstance(since, datetime) else None,
        )
    except (KeyError, ValueError) as error:
        raise FaultError(Fault.AWS_ERROR, f"{operation}: {error}") from error


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")
