"""Files that are whole and on the disk, or not there: what every record of the station is written by."""

from __future__ import annotations

import os
from pathlib import Path


def put(path: Path, content: bytes, mode: int = 0o640) -> None:
    """Write ``content`` to ``path`` in one step: after a loss of power there is the old file or the new one.

    ``mode`` is the new file's, less the umask; the staging file beside it (``.NAME.new``) is nobody else's.

    Raises:
        OSError: it cannot be written; the old file, if there was one, is untouched.
    """
    staging = path.with_name(f".{path.name}.new")
    try:
        # What a loss of power left may be read-only, or a link to elsewhere.
        staging.unlink(missing_ok=True)
        handle = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        staging.replace(path)
    except OSError:
        staging.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Put a file's content, or a folder's names, on the disk (fsync(2)). Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
