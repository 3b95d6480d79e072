"""Where lines lie between station and provider: the latest of each certificate, found by its id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from station import disk
from station.faults import Fault, FaultError
from station.feed.lines import MAX_LINE


class Shelf(Protocol):
    """A place for lines. Every method may raise `FaultError`, and only that."""

    def put(self, certificate_id: str, line: bytes) -> None:
        """Lay a line down in place of the one before; it is there to stay when this returns."""

    def prove(self) -> str:
        """See that a line could be laid down now, and lay none down; returns where."""

    def get(self, certificate_id: str) -> bytes | None:
        """The latest line, at most one byte more than a line may have; None where there is none."""


class FolderShelf:
    """A file a certificate, in a folder for each of 256 first bytes: ``ab/abcd....jsonl``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, certificate_id: str, line: bytes) -> None:
        """Put a file in one step: after a loss of power there is the old line or the new one."""
        file = self._file(certificate_id)
        try:
            file.parent.mkdir(exist_ok=True)
            disk.put(file, line, 0o644)
        except OSError as error:
            raise FaultError(Fault.FEED_DOWN, f"the feed's folder {self._folder}: {error.strerror}") from error

    def prove(self) -> str:
        """The folder is there, and this user may write it."""
        if not self._folder.is_dir() or not os.access(self._folder, os.W_OK | os.X_OK):
            found = "may not be written" if self._folder.is_dir() else "is not there"
            raise FaultError(Fault.FEED_DOWN, f"the feed's folder {self._folder} {found}")
        return f"the feed's folder {self._folder} may be written"

    def get(self, certificate_id: str) -> bytes | None:
        """Read the file, as far as a line may go."""
        try:
            with self._file(certificate_id).open("rb") as file:
                return file.read(MAX_LINE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FaultError(Fault.FEED_DOWN, f"the feed's folder {self._folder}: {error.strerror}") from error

    def forget(self, before: float) -> None:
        """Remove the lines that were laid down before a ``time.time()``; while nobody lays any down."""
        try:
            for file in self._folder.glob("??/*.jsonl"):
                if file.stat().st_mtime < before:
                    file.unlink()
        except OSError as error:
            raise FaultError(Fault.FEED_DOWN, f"the feed's folder {self._folder}: {error.strerror}") from error

    def _file(self, certificate_id: str) -> Path:
        return self._folder / certificate_id[:2] / f"{certificate_id}.jsonl"
