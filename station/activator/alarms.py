"""Certificates that wait to be activated and must not be: on record, then told."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

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
    """Alarms, a JSON line each, on disk before they are told; each certificate once."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._known = {alarm["certificate_id"] for alarm in self.read()}

    def read(self) -> list[dict[str, str]]:
        """Every alarm so far, oldest first; a line that a cut left half is left out."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise FaultError(Fault.CONFIG, f"{self._path} cannot be read: {error.strerror}") from error
        found = []
        for line in lines:
            try:
                alarm = json.loads(line)
            except ValueError:
                continue
            if isinstance(alarm, dict) and "certificate_id" in alarm:
                found.append(alarm)
        return found

    def raise_(self, alarm: Alarm) -> None:
        """Write, sync, then tell."""
        with self._lock:
            if alarm.certificate_id in self._known:
                return
            line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(alarm)}) + "\n"
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                log.error("an alarm is not on record", detail=str(error))  # noqa: TRY400 - the detail says it
            else:
                self._known.add(alarm.certificate_id)
        log.error("a certificate must not be activated", fault=Fault.STRANGER.code, **asdict(alarm))
