"""Brings reports to who wants them. What is to be delivered stands on disk before it is tried, and until it is done.

A report never waits for its delivery: it lies in its folder, and beside it `delivery.json` says for each destination
whether it has it. What a destination does not take is tried again with the next report, for ever.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from station import disk
from station.config.report import Bucket as S3Bucket
from station.config.report import Report as Settings
from station.faults import Fault, FaultError
from station.yields import mail
from station.yields.files import STATE
from station.yields.findings import Undelivered

_TRIES: Final = 3
_PAUSE_S: Final = 2.0
_UPLOAD_S: Final = 30.0

Tell = Callable[[str], None]


def destinations(settings: Settings) -> list[str]:
    """Everybody who is to have the report: a name each."""
    people = [f"mail {to}" for to in settings.mail.to] if settings.mail else []
    return people + ([f"s3 {settings.s3.bucket}"] if settings.s3 else [])


def enlist(report: Path, settings: Settings, subject: str, text: str) -> None:
    """Put on disk who is to have this report, before anything is sent. Who has it already stays so.

    Raises:
        FaultError: `Fault.REPORT_UNWRITTEN`.
    """
    state = _read(report)
    waiting = state.setdefault("to", {})
    for name in destinations(settings):
        waiting.setdefault(name, {"done_at": None, "fault": "", "detail": ""})
    state.setdefault("subject", subject)
    state.setdefault("text", text)
    state.setdefault("made_at", datetime.now(UTC).isoformat())
    _write(report, state)


def enlisted(report: Path) -> bool:
    """Whether this report is made, and who is to have it is on disk."""
    return (report / STATE).exists()


def undelivered(folder: Path, settings: Settings) -> list[Undelivered]:
    """What waits, oldest report first, as far as the settings still name who it is for."""
    wanted = destinations(settings)
    return [
        Undelivered(report.name, name, f"{entry['fault']} {entry['detail']}".strip() or "not tried yet")
        for report, state in _reports(folder)
        for name, entry in state.get("to", {}).items()
        if not entry["done_at"] and name in wanted
    ]


def deliver(
    folder: Path, settings: Settings, tell: Tell, *, pause: Callable[[float], None] = time.sleep
) -> list[Undelivered]:
    """Try everything that waits, each up to three times; return what waits still.

    Raises:
        FaultError: `Fault.REPORT_UNWRITTEN` where what was delivered cannot be put on record.
    """
    wanted = destinations(settings)
    for report, state in _reports(folder):
        for name, entry in state.get("to", {}).items():
            if entry["done_at"] or name not in wanted:
                continue
            _try(report, state, name, settings, pause)
            tell(f"{report.name}: {name}: {'delivered' if entry['done_at'] else entry['detail']}")
    return undelivered(folder, settings)


def _try(report: Path, state: dict[str, Any], name: str, settings: Settings, pause: Callable[[float], None]) -> None:
    entry = state["to"][name]
    for attempt in range(_TRIES):
        if attempt:
            pause(_PAUSE_S * attempt)
        try:
            _send(report, state, name, settings)
        except FaultError as error:
            entry.update(fault=error.fault.code, detail=error.detail)
            if error.fault in {Fault.CONFIG, Fault.STORE_DIFFERS}:
                break  # no waiting mends that
        else:
            entry.update(done_at=datetime.now(UTC).isoformat(), fault="", detail="")
            break
    _write(report, state)


def _send(report: Path, state: Mapping[str, Any], name: str, settings: Settings) -> None:
    kind, _, to = name.partition(" ")
    if kind == "mail" and settings.mail is not None:
        made_at = datetime.fromisoformat(state["made_at"])
        mail.send(settings.mail, to, state["subject"], state["text"], report, made_at)
    elif settings.s3 is not None:
        _store(report, settings.s3)


def _store(report: Path, s3: S3Bucket) -> None:
    """Put the whole report into the bucket; a file that is there already from a try before stays as it is."""
    from station.aws.bucket import Bucket  # noqa: PLC0415 - slow to load

    try:
        bucket = Bucket(s3.region, s3.bucket, api_url=s3.simulator, timeout_s=_UPLOAD_S)
        for file in sorted(report.rglob("*")):
            if file.is_file() and file.name != STATE:
                bucket.put(f"{s3.prefix}{report.name}/{file.relative_to(report)}", file.read_bytes())
    except FaultError as error:
        if error.fault is Fault.STORE_DIFFERS:
            raise
        raise FaultError(Fault.STORE_FAILED, f"s3://{s3.bucket}: {error.detail}") from error
    except OSError as error:
        raise FaultError(Fault.STORE_FAILED, f"{report}: {error.strerror}") from error


def _reports(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(folder.glob(f"[!.]*/{STATE}")):
        yield file.parent, _read(file.parent)


def _read(report: Path) -> dict[str, Any]:
    try:
        found = json.loads((report / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FaultError(Fault.REPORT_UNWRITTEN, f"{report / STATE} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _write(report: Path, state: Mapping[str, Any]) -> None:
    """Whole or not at all, and on the disk when this returns."""
    try:
        disk.put(report / STATE, json.dumps(state, ensure_ascii=False, indent=1).encode(), 0o644)
    except OSError as error:
        raise FaultError(Fault.REPORT_UNWRITTEN, f"{report}: {error.strerror}") from error
