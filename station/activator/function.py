"""The activator as an AWS Lambda function: for the provider who keeps no machine for it.

AWS IoT's rule calls it with each event, EventBridge every few minutes with none: then it looks through what waits. It
reads the sealed feed from the bucket, and the seals that it believes from beside itself (``seals/*.pem`` in its zip).
Few imports: its start is in the way of a unit on the line. Settings are environment variables:

``CA_CERTIFICATE_ID``, ``POLICY``, ``THING_TYPE`` (none), ``BUCKET``, ``PREFIX`` (``feed/``), ``WAIT_S`` (how long an
event waits for the feed's line, 10), ``GRACE_S`` (how long a certificate may wait before it is an alarm, 120),
``LOOK_BACK_H`` (48).
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

from station.activator.decide import Activator, Verdict
from station.aws.calls import CALLS_PER_S
from station.aws.registry import Grant, Registered, Registry
from station.aws.shelf import S3Shelf
from station.faults import Fault, FaultError
from station.feed.register import FeedRegister, load_seals
from station.model import CertificateStatus

# AWS's quotas are the account's: the two of the template (ReservedConcurrentExecutions), one that works off a storm and
# one that is free for the line, share what one daemon may call.
INSTANCES: Final = 2
PER_S: Final = CALLS_PER_S / INSTANCES
_AGAIN_S: Final = 0.5
_SPARE_MS: Final = 10_000  # a pass ends so long before Lambda would end it


@cache
def _activator() -> Activator:
    """Made once a process: Lambda keeps it warm for the next event."""
    environment = os.environ
    api_url = environment.get("API_URL")  # the simulator's, in the tests
    region = environment["AWS_REGION"]
    seals = load_seals(sorted((Path(environment["LAMBDA_TASK_ROOT"]) / "seals").glob("*.pem")))
    shelf = S3Shelf(environment["BUCKET"], environment.get("PREFIX", "feed/"), region, api_url=api_url)
    registry = Registry(region, api_url=api_url, per_s=PER_S)
    grant = Grant(environment["POLICY"], environment.get("THING_TYPE") or None)
    return Activator(registry, FeedRegister(shelf, seals), environment["CA_CERTIFICATE_ID"], grant)


def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """Lambda's entry. Returns how many certificates came to which end.

    Raises:
        FaultError: what AWS had against it; Lambda then calls again for the same event, and its error alarm tells.
    """
    activator = _activator()
    if "certificateId" in event:
        verdict = _one(activator, str(event["certificateId"]), str(event.get("sourceIp")), _age_s(event))
        return {verdict.value: 1}
    return _pass(activator, context)


def _age_s(event: dict[str, Any]) -> float:
    """Seconds since the connection that AWS IoT tells of (``timestamp``, in ms); 0 where it does not say."""
    at = event.get("timestamp")
    return max(0.0, time.time() - at / 1000) if isinstance(at, int | float) else 0.0


def _one(activator: Activator, certificate_id: str, source_ip: str, age_s: float) -> Verdict:
    """An event: the feed's line may be a moment behind it. Who is still unknown then is left to the next pass.

    It is waited for until the event is ``WAIT_S`` old. In a storm events are older than that when their turn comes, and
    nobody waits: a thousand strangers must not keep the line's units out.
    """
    until = time.monotonic() + float(os.environ.get("WAIT_S", "10")) - age_s
    while True:
        verdict = activator.consider(certificate_id)
        if not verdict.may_change or time.monotonic() >= until:
            _tell(certificate_id, verdict, source_ip)
            return verdict
        time.sleep(_AGAIN_S)


def _pass(activator: Activator, context: Any) -> dict[str, int]:
    """Everything that waits, newest first; what waited past the grace and must not be activated is an alarm.

    What could not be asked about is not in the others' way: it is told, and raised when all were looked at.
    """
    failure: FaultError | None = None
    now, counts = datetime.now(UTC), dict.fromkeys(Verdict, 0)
    oldest = now - timedelta(hours=float(os.environ.get("LOOK_BACK_H", "48")))
    grace = timedelta(seconds=float(os.environ.get("GRACE_S", "120")))
    for found in activator.registry.certificates(activator.ca_certificate_id):
        if context.get_remaining_time_in_millis() < _SPARE_MS or (found.since is not None and found.since < oldest):
            break
        if found.status is CertificateStatus.PENDING_ACTIVATION:
            try:
                verdict = activator.consider(found.id)
            except FaultError as error:
                failure = error
                print(json.dumps({"certificate_id": found.id, "fault": error.fault.code, "detail": error.detail}))  # noqa: T201 - Lambda's log
                continue
            counts[verdict] += 1
            if not verdict.alarming or _waited(found, now) > grace:
                _tell(found.id, verdict, "", alarm=verdict.alarming)
    if failure is not None:
        raise failure
    return {verdict.value: count for verdict, count in counts.items() if count}


def _waited(found: Registered, now: datetime) -> timedelta:
    return now - found.since if found.since is not None else timedelta.max


def _tell(certificate_id: str, verdict: Verdict, source_ip: str, *, alarm: bool = False) -> None:
    """One JSON object a line; the template's metric filter counts those with ``alarm``."""
    line = {"certificate_id": certificate_id, "verdict": verdict.value, "source_ip": source_ip[:45], "alarm": alarm}
    if alarm:
        line["fault"] = Fault.STRANGER.code
    print(json.dumps(line))  # noqa: T201 - Lambda's log is standard output
