"""The token's PIN: where it is, who may read it (the token's child alone), and the latch after a wrong one.

Tokens lock after a few wrong PINs, and a daemon that restarts would burn them all. So the first wrong one writes a
file, and while that is there nobody logs in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from station import disk
from station.faults import Fault, FaultError
from station.hsm.uri import KeyUri
from station.secret import SecretSource


class PinSource(SecretSource):
    """Where the PIN is. Only the token's child reads it."""

    __slots__ = ()
    what = "PIN"


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
        disk.sync(self._file.parent)
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
