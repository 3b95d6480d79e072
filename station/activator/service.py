"""The list of what waits to be activated, and the thread that works it off."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from station.activator.alarms import Alarm, AlarmBook
from station.activator.decide import CERTIFICATE_ID, Activator, Verdict
from station.aws.registry import Registered, Registry
from station.faults import FaultError
from station.model import CertificateStatus

_AGAIN_S: Final = (0.2, 0.4, 0.8, 1.6, 3.2)  # while the line may be about to say that it knows it; then the last
_FAULT_AGAIN_S: Final = (1.0, 5.0, 30.0)
_OVERLAP: Final = timedelta(hours=1)  # a quick poll looks back so far behind the one before
_REMEMBERED: Final = 100_000

log = structlog.get_logger()


@dataclass(slots=True)
class _Work:
    """One certificate on the list: when it was first heard of, and how often it was looked at."""

    certificate_id: str
    first: float
    since: str
    source_ip: str = ""
    looks: int = 0
    faults: int = 0


class Service:
    """The list of what waits, and the one thread that works it off: the newest event first, then what a poll found.

    AWS's throttles are kept by the registry's pace, for all calls together. What the line does not know yet is looked
    at again for ``grace_s``; only then it is an alarm. What cannot be asked about is asked
    about again for ever, or ``tries`` times: `failure` is then why.
    """

    def __init__(
        self,
        activator: Activator,
        alarms: AlarmBook,
        *,
        grace_s: float,
        tries: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._activator, self._alarms, self._grace_s, self._clock = activator, alarms, grace_s, clock
        self._due: list[tuple[float, int, str]] = []
        self._work: dict[str, _Work] = {}
        self._ended: dict[str, Verdict] = {}
        self._places = 0
        self._changed = threading.Condition()
        self._tries = tries
        self.counts: dict[Verdict, int] = dict.fromkeys(Verdict, 0)
        self.failure: FaultError | None = None

    def heard(self, certificate_id: str, source_ip: str = "") -> None:
        """An event of AWS IoT: a certificate of our CA was registered, or asked to be let in while it is pending."""
        if CERTIFICATE_ID.fullmatch(certificate_id):
            self._add(_Work(certificate_id, self._clock(), _now(), source_ip), urgent=True)

    def listed(self, found: Registered) -> None:
        """A poll found it PENDING_ACTIVATION."""
        since = found.since.astimezone(UTC).isoformat(timespec="seconds") if found.since else _now()
        self._add(_Work(found.id, self._clock(), since), urgent=False)

    def waiting(self) -> int:
        """How many are on the list."""
        with self._changed:
            return len(self._work)

    def _add(self, work: _Work, *, urgent: bool) -> None:
        with self._changed:
            name = work.certificate_id
            if name in self._work or (self._ended.get(name) is Verdict.ACTIVATED and not urgent):
                return
            if len(self._work) >= _REMEMBERED:
                return  # the next poll finds it
            self._work[name] = work
            self._push(work, 0.0 if urgent else self._clock())

    def _push(self, work: _Work, due: float) -> None:
        self._places += 1
        heapq.heappush(self._due, (due, self._places, work.certificate_id))
        self._changed.notify()

    def step(self, wait_s: float) -> bool:
        """Work off the next that is due, waiting for it at most ``wait_s``; False where none was."""
        with self._changed:
            if not self._due or self._due[0][0] > self._clock():
                left = min(wait_s, self._due[0][0] - self._clock()) if self._due else wait_s
                self._changed.wait(max(0.0, left))
            if not self._due or self._due[0][0] > self._clock():
                return False
            work = self._work[heapq.heappop(self._due)[2]]
        self._look(work)
        return True

    def _look(self, work: _Work) -> None:
        try:
            verdict = self._activator.consider(work.certificate_id)
        except FaultError as error:
            log.warning(
                "a certificate waits on", certificate=work.certificate_id, fault=error.fault.code, detail=error.detail
            )
            work.faults += 1
            if work.faults == self._tries:
                self._give_up(work, error)
            else:
                self._again(work, _FAULT_AGAIN_S)
            return
        if verdict.may_change and self._clock() - work.first < self._grace_s:
            self._again(work, _AGAIN_S)
            return
        self._end(work, verdict)

    def _again(self, work: _Work, pauses: tuple[float, ...]) -> None:
        with self._changed:
            pause = pauses[min(work.looks, len(pauses) - 1)]
            work.looks += 1
            self._push(work, self._clock() + pause)

    def _give_up(self, work: _Work, error: FaultError) -> None:
        with self._changed:
            del self._work[work.certificate_id]
            self.failure = error

    def _end(self, work: _Work, verdict: Verdict) -> None:
        if verdict.alarming:
            self._alarms.raise_(Alarm(work.certificate_id, verdict, work.since, work.source_ip))
        elif verdict is Verdict.ACTIVATED:
            log.info("a certificate is active", certificate=work.certificate_id)
        with self._changed:
            del self._work[work.certificate_id]
            self.counts[verdict] += 1
            self._ended[work.certificate_id] = verdict
            if len(self._ended) > _REMEMBERED:
                del self._ended[next(iter(self._ended))]


def poll(registry: Registry, ca_certificate_id: str, service: Service, *, back_to: datetime | None = None) -> int:
    """Put every pending certificate of the CA on the list, newest first, and return how many were looked through.

    AWS IoT lists the newest first, and what waits is mostly new: ``back_to`` ends the search there.
    """
    seen = 0
    for found in registry.certificates(ca_certificate_id):
        if back_to is not None and found.since is not None and found.since < back_to - _OVERLAP:
            break
        seen += 1
        if found.status is CertificateStatus.PENDING_ACTIVATION:
            service.listed(found)
    return seen


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
