"""Certificates that wait to be activated and must not be: on record, then told."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from station import disk
from station.activator.decide import Verdict
from station.faults import Fault, FaultError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Alarm:
    """A certificate that waits to be activated and must not be."""

    certificate_id: str
    verdict: Verdict
    since: str
    source_ip: str


class AlarmBook:
    """Alarms, a JSON line each, on disk before they are told; each certificate once. Seen ones are lines too."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._known = {line["certificate_id"] for line in self._lines()}

    def read(self) -> list[dict[str, str]]:
        """The alarms that nobody has seen to, oldest first."""
        found: dict[str, dict[str, str]] = {}
        for line in self._lines():
            if "seen_by" in line:
                found.pop(line["certificate_id"], None)
            else:
                found[line["certificate_id"]] = line
        return list(found.values())

    def raise_(self, alarm: Alarm) -> None:
        """Write, sync, then tell."""
        with self._lock:
            if alarm.certificate_id in self._known:
                return
            try:
                self._append(asdict(alarm))
            except OSError as error:
                log.error("an alarm is not on record", detail=str(error))  # noqa: TRY400 - the detail says it
            else:
                self._known.add(alarm.certificate_id)
        log.error("a certificate must not be activated", fault=Fault.STRANGER.code, **asdict(alarm))

    def seen(self, certificate_id: str, by: str) -> None:
        """Somebody saw to an alarm: it stays on record, and is no alarm any more.

        Raises:
            FaultError: `Fault.CONFIG` where there is no such alarm, or the file cannot be written.
        """
        if certificate_id not in {alarm["certificate_id"] for alarm in self.read()}:
            raise FaultError(Fault.CONFIG, f"there is no alarm about {certificate_id}; next: station activator alarms")
        try:
            self._append({"certificate_id": certificate_id, "seen_by": by})
        except OSError as error:
            raise FaultError(Fault.CONFIG, f"{self._path} cannot be written: {error.strerror}") from error

    def _append(self, said: dict[str, str]) -> None:
        """One line, on the disk; behind one that a loss of power left half, on a line of its own."""
        line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **said}) + "\n"
        with self._path.open("a+b") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                line = "\n" + line
            file.write(line.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        disk.sync(self._path.parent)

    def _lines(self) -> Iterator[dict[str, str]]:
        """Every line; one that was cut is left out."""
        try:
            with self._path.open(encoding="utf-8", errors="replace") as file:
                for text in file:
                    with suppress(ValueError):
                        line = json.loads(text)
                        if isinstance(line, dict) and "certificate_id" in line:
                            yield line
        except FileNotFoundError:
            return
        except OSError as error:
            raise FaultError(Fault.CONFIG, f"{self._path} cannot be read: {error.strerror}") from error
