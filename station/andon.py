"""Andon: what stops the whole line, and what lets it go on by itself.

A fault of the CA or the cloud is not one unit's: whoever is plugged in next would meet it too. So the first one of them
is a *doubt*. Nothing new begins while the part is tried. Where the trial succeeds, the fault was this one unit's (or is
over), and the line goes on after that blink; where it fails, the line stands, says whose move it is, and goes on by
itself once a trial succeeds. Boards that are plugged in meanwhile wait, and so do runs that would need the part.

What stops the line, by the trial that decides (and ends) it:

| faults | trial | why |
|---|---|---|
| every C fault | a signature | no unit gets a certificate; what a wrong PIN latched is not tried again by a trial |
| N401 unreachable, N402 untrusted, N403 silent | a registry call, and a handshake | the same for all |
| N406 CA unknown, N407 CA not taken | the CA's state in the registry, too | every first contact would be dropped |
| N420 throttled, N421 denied, N422 error | a registry call, and a handshake | the same for all |

What does not, since no trial without a unit can tell when it is over, or since it is one unit's: N404 chain incomplete
(the settings), N405 not registered, N409, N410, N413 (this certificate, this name), N408 not activated, N411 no policy,
N432 no thing type, N412, N414 (policies may depend on the unit's name). Where they are everybody's after all, three in
a row take a slot out of service.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import structlog

from station.faults import Blame, Fault, FaultError
from station.model import Step
from station.status import Andon, StatusBoard

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0

log = structlog.get_logger()


class Trial(StrEnum):
    """What shows that a part works."""

    SIGNATURE = "signature"
    REGISTRY = "registry"
    CA_REGISTERED = "ca registered"


_CLOUD: Final[Mapping[Fault, Trial]] = {
    Fault.CLOUD_UNREACHABLE: Trial.REGISTRY,
    Fault.CLOUD_UNTRUSTED: Trial.REGISTRY,
    Fault.CLOUD_SILENT: Trial.REGISTRY,
    Fault.CA_UNKNOWN_HERE: Trial.CA_REGISTERED,
    Fault.CA_NOT_ACCEPTING: Trial.CA_REGISTERED,
    Fault.THROTTLED: Trial.REGISTRY,
    Fault.AWS_DENIED: Trial.REGISTRY,
    Fault.AWS_ERROR: Trial.REGISTRY,
}


def trial_of(fault: Fault) -> Trial | None:
    """The trial that decides whether the whole line has this fault; None for what is never the line's."""
    return Trial.SIGNATURE if fault.blame is Blame.CA else _CLOUD.get(fault)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A fault that may be the line's. ``decided`` is set once that is known; ``of_line`` tells it then."""

    error: FaultError
    trial: Trial
    decided: threading.Event = field(default_factory=threading.Event)
    _verdict: list[bool] = field(default_factory=list)

    @property
    def of_line(self) -> bool:
        """Whether a trial has failed, too."""
        return self._verdict == [True]

    def decide(self, *, of_line: bool) -> None:
        """The first verdict stands."""
        if not self._verdict:
            self._verdict.append(of_line)
        self.decided.set()


class AndonCord(threading.Thread):
    """Whoever meets a fault pulls it; this thread tries the part and lets the line go on. Safe from any thread.

    Args:
        status: where it is told that the line stands, and why.
        trials: each returns where its part works, and raises `FaultError` where it does not.
    """

    def __init__(self, status: StatusBoard, trials: Mapping[Trial, Callable[[], None]]) -> None:
        super().__init__(name="andon")
        self._status, self._trials = status, trials
        self._changed = threading.Condition()
        self._doubts: list[Doubt] = []
        self._over = False

    def pull(self, error: FaultError) -> Doubt | None:
        """Tell of a fault that a run ended in. Returns at once; None where it is no matter of the line's."""
        trial = trial_of(error.fault)
        if trial is None:
            return None
        doubt = Doubt(error, trial)
        with self._changed:
            self._doubts.append(doubt)
            self._changed.notify_all()
        return doubt

    def holds(self, step: Step | None = None) -> bool:
        """Whether a run must not begin (no step), or must not begin this step of its.

        A run that is on its way goes on as far as it needs no part that is in doubt.
        """
        doubts = self._doubts
        if not doubts or step is None:
            return bool(doubts)
        if step is Step.CONNECT:
            return any(doubt.trial is not Trial.SIGNATURE for doubt in doubts)
        # With the cloud away a certificate would be made only to be taken out of service again.
        return step is Step.ISSUE

    def stop(self) -> None:
        """End after the trial at hand."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self.join()

    def run(self) -> None:
        """Decide doubt after doubt, until `stop`."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or bool(self._doubts))
                if self._over:
                    return
                trial = self._doubts[0].trial
            failed = self._failed(trial)
            if failed:
                self._stand(trial, failed)
            self._settle(trial)

    def _stand(self, trial: Trial, why: FaultError) -> None:
        """The line stands until the trial succeeds or the station stops."""
        first = self._doubts[0].error
        log.error("the line stands", fault=first.fault.code, detail=first.detail, trial=trial.value, says=str(why))
        andon = Andon(why.fault, why.fault.blame, why.detail)
        pause = _FIRST_PAUSE_S
        failed: FaultError | None = why
        while failed is not None:
            andon = replace(andon, fault=failed.fault, blame=failed.fault.blame, detail=failed.detail)
            for doubt in self._doubts_of(trial):
                doubt.decide(of_line=True)
            self._status.post_andon(andon)
            with self._changed:
                if self._changed.wait_for(lambda: self._over, pause):
                    return
            pause = min(pause * 2, _LONGEST_PAUSE_S)
            andon = replace(andon, trials=andon.trials + 1)
            failed = self._failed(trial)
        log.info("the line goes on", trial=trial.value, trials=andon.trials)

    def _settle(self, trial: Trial) -> None:
        """The part works: whoever waited for it goes on. A doubt that came in the meantime is answered with it."""
        with self._changed:
            for doubt in self._doubts_of(trial):
                doubt.decide(of_line=False)
            self._doubts = [doubt for doubt in self._doubts if doubt.trial is not trial]
            others = bool(self._doubts)
        if not others:
            self._status.post_andon(None)

    def _doubts_of(self, trial: Trial) -> list[Doubt]:
        return [doubt for doubt in self._doubts if doubt.trial is trial]

    def _failed(self, trial: Trial) -> FaultError | None:
        try:
            self._trials[trial]()
        except FaultError as error:
            return error
        except Exception as error:  # a thread's top: what a trial raises unforeseen must not end the line's one way on
            log.exception("unexpected")
            return FaultError(Fault.UNEXPECTED, f"trial {trial.value}: {type(error).__name__}")
        return None
