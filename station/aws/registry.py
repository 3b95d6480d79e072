"""AWS IoT's registry: every call paced for all slots together, every refusal one fault by table."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore import exceptions as aws
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from station.faults import Fault, FaultError
from station.model import CertificateStatus, certificate_id

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

# DescribeCertificate allows 10 a second for the account (AWS IoT quotas); the rest is for the provider's own tools.
_CALLS_PER_S: Final = 8.0
_SLOWEST_S: Final = 4.0

# botocore's error codes for `iot` (its service-2.json, and AWS's common errors).
_FAULTS: Final[Mapping[str, Fault]] = {
    "ThrottlingException": Fault.THROTTLED,
    "Throttling": Fault.THROTTLED,
    "TooManyRequestsException": Fault.THROTTLED,
    "RequestLimitExceeded": Fault.THROTTLED,
    "UnauthorizedException": Fault.AWS_DENIED,
    "AccessDeniedException": Fault.AWS_DENIED,
    "AccessDenied": Fault.AWS_DENIED,
    "UnrecognizedClientException": Fault.AWS_DENIED,
    "InvalidClientTokenId": Fault.AWS_DENIED,
    "InvalidSignatureException": Fault.AWS_DENIED,
    "SignatureDoesNotMatch": Fault.AWS_DENIED,
    "ExpiredTokenException": Fault.AWS_DENIED,
    "ExpiredToken": Fault.AWS_DENIED,
}
_REFUSALS: Final = frozenset(
    {"CertificateValidationException", "RegistrationCodeValidationException", "InvalidRequestException"}
)
_CERTIFICATE_ID: Final = re.compile(r"[0-9a-f]{64}")


class Pace:
    """Spreads the calls of all threads over time, and slows down for everybody where AWS throttles one.

    One bucket for all slots is enough: each polls its own certificate, and their sum is what hits the account's quota.
    """

    def __init__(self, per_s: float = _CALLS_PER_S) -> None:
        self._interval = 1 / per_s
        self._lock = threading.Lock()
        self._next = 0.0
        self._pause = 0.0

    def reserve(self) -> float:
        """Take the next place; returns the seconds until it comes. A burst of one second's calls is free."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now - 1.0) + self._interval
            return max(0.0, self._next - now)

    def throttled(self) -> float:
        """AWS throttled a call: everybody waits, twice as long each time. Returns the seconds."""
        with self._lock:
            self._pause = min(max(self._pause * 2, 0.25), _SLOWEST_S)
            self._next = max(self._next, time.monotonic() + self._pause)
            return self._pause

    def accepted(self) -> None:
        """AWS took a call: the next throttle begins small again."""
        with self._lock:
            self._pause = 0.0


class Registry:
    """The calls that the station and its ceremonies make. Safe from any thread.

    Each raises `FaultError`: `THROTTLED`, `AWS_DENIED`, `CLOUD_UNREACHABLE`, `AWS_ERROR`, and what is named there.
    """

    def __init__(self, region: str, *, api_url: str | None = None) -> None:
        self._pace = Pace()
        try:
            self._client: IoTClient = boto3.session.Session(region_name=region).client(
                "iot",
                endpoint_url=api_url,
                # Retries are the caller's, who knows the run's deadline and its stop.
                config=Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1}),
            )
        except aws.BotoCoreError as error:
            raise _translated("connect", error) from error

    def status(self, leaf: x509.Certificate) -> CertificateStatus | None:
        """The certificate's status; None where AWS IoT does not know it."""
        found = self.describe(leaf)
        return None if found is None else CertificateStatus(found["status"])

    def describe(self, leaf: x509.Certificate) -> Any:
        """The certificate's description (DescribeCertificate); None where AWS IoT does not know it."""
        try:
            answer = self._call("describe_certificate", certificateId=certificate_id(leaf))
        except _AbsentError:
            return None
        return answer["certificateDescription"]

    def activate(self, leaf: x509.Certificate, thing: str, policy: str) -> None:
        """Thing, principal, policy, and only then ACTIVE: an active certificate without its policy is dropped.

        Raises:
            FaultError: `Fault.POLICY_MISSING` where AWS IoT has no such policy.
        """
        arn = (self.describe(leaf) or {}).get("certificateArn")
        if arn is None:
            raise FaultError(Fault.NOT_REGISTERED, f"certificate {certificate_id(leaf)} is gone again")
        with suppress(_ExistsError):
            self._call("create_thing", thingName=thing)
        self._call("attach_thing_principal", thingName=thing, principal=arn)
        try:
            self._call("attach_policy", policyName=policy, target=arn)
        except _AbsentError as error:
            raise FaultError(Fault.POLICY_MISSING, f"there is no policy {policy} in this account and region") from error
        self.update(leaf, CertificateStatus.ACTIVE)

    def update(self, leaf: x509.Certificate, status: CertificateStatus) -> None:
        """Set the status of a registered certificate (UpdateCertificate)."""
        self._call("update_certificate", certificateId=certificate_id(leaf), newStatus=status.value)

    def register_inactive(self, leaf: x509.Certificate, ca: x509.Certificate) -> None:
        """Register a certificate that never connected, so that it cannot be activated later (RegisterCertificate)."""
        self._call("register_certificate", certificatePem=_pem(leaf), caCertificatePem=_pem(ca), status="INACTIVE")

    def has_policy(self, leaf: x509.Certificate) -> bool:
        """Whether any policy is attached to the certificate."""
        found = self.describe(leaf) or {}
        if "certificateArn" not in found:
            return False
        return bool(self._call("list_attached_policies", target=found["certificateArn"])["policies"])

    def describe_ca(self, ca_certificate_id: str) -> Any:
        """The CA's description (DescribeCACertificate); None where this account and region do not know it."""
        try:
            return self._call("describe_ca_certificate", certificateId=ca_certificate_id)["certificateDescription"]
        except _AbsentError:
            return None

    def registration_code(self) -> str:
        """The code whose possession the verification certificate proves (GetRegistrationCode)."""
        return str(self._call("get_registration_code")["registrationCode"])

    def data_endpoint(self) -> str:
        """Where units connect (DescribeEndpoint, iot:Data-ATS; never the legacy iot:Data)."""
        return str(self._call("describe_endpoint", endpointType="iot:Data-ATS")["endpointAddress"])

    def register_ca(self, ca_pem: str, verification_pem: str) -> str:
        """Register the CA in DEFAULT mode, active, auto-registration on; returns its id. May be repeated.

        Raises:
            FaultError: `Fault.CA_NOT_CA`, or `Fault.REGISTRATION_REFUSED` with what AWS IoT has against it.
        """
        try:
            answer = self._call(
                "register_ca_certificate",
                caCertificate=ca_pem,
                verificationCertificate=verification_pem,
                setAsActive=True,
                allowAutoRegistration=True,
            )
        except _RefusedError as error:
            fault = Fault.CA_NOT_CA if "CA certificate is not valid" in str(error) else Fault.REGISTRATION_REFUSED
            raise FaultError(fault, str(error)) from error
        except _ExistsError:
            # By the DER's hash, as for every certificate; the message that carries it too is not a contract.
            known = certificate_id(x509.load_pem_x509_certificate(ca_pem.encode()))
            self._call(
                "update_ca_certificate",
                certificateId=known,
                newStatus="ACTIVE",
                newAutoRegistrationStatus="ENABLE",
            )
            return known
        found = str(answer["certificateId"])
        if not _CERTIFICATE_ID.fullmatch(found):
            raise FaultError(Fault.AWS_ERROR, f"AWS IoT gave the CA the id {found!r}")
        return found

    def _call(self, operation: str, **arguments: Any) -> Any:
        time.sleep(self._pace.reserve())
        call: Callable[..., Any] = getattr(self._client, operation)
        try:
            answer = call(**arguments)
        except aws.ClientError as error:
            raise self._refused(operation, error) from error
        except aws.BotoCoreError as error:
            raise _translated(operation, error) from error
        self._pace.accepted()
        return answer

    def _refused(self, operation: str, error: aws.ClientError) -> Exception:
        code = str(error.response.get("Error", {}).get("Code"))
        if code == "ResourceNotFoundException":
            return _AbsentError(str(error))
        if code in {"ResourceAlreadyExistsException", "CertificateConflictException"}:
            return _ExistsError(str(error))
        fault = _FAULTS.get(code, Fault.AWS_ERROR)
        if fault is Fault.THROTTLED:
            self._pace.throttled()
        if code in _REFUSALS:
            return _RefusedError(str(error))
        return FaultError(fault, f"{operation}: {error}")


class _AnswerError(FaultError):
    """What the callers above tell apart; a caller that does not sees `Fault.AWS_ERROR`."""

    def __init__(self, text: str) -> None:
        super().__init__(Fault.AWS_ERROR, text)


class _AbsentError(_AnswerError):
    """AWS IoT knows no such thing."""


class _ExistsError(_AnswerError):
    """It is there already."""


class _RefusedError(_AnswerError):
    """AWS IoT has something against what it was given."""


def _translated(operation: str, error: aws.BotoCoreError) -> FaultError:
    match error:
        case aws.NoCredentialsError() | aws.PartialCredentialsError() | aws.CredentialRetrievalError():
            return FaultError(Fault.AWS_DENIED, f"{operation}: {error}")
        case aws.HTTPClientError() | aws.EndpointConnectionError() | aws.ConnectionClosedError():
            return FaultError(Fault.CLOUD_UNREACHABLE, f"{operation}: {error}")
    return FaultError(Fault.AWS_ERROR, f"{operation}: {type(error).__name__}: {error}")


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")
