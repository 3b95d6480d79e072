"""Settings of the token: where it is, its PIN, the CA's key in it and the station's own, which is the seal."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field

from station.config.loader import FilePath, Strict
from station.config.secrets import SecretPlace


def _key_uri(text: str) -> str:
    if not text.startswith("pkcs11:"):
        raise ValueError('should be an RFC 7512 URI: "pkcs11:token=...;object=...?module-path=/...so"')
    if "pin-value" in text:
        raise ValueError("must not hold a pin-value; name a 0600 `file` or a systemd `credential` under `pin`")
    return text


KeyUriText: TypeAlias = Annotated[str, Field(max_length=1024), AfterValidator(_key_uri)]


class Pin(SecretPlace):
    """Where the token's PIN is."""


class Hsm(Strict):
    """The token that holds the CA key."""

    key: KeyUriText
    pin: Pin
    processes: Annotated[int, Field(ge=1, le=8)] = 1
    timeout_s: Annotated[float, Field(ge=0.2, le=60)] = 5.0


class SealSettings(Strict):
    """The station's own signing key, in the CA key's token and behind the same PIN; and its public half, as PEM."""

    key: KeyUriText
    public: FilePath
