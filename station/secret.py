"""A secret's place: a systemd credential, or a file that only its owner may read. Never a settings file."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from station.faults import Fault, FaultError

_MOST: Final = 256


@dataclass(frozen=True, slots=True)
class SecretSource:
    """A systemd credential's name (systemd.exec(5), LoadCredential=), or a file that only its owner may read."""

    what: ClassVar[str] = "secret"

    credential: str | None = None
    file: Path | None = None

    def read(self) -> str:
        """The secret, one line of printable text.

        Raises:
            FaultError: `Fault.CONFIG` where it is missing, empty, over 256 bytes, or where others may read it.
        """
        path = self._path()
        try:
            with path.open("rb") as file:
                # systemd guards its own folder
                refuse_open_files(path, os.fstat(file.fileno()), f"the {self.what}", guarded=self.file is None)
                raw = file.read(_MOST + 2)
        except OSError as error:
            raise FaultError(Fault.CONFIG, f"the {self.what} cannot be read from {path}: {error.strerror}") from error
        raw = raw.removesuffix(b"\n")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            # Not chained: the exception holds the bytes.
            raise FaultError(Fault.CONFIG, f"the {self.what} in {path} is not UTF-8 text") from None
        if not 0 < len(raw) <= _MOST or not text.isprintable():
            raise FaultError(Fault.CONFIG, f"{path} should hold the {self.what} alone, one line of 1 to {_MOST} bytes")
        return text

    def _path(self) -> Path:
        if self.file is not None:
            return self.file
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise FaultError(
                Fault.CONFIG, f"the credential {self.credential} needs systemd (LoadCredential=); else name a file"
            )
        return Path(folder) / (self.credential or "")


def refuse_open_files(path: Path, found: os.stat_result, what: str, *, guarded: bool = False) -> None:
    """Refuse a secret's file that others may read.

    Raises:
        FaultError: `Fault.CONFIG`.
    """
    if not stat.S_ISREG(found.st_mode):
        raise FaultError(Fault.CONFIG, f"{what} should be in a plain file, which {path} is not")
    if not guarded and (found.st_mode & 0o077 or found.st_uid not in {os.geteuid(), 0}):
        raise FaultError(Fault.CONFIG, f"others may read {what}; next: chown and chmod 0600 {path}")
