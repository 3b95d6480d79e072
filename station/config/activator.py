"""The provider's activator: one file, ``activator.yaml``. The provider may be another company than the line's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from station.config.feed import Shelf
from station.config.loader import FilePath, Name, Strict, read, validate
from station.config.settings import PolicyName, Simulator, ThingTypeName

CaId: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FeedRegisterSettings(Strict):
    """What stations tell, each line under the station's seal; ``seals`` are the public keys that are believed."""

    kind: Literal["feed"]
    at: Shelf
    seals: Annotated[tuple[FilePath, ...], Field(min_length=1, max_length=100)]


class LedgerRegisterSettings(Strict):
    """The ledger of the station on this very machine; it is only read."""

    kind: Literal["ledger"]
    path: FilePath


class PostgresRegisterSettings(Strict):
    """The line's PostgreSQL; ``url_file`` (0600) holds the one line of its URL, with a role that may only read."""

    kind: Literal["postgres"]
    url_file: FilePath


class EventSettings(Strict):
    """Where the events come from; the certificate is the activator's own, and its policy allows this topic alone."""

    endpoint: Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 8883
    client_id: Name = "station-activator"
    certificate: FilePath
    key_file: FilePath
    server_roots: FilePath


class ActivatorFile(Strict):
    """``activator.yaml``."""

    state: FilePath
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")]
    ca_certificate_id: CaId
    policy: PolicyName
    thing_type: ThingTypeName | None = None
    register_: Annotated[
        FeedRegisterSettings | LedgerRegisterSettings | PostgresRegisterSettings, Field(discriminator="kind")
    ] = Field(alias="register")
    events: EventSettings | None = None
    poll_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    full_poll_h: Annotated[float, Field(ge=0.01, le=720)] = 24.0
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    calls_per_s: Annotated[float, Field(ge=0.1, le=100)] = 7.0
    simulator: Simulator | None = None


def load_activator(path: Path) -> ActivatorFile:
    """Read ``activator.yaml``.

    Raises:
        ConfigError: with every mistake that was found.
    """
    return validate(read(path), ActivatorFile)
