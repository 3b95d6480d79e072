"""The provider's register over a feed: what trusted stations last said of a certificate."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from station.faults import Fault, FaultError
from station.feed.lines import FeedLine, opened
from station.feed.shelf import Shelf
from station.model import Standing, StandingState
from station.seal import seal_id

_REMEMBERED: Final = 100_000
_MAX_FILE: Final = 16_384

log = structlog.get_logger()


def load_seals(files: Iterable[Path]) -> dict[str, bytes]:
    """The public keys that are believed, by their id.

    Raises:
        FaultError: `Fault.CONFIG` where a file is missing; `Fault.SEAL_INVALID` where it holds no public key.
    """
    seals = {}
    for file in files:
        try:
            with file.open("rb") as opened_file:
                pem = opened_file.read(_MAX_FILE)
        except OSError as error:
            raise FaultError(Fault.CONFIG, f"the seal {file} cannot be read: {error.strerror}") from error
        seals[seal_id(pem)] = pem
    return seals


class FeedRegister:
    """`interfaces.Register` over a shelf. A line that is not valid is as good as none, and is told in the log.

    Who may write the shelf without having a seal can lay an older line in a newer one's place. Lines are numbered, so a
    reader that lives sees it; and what was permitted once expires: in minutes for a run at CONNECT.
    """

    def __init__(
        self, shelf: Shelf, seals: Mapping[str, bytes], clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._shelf, self._seals, self._clock = shelf, seals, clock
        self._seen: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def standing(self, certificate_id: str) -> Standing | None:
        """What the latest line says; EXPIRED where that has expired; None without a valid line."""
        raw = self._shelf.get(certificate_id)
        if raw is None:
            return None
        try:
            line = self.taken(raw, of=certificate_id)
        except FaultError as error:
            log.warning(
                "a line of the feed is refused",
                certificate=certificate_id,
                fault=error.fault.code,
                detail=error.detail,
            )
            return None
        if line.expires <= self._clock():
            return replace(line.standing, state=StandingState.EXPIRED)
        return line.standing

    def taken(self, raw: bytes, of: str | None = None) -> FeedLine:
        """A line that is valid, not older than one that was seen, and about the certificate ``of`` where that is told.

        Raises:
            FaultError: `Fault.FEED_REFUSED`.
        """
        line = opened(raw, self._seals, self._clock())
        key = (line.station, line.standing.certificate_id)
        if of not in {None, key[1]}:
            raise FaultError(Fault.FEED_REFUSED, f"a line about {key[1]} in another's place")
        with self._lock:
            if line.seq < self._seen.get(key, 0):
                text = f"line {line.seq} of {line.station} about {key[1]} came after line {self._seen[key]}"
                raise FaultError(Fault.FEED_REFUSED, text)
            self._seen.pop(key, None)
            self._seen[key] = line.seq
            if len(self._seen) > _REMEMBERED:
                del self._seen[next(iter(self._seen))]
        return line
