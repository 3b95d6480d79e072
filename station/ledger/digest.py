"""The SHA-256 beside a backup, as sha256sum(1) writes it: with it, every byte of the file counts, in a row or not."""

from __future__ import annotations

import hashlib
from pathlib import Path

from station import disk

_MAX = 4096


def beside(path: Path) -> Path:
    """Where a backup's digest is."""
    return path.with_name(f"{path.name}.sha256")


def lay(path: Path, content: Path) -> None:
    """Write what ``content`` (a file that will be called ``path``) has now. Raises OSError."""
    disk.put(beside(path), f"{_of(content)}  {path.name}\n".encode())


def differs(path: Path) -> bool:
    """Whether the file is another than its digest says; False where it has none. Raises OSError."""
    try:
        with beside(path).open("rb") as file:
            said = file.read(_MAX).split(b" ")[0]
    except FileNotFoundError:
        return False
    return _of(path).encode() != said


def _of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
