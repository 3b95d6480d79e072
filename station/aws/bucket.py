"""Puts one small text into an S3 bucket: the anchors, where a bucket is configured."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError

from station.aws.calls import Calls, unanswered


class Bucket:
    """One bucket. Raises (each method) the faults of `station.aws.calls`."""

    def __init__(self, region: str, bucket: str, *, api_url: str | None = None) -> None:
        import boto3  # noqa: PLC0415 - slow to load
        from botocore.config import Config  # noqa: PLC0415 - slow to load

        config = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
        try:
            session = boto3.session.Session(region_name=region)
            self._calls = Calls(session.client("s3", endpoint_url=api_url, config=config))
        except BotoCoreError as error:
            raise unanswered("connect", error) from error
        self._bucket = bucket

    def put(self, key: str, text: str) -> None:
        """Store ``text`` under ``key``; the same again changes nothing that anybody reads."""
        self._calls(
            "put_object", Bucket=self._bucket, Key=key, Body=text.encode(), ContentType="text/plain; charset=utf-8"
        )
