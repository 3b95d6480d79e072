"""The token's PIN: where it is, who may read it (the token's child alone), and the latch after a wrong one.

Tokens lock after a few wrong PINs, and a daemon that restarts would burn them all. So the first wrong one writes a
file, and while that is there nobody logs in.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from station.faults import Fault, FaultError
from station.hsm.uri import KeyUri

_MAX_PIN: Final = 256


@dataclass(frozen=True, slots=True)
class PinSource:
    """A systemd credential's name (systemd.exec(5), LoadCredential=), or a file that only its owner may read."""

    credential: str | None = None
    file: Path | None = None

    def read(self) -> str:
        """The PIN. Only the token's child calls this.

        Raises:
            FaultError: `Fault.CONFIG` where it is missing, empty, too long, or where others may read it.
        """
        path = self._path()
        try:
            with path.open("rb") as file:
                # systemd guards its own folder
                refuse_open_files(path, os.fstat(file.fileno()), "the PIN", guarded=self.file is None)
                raw = file.read(_MAX_PIN + 2)
        except OSError as error:
            raise FaultError(Fault.CONFIG, f"the PIN cannot be read from {path}: {error.strerror}") from error
        raw = raw.removesuffix(b"\n")
        try:
            pin = raw.decode("utf-8")
        except UnicodeDecodeError:
            # Not chained: the exception holds the bytes.
            raise FaultError(Fault.CONFIG, f"the PIN in {path} is not UTF-8 text") from None
        if not 0 < len(raw) <= _MAX_PIN or not pin.isprintable():
            raise FaultError(Fault.CONFIG, f"{path} should hold the PIN alone, one line of 1 to {_MAX_PIN} bytes")
        return pin

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


class PinLatch:
    """The file that says: the last PIN was wrong, do not try again. One for each token and key."""

    def __init__(self, folder: Path, key: KeyUri) -> None:
        # By token, not by key: all keys of a token share the PIN and its tries.
        name = hashlib.sha256(f"{key.module_path}\0{key.token}\0{key.serial}".encode()).hexdigest()[:16]
        self._file = folder / f"{name}.latched"
        self._staging = folder / f".{name}.{os.getpid()}"
        self._token = key.token

    def check(self) -> None:
        """Raise `Fault.HSM_PIN` while the latch is there."""
        if self._file.exists():
            raise FaultError(
                Fault.HSM_PIN,
                f"token {self._token}: the last PIN was wrong and no further try is made ({self._file});"
                " correct it, then run: station hsm clear-pin",
            )

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Log in within this: the latch's file is written already, and `set` only renames it.

        Otherwise a full disk, or a folder that root made, would have every restart burn a try.

        Raises:
            FaultError: `Fault.CONFIG` where the latch could not be set; nobody logs in then.
        """
        try:
            self._write()
        except OSError as error:
            raise FaultError(
                Fault.CONFIG,
                f"no login without a place to note a wrong PIN: {self._file.parent}: {error.strerror}",
            ) from error
        try:
            yield
        finally:
            self._staging.unlink(missing_ok=True)

    def set(self, why: str) -> None:
        """Latch, on disk before this returns."""
        if not self._staging.exists():
            self._write()
        # The name is what counts, and needs no space; the reason is for people, and may be lost with a full disk.
        self._staging.rename(self._file)
        folder = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        with suppress(OSError):
            self._file.write_text(f"{why}\n")

    def clear(self) -> None:
        """Allow one try again: a person says that the PIN is right now."""
        self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, b"the last PIN was wrong\n")
            os.fsync(handle)
        finally:
            os.close(handle)
