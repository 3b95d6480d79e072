"""An S3 bucket to which is only added: what leaves the machine for good, a day's anchor and the reports."""

from __future__ import annotations

import mimetypes
from typing import Any, Final

from botocore.exceptions import BotoCoreError

from station.aws.calls import ExistsError, unanswered
from station.aws.clients import client
from station.faults import Fault, FaultError

_PUTS_PER_S: Final = 100.0  # S3 takes 3,500 a second ("Best practices design patterns" in its user guide)


class Bucket:
    """One bucket. Raises (each method) the faults of `station.aws.calls`."""

    def __init__(self, region: str, bucket: str, *, api_url: str | None = None, timeout_s: float = 5.0) -> None:
        self._calls = client("s3", region, api_url=api_url, per_s=_PUTS_PER_S, read_timeout_s=timeout_s)
        self._bucket = bucket

    def put(self, key: str, body: bytes) -> None:
        """Store ``body`` under ``key``, in one request that S3 holds against the SHA-256 that goes with it.

        Nothing is ever written over (If-None-Match, "Conditional writes" in the S3 user guide): a put whose answer was
        lost finds its own object there, and that is well.

        Raises:
            FaultError: `Fault.STORE_DIFFERS` where something else is under this key.
        """
        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        try:
            self._calls(
                "put_object",
                Bucket=self._bucket,
                Key=key,
                Body=body,
                ContentType=f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
                ChecksumAlgorithm="SHA256",
                IfNoneMatch="*",
            )
        except ExistsError:
            self._same(key, body)

    def _same(self, key: str, body: bytes) -> None:
        where = f"s3://{self._bucket}/{key}"
        try:
            stored: Any = self._calls("get_object", "Body", Bucket=self._bucket, Key=key)
        except FaultError as error:
            if error.fault is not Fault.AWS_DENIED:
                raise
            text = f"{where} is there already, and only s3:GetObject would tell whether it is the same"
            raise FaultError(Fault.AWS_DENIED, text) from error
        with stored:
            try:
                found = stored.read(len(body) + 1)
            except (OSError, BotoCoreError) as error:
                raise unanswered("get_object", error) from error
        if found != body:
            raise FaultError(Fault.STORE_DIFFERS, f"{where} holds something else")
