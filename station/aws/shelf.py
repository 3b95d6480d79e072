"""The feed's shelves at AWS: a bucket, and a topic. `station.feed.shelf.Shelf` by shape."""

from __future__ import annotations

import base64
import hashlib
import time
from contextlib import suppress
from typing import Any, Final

from botocore.exceptions import BotoCoreError

from station.aws.calls import AbsentError, RefusedError
from station.aws.clients import client
from station.faults import Fault, FaultError

_MAX_LINE: Final = 4_097
_LINES_PER_S: Final = 50.0


class S3Shelf:
    """An object a certificate: ``<prefix><certificate id>.jsonl``. S3 reads back what was written last."""

    def __init__(self, bucket: str, prefix: str, region: str, *, api_url: str | None = None) -> None:
        self._bucket, self._prefix = bucket, prefix
        self._calls = client("s3", region, api_url=api_url, per_s=_LINES_PER_S)

    def put(self, certificate_id: str, line: bytes) -> None:
        """PutObject."""
        self._calls("put_object", Bucket=self._bucket, Key=self._key(certificate_id), Body=line)

    def prove(self) -> str:
        """PutObject with another content's checksum: S3 looks at the right first, and then keeps nothing."""
        other = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
        with suppress(RefusedError):
            self._calls.during(time.monotonic(), time.sleep)(
                "put_object", Bucket=self._bucket, Key=self._key("doctor"), Body=b"", ContentMD5=other
            )
        return f"the feed's bucket {self._bucket} may be written at {self._prefix}"

    def get(self, certificate_id: str) -> bytes | None:
        """GetObject; where ListBucket is not allowed, S3 says AccessDenied instead of NoSuchKey: allow it."""
        try:
            body: Any = self._calls("get_object", "Body", Bucket=self._bucket, Key=self._key(certificate_id))
        except AbsentError:
            return None
        with body:
            try:
                return bytes(body.read(_MAX_LINE))
            except (OSError, BotoCoreError) as error:
                raise FaultError(Fault.CLOUD_UNREACHABLE, f"get_object: {error}") from error

    def _key(self, certificate_id: str) -> str:
        return f"{self._prefix}{certificate_id}.jsonl"


class TopicShelf:
    """A topic of AWS IoT: what is put is published with QoS 1 (iot-data Publish), and cannot be got back here."""

    def __init__(self, topic: str, station: str, region: str, url: str) -> None:
        self._topic = f"{topic}/{station}"
        self._calls = client("iot-data", region, api_url=url, per_s=_LINES_PER_S)

    def put(self, certificate_id: str, line: bytes) -> None:
        """Publish; AWS IoT has taken it when this returns."""
        del certificate_id  # it stands in the line
        self._calls("publish", topic=self._topic, qos=1, payload=line)

    def prove(self) -> str:
        """Publish nothing: who subscribes passes over it."""
        self._calls.during(time.monotonic(), time.sleep)("publish", topic=self._topic, qos=1, payload=b"")
        return f"the feed's topic {self._topic} may be published to"

    def get(self, certificate_id: str) -> bytes | None:
        """Nothing: whoever subscribes keeps what comes."""
        del certificate_id
        return None
