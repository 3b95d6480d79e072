"""Ports as links in a folder: what simulators use, and jigs whose links somebody else makes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from inotify_simple import INotify, flags

from station.faults import Fault, FaultError
from station.jig.presence import Mark

# A link's target may go without any news in the link's folder, as a pty does when its owner dies.
_TARGET_S: Final = 0.1
_NEWS: Final = (
    flags.CREATE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE | flags.DELETE_SELF | flags.MOVE_SELF | flags.ATTRIB
)


class Link:
    """A place named by a path: a board is in it while the path resolves to something."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found = False

    def find(self) -> Mark | None:
        """The real path, device number and inode behind the link, and when it was made; None while it leads nowhere.

        The last of them tells a board from the next one at the same pty where nobody saw the link away.
        """
        try:
            real = os.path.realpath(self.path)
            made = os.lstat(self.path).st_ctime_ns
            found = os.stat(real)  # noqa: PTH116 - 16 slots are looked at ten times a second; a Path costs more than the call
        except OSError:
            self._found = False
            return None
        self._found = True
        return (real, found.st_rdev, found.st_ino, made)

    def again_s(self) -> float | None:
        """Soon, where something is there that may vanish silently."""
        return _TARGET_S if self._found else None

    def port(self) -> str:
        """The link itself."""
        return str(self.path)

    def here(self) -> bool:
        """Whether something is there now."""
        return self._found


class LinkFolders:
    """News (inotify) of the folders that hold links. A folder may come later, as udev's do with the first device.

    Raises:
        FaultError: `Fault.JIG_BLIND` where the kernel gives no watch.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._folders = {path.parent for path in paths}
        try:
            self._inotify = INotify(nonblocking=True)
            self._arm()
        except OSError as error:
            raise FaultError(Fault.JIG_BLIND, f"no inotify watch: {error.strerror}; see inotify(7), limits") from error

    def fileno(self) -> int:
        """To wait on."""
        fd: int = self._inotify.fileno()
        return fd

    def read(self) -> None:
        """Take the news. What they say does not matter: whoever asks a link looks at the link."""
        with contextlib.suppress(BlockingIOError):
            self._inotify.read(timeout=0)
        self._arm()

    def reconcile(self) -> None:
        """Watch folders that came by themselves."""
        self._arm()

    def look(self) -> float | None:
        """Nothing is ever due."""
        return None

    def close(self) -> None:
        """Give the watches back."""
        self._inotify.close()

    def _arm(self) -> None:
        """Watch each folder, or the nearest above it that exists. To watch one again changes nothing."""
        for folder in self._folders:
            for there in (folder, *folder.parents):
                try:
                    self._inotify.add_watch(there, _NEWS)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                break
