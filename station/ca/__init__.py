"""The CA: what the line asks of it, and how its own certificates are made."""

from station.ca.authorities import (
    authority_name,
    authority_request,
    issuing_certificate,
    self_signed_root,
    verification_certificate,
)
from station.ca.issuing import CertificateAuthority
from station.ca.signing import issuing_key, load_ca_certificate

__all__ = [
    "CertificateAuthority",
    "authority_name",
    "authority_request",
    "issuing_certificate",
    "issuing_key",
    "load_ca_certificate",
    "self_signed_root",
    "verification_certificate",
]
