"""Settings of a line of stations: where its PostgreSQL is, and how long a station works without it."""

from __future__ import annotations

import ipaddress
import math
import os
import stat
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from station.config.loader import FilePath, Strict
from station.faults import Fault, FaultError

_MAX_SECRET = 256
_ROLE = r"^[a-z_][a-z0-9_-]{0,62}$"


class Password(Strict):
    """Where a password is: in a systemd credential, or in a file that only its owner may read."""

    credential: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    file: FilePath | None = None

    @model_validator(mode="after")
    def _one(self) -> Password:
        if (self.credential is None) == (self.file is None):
            raise ValueError("should name one of `credential` and `file`")
        return self

    def read(self) -> str:
        """The password.

        Raises:
            FaultError: `Fault.CONFIG` where it is missing, empty, too long, or where others may read it.
        """
        if self.file is not None:
            return read_password(self.file)
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise FaultError(
                Fault.CONFIG, f"the credential {self.credential} needs systemd (LoadCredential=); else name a file"
            )
        return read_password(Path(folder) / (self.credential or ""))


def read_password(path: Path) -> str:
    """One line of a file that only its owner may read. Raises `Fault.CONFIG` where it is not that."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_MAX_SECRET + 2).removesuffix(b"\n")
    except OSError as error:
        raise FaultError(Fault.CONFIG, f"the password cannot be read from {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise FaultError(Fault.CONFIG, f"{path} holds a password and is open to others; run: chmod 0600 {path}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        # Not chained: the exception holds the bytes.
        raise FaultError(Fault.CONFIG, f"the password in {path} is not UTF-8 text") from None
    if not 0 < len(raw) <= _MAX_SECRET or not text.isprintable():
        raise FaultError(Fault.CONFIG, f"{path} should hold the password alone, one line of 1 to {_MAX_SECRET} bytes")
    return text


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
