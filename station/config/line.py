"""Settings of a line of stations: where its PostgreSQL is, and how long a station works without it."""

from __future__ import annotations

import ipaddress
import math
from typing import Annotated

from pydantic import Field, model_validator

from station.config.loader import FilePath, Strict
from station.config.secrets import Password

_ROLE = r"^[a-z_][a-z0-9_-]{0,62}$"


class LineSettings(Strict):
    """The PostgreSQL that the stations of a line share, and this station's login there."""

    host: Annotated[str, Field(pattern=r"^(/[^\x00-\x1f]{1,90}|[A-Za-z0-9.:-]{1,253})$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    database: Annotated[str, Field(pattern=_ROLE)] = "line"
    user: Annotated[str, Field(pattern=_ROLE)]
    password: Password
    server_roots: FilePath | None = None
    # What a station holds of each order, so that it works through an outage of the server or the network.
    outage_h: Annotated[float, Field(gt=0, le=720)] = 8.0
    units_per_h: Annotated[float, Field(gt=0, le=100_000)] = 60.0
    sync_s: Annotated[float, Field(ge=0.05, le=600)] = 5.0
    deadline_s: Annotated[float, Field(ge=0.5, le=120)] = 10.0

    @model_validator(mode="after")
    def _encrypted(self) -> LineSettings:
        if not self.is_here and self.server_roots is None:
            raise ValueError("needs `server_roots`: a server that is not this machine is reached over verified TLS")
        return self

    @property
    def is_here(self) -> bool:
        """Whether the server is this machine: a Unix socket's folder, or loopback."""
        if self.host.startswith("/") or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def block(self) -> int:
        """Units of an order that a station leases ahead of what it has built."""
        return max(1, math.ceil(self.outage_h * self.units_per_h))
