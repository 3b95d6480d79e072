"""Calls to AWS's API: paced for all slots together, patient with what passes, every refusal one fault by table."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from botocore import exceptions as aws

from station.faults import Fault, FaultError

# DescribeCertificate, the one that is polled, allows 10 a second for the whole account (AWS IoT quotas); any second
# of ours holds at most 7 and the burst of 3.
CALLS_PER_S: Final = 7.0
_BURST_S: Final = 0.4
_SLOWEST_S: Final = 4.0
_PATIENCE_S: Final = 5.0

# Error codes of `iot` (botocore's service-2.json), of S3 (its API reference), and AWS's common errors.
# What is not here is `AWS_ERROR`.
_FAULTS: Final[Mapping[str, Fault]] = {
    "Throttling": Fault.THROTTLED,
    "ThrottlingException": Fault.THROTTLED,
    "ThrottledException": Fault.THROTTLED,
    "TooManyRequestsException": Fault.THROTTLED,
    "RequestLimitExceeded": Fault.THROTTLED,
    "SlowDown": Fault.THROTTLED,
    "AccessDenied": Fault.AWS_DENIED,
    "AccessDeniedException": Fault.AWS_DENIED,
    "UnauthorizedException": Fault.AWS_DENIED,
    "ForbiddenException": Fault.AWS_DENIED,
    "UnrecognizedClientException": Fault.AWS_DENIED,
    "InvalidClientTokenId": Fault.AWS_DENIED,
    "MissingAuthenticationTokenException": Fault.AWS_DENIED,
    "IncompleteSignatureException": Fault.AWS_DENIED,
    "InvalidSignatureException": Fault.AWS_DENIED,
    "SignatureDoesNotMatch": Fault.AWS_DENIED,
    "ExpiredToken": Fault.AWS_DENIED,
    "ExpiredTokenException": Fault.AWS_DENIED,
    "RequestExpired": Fault.AWS_DENIED,
}
# Their messages quote the request as it was signed, the session token with it.
_QUOTING: Final = frozenset({"InvalidSignatureException", "IncompleteSignatureException", "SignatureDoesNotMatch"})
_PASSING: Final = frozenset(
    {
        "InternalFailureException",
        "InternalFailure",
        "ServiceUnavailableException",
        "ConflictingResourceUpdateException",
        "ConditionalRequestConflict",
    }
)
_REFUSALS: Final = frozenset(
    {
        "BadDigest",
        "CertificateConflictException",
        "CertificateStateException",
        "CertificateValidationException",
        "InvalidRequestException",
        "LimitExceededException",
        "RegistrationCodeValidationException",
    }
)
_NO_CREDENTIALS: Final = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.ProfileNotFound,
    aws.ConfigParseError,
    aws.InvalidConfigError,
    aws.SSOError,
    aws.TokenRetrievalError,
)


class PassingError(FaultError):
    """It may be otherwise in a moment: throttled, not reachable, AWS's own trouble."""


class AnswerError(FaultError):
    """An answer that some callers expect; to all others it is `Fault.AWS_ERROR`."""

    def __init__(self, text: str) -> None:
        super().__init__(Fault.AWS_ERROR, text)


class AbsentError(AnswerError):
    """AWS IoT knows no such thing."""


class ExistsError(AnswerError):
    """It is there already."""


class RefusedError(AnswerError):
    """AWS IoT has something against what it was given."""


class Pauses:
    """Seconds to wait between tries: 50 ms first, then longer by half; with jitter, so that slots fall out of step."""

    def __init__(self, longest_s: float = 1.0) -> None:
        self._next, self._longest = 0.05, longest_s

    def __next__(self) -> float:
        pause, self._next = self._next, min(self._next * 1.5, self._longest)
        return pause * random.uniform(0.9, 1.1)  # noqa: S311 - not a secret


class Pace:
    """Spreads one operation's calls over time, for all threads, and slows all of them where AWS throttles one.

    No queue of polls is needed: each slot polls its own certificate, one call at a time, and only their sum can hit
    the account's quota.
    """

    def __init__(self, per_s: float = CALLS_PER_S) -> None:
        self._interval = 1 / per_s
        self._lock = threading.Lock()
        self._next = 0.0
        self._pause = 0.0

    def reserve(self) -> float:
        """Take the next place; returns the seconds until it comes."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now - _BURST_S)
            wait = max(0.0, self._next - now)
            self._next += self._interval
            return wait

    def throttled(self) -> None:
        """AWS throttled a call: everybody waits, twice as long each time."""
        with self._lock:
            self._pause = min(max(self._pause * 2, 0.25), _SLOWEST_S)
            self._next = max(self._next, time.monotonic() + self._pause)

    def accepted(self) -> None:
        """AWS took a call: the next throttle begins small again."""
        with self._lock:
            self._pause = 0.0


class Calls:
    """A boto3 client, used from any thread. Without `during`, each call is patient for some seconds."""

    def __init__(self, client: Any, per_s: float = CALLS_PER_S) -> None:
        self._client, self._per_s = client, per_s
        self._paces: dict[str, Pace] = {}
        self._deadline: float | None = None
        self._wait: Callable[[float], None] = time.sleep

    def during(self, deadline: float, wait: Callable[[float], None]) -> Calls:
        """The same client at the same pace, patient until a ``time.monotonic()``, waiting by ``wait``."""
        other = copy.copy(self)
        other._deadline, other._wait = deadline, wait  # noqa: SLF001 - a copy of its own
        return other

    def __call__(self, operation: str, *path: str, **arguments: Any) -> Any:
        """Call, and return what the answer holds at ``path``. Looks for the end of its wait between tries only.

        Raises:
            FaultError: `THROTTLED`, `AWS_DENIED`, `CLOUD_UNREACHABLE`, `AWS_ERROR`; of the last, an `AnswerError`.
        """
        deadline = time.monotonic() + _PATIENCE_S if self._deadline is None else self._deadline
        pauses = Pauses()
        while True:
            try:
                return _held(operation, self._once(operation, arguments), path)
            except PassingError:
                if time.monotonic() >= deadline:
                    raise
            self._wait(next(pauses))

    def _once(self, operation: str, arguments: dict[str, Any]) -> Any:
        from botocore.parsers import ResponseParserError  # noqa: PLC0415 - slow to load; the client did that

        pace = self._paces.setdefault(operation, Pace(self._per_s))
        self._wait(pace.reserve())
        call: Callable[..., Any] = getattr(self._client, operation)
        try:
            answer = call(**arguments)
        except aws.ClientError as error:
            translated = _refused(operation, error)
            if translated.fault is Fault.THROTTLED:
                pace.throttled()
            raise translated from error
        except (aws.BotoCoreError, ResponseParserError) as error:
            raise unanswered(operation, error) from error
        pace.accepted()
        return answer


def unanswered(operation: str, error: Exception) -> FaultError:
    """The fault of a call that no answer came to, or that could not be made."""
    match error:
        case aws.CredentialRetrievalError():  # its text is what some credential process printed
            return FaultError(Fault.AWS_DENIED, f"{operation}: the credentials could not be fetched")
        case _ if isinstance(error, _NO_CREDENTIALS):
            return FaultError(Fault.AWS_DENIED, f"{operation}: {error}")
        case aws.HTTPClientError() | aws.ConnectionError():
            return PassingError(Fault.CLOUD_UNREACHABLE, f"{operation}: {error}")
    return FaultError(Fault.AWS_ERROR, f"{operation}: {type(error).__name__}: {error}")


def _refused(operation: str, error: aws.ClientError) -> FaultError:
    code = str(error.response.get("Error", {}).get("Code"))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    fault, text = _FAULTS.get(code, Fault.AWS_ERROR), str(error)
    if code in _QUOTING:
        text = f"{operation}: {code}: a wrong secret key, or a wrong clock"
    if code in {"ResourceNotFoundException", "NoSuchKey"}:
        return AbsentError(text)
    if code in {"ResourceAlreadyExistsException", "PreconditionFailed"}:
        return ExistsError(text)
    if code in _REFUSALS:
        return RefusedError(text)
    if fault is Fault.THROTTLED or code in _PASSING or (fault is Fault.AWS_ERROR and status >= 500):
        return PassingError(fault, text)
    return FaultError(fault, text)


def _held(operation: str, answer: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        try:
            answer = answer[name]
        except (KeyError, TypeError) as error:
            raise FaultError(Fault.AWS_ERROR, f"{operation}: the answer holds no {name}") from error
    return answer
