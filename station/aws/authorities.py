"""CAs in AWS IoT's registry: registered, taken out of service, deleted. What only the provider's acts do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509

from station.aws.calls import AbsentError, ExistsError, RefusedError
from station.aws.registry import Registry
from station.faults import Fault, FaultError
from station.model import certificate_id

_PAGE: Final = 250  # the most that ListCertificatesByCA gives at once
_MAX_PAGES: Final = 40_000


@dataclass(frozen=True, slots=True)
class CaRecord:
    """A CA as the registry describes it."""

    id: str
    arn: str
    status: str
    auto_registration: str
    mode: str

    def __str__(self) -> str:
        """For a fault's detail."""
        return f"CA {self.id} is {self.status}, auto-registration {self.auto_registration}, mode {self.mode}"


class CaRegistry(Registry):
    """A `Registry` with the calls of the ceremony. Every call may be repeated."""

    def registration_code(self) -> str:
        """What the verification certificate is to be made out to (GetRegistrationCode)."""
        return str(self._calls("get_registration_code", "registrationCode"))

    def describe_ca(self, ca_certificate_id: str) -> CaRecord | None:
        """The CA as this account and region know it, or None (DescribeCACertificate)."""
        try:
            found = self._calls("describe_ca_certificate", "certificateDescription", certificateId=ca_certificate_id)
        except AbsentError:
            return None
        return CaRecord(
            ca_certificate_id,
            str(found.get("certificateArn")),
            str(found.get("status")),
            str(found.get("autoRegistrationStatus")),
            str(found.get("certificateMode")),
        )

    def register_ca(
        self,
        ca_pem: str,
        verification_pem: str | None,
        tags: Mapping[str, str] | None = None,
        template: tuple[str, str] | None = None,
    ) -> CaRecord:
        """Register the CA, active, auto-registration on (RegisterCACertificate).

        Args:
            ca_pem: the CA's certificate.
            verification_pem: the proof of possession, mode DEFAULT; None for mode SNI_ONLY.
            tags: of a registration that is made now.
            template: body and role's ARN of a provisioning template.

        Raises:
            FaultError: `Fault.CA_NOT_CA`, `Fault.CA_SUBJECT_FULL`, or `Fault.REGISTRATION_REFUSED` with what AWS IoT
                has against it.
        """
        # By the DER's hash, as for every certificate: a registration that was made before tells its id in prose only.
        name = certificate_id(x509.load_pem_x509_certificate(ca_pem.encode()))
        mode = "DEFAULT" if verification_pem else "SNI_ONLY"
        wanted: dict[str, Any] = {"certificateMode": mode}
        if verification_pem:
            wanted["verificationCertificate"] = verification_pem
        if tags:
            wanted["tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        if template:
            wanted["registrationConfig"] = {"templateBody": template[0], "roleArn": template[1]}
        try:
            self._calls(
                "register_ca_certificate",
                caCertificate=ca_pem,
                setAsActive=True,
                allowAutoRegistration=True,
                **wanted,
            )
        except RefusedError as error:
            raise FaultError(_refusal(error.detail), error.detail) from error
        except ExistsError as error:
            found = self._known(name, error.detail)
            if found.mode != mode:
                text = f"{found}; a CA has one mode, and {mode} needs it deleted first (act retire, delete: true)"
                raise FaultError(Fault.REGISTRATION_REFUSED, text) from error
            self._put_right(found, wanted)
        return self._known(name, "registered just now")

    def _put_right(self, found: CaRecord, wanted: Mapping[str, Any]) -> None:
        """What an earlier registration of the same CA says, made to what this one says."""
        self.switch_ca(found.id, on=True)
        if "tags" in wanted:
            self._calls("tag_resource", resourceArn=found.arn, tags=wanted["tags"])
        if "registrationConfig" in wanted:
            self._calls(
                "update_ca_certificate", certificateId=found.id, registrationConfig=wanted["registrationConfig"]
            )

    def _known(self, name: str, said: str) -> CaRecord:
        found = self.describe_ca(name)
        if found is None:
            raise FaultError(Fault.REGISTRATION_REFUSED, f"{said}, but AWS IoT knows no CA with the id {name}")
        return found

    def switch_ca(self, ca_certificate_id: str, *, on: bool) -> None:
        """ACTIVE with auto-registration, or INACTIVE without (UpdateCACertificate).

        Raises:
            FaultError: `Fault.CA_UNKNOWN_HERE`.
        """
        self.restore_ca(ca_certificate_id, *(("ACTIVE", "ENABLE") if on else ("INACTIVE", "DISABLE")))

    def restore_ca(self, ca_certificate_id: str, status: str, auto_registration: str) -> None:
        """Status and auto-registration as `describe_ca` told them (UpdateCACertificate).

        Raises:
            FaultError: `Fault.CA_UNKNOWN_HERE`.
        """
        try:
            self._calls(
                "update_ca_certificate",
                certificateId=ca_certificate_id,
                newStatus=status,
                newAutoRegistrationStatus=auto_registration,
            )
        except AbsentError as error:
            text = f"CA {ca_certificate_id} is not registered in this account and region"
            raise FaultError(Fault.CA_UNKNOWN_HERE, text) from error

    def delete_ca(self, ca_certificate_id: str) -> None:
        """Forget a CA, which is INACTIVE (DeleteCACertificate); its units' certificates stay."""
        with suppress(AbsentError):
            self._calls("delete_ca_certificate", certificateId=ca_certificate_id)

    def certificates_of(self, ca_certificate_id: str) -> Iterator[list[str]]:
        """The ids of all certificates that this CA's units registered, a page at a time (ListCertificatesByCA)."""
        marker: dict[str, str] = {}
        for _ in range(_MAX_PAGES):
            answer = self._calls(
                "list_certificates_by_ca",
                caCertificateId=ca_certificate_id,
                pageSize=_PAGE,
                ascendingOrder=True,
                **marker,
            )
            yield [str(one["certificateId"]) for one in answer.get("certificates", ())]
            if not answer.get("nextMarker"):
                return
            marker = {"marker": str(answer["nextMarker"])}


def _refusal(text: str) -> Fault:
    if "CA certificate is not valid" in text:
        return Fault.CA_NOT_CA
    return Fault.CA_SUBJECT_FULL if "LimitExceededException" in text else Fault.REGISTRATION_REFUSED
