"""Where a secret is, as settings name it: never the secret itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from station.config.loader import FilePath, Strict
from station.secret import SecretSource


class SecretPlace(Strict):
    """In a systemd credential, or in a file that only its owner may read."""

    credential: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    file: FilePath | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.credential is None) == (self.file is None):
            raise ValueError("should name one of `credential` and `file`")
        return self


class _Source(SecretSource):
    __slots__ = ()
    what = "password"


class Password(SecretPlace):
    """Where a server's password is."""

    def read(self) -> str:
        """The password. Raises as `SecretSource.read`."""
        return _Source(self.credential, self.file).read()


def read_password(path: Path) -> str:
    """The one line of a file that only its owner may read. Raises as `SecretSource.read`."""
    return _Source(file=path).read()
