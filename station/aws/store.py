"""Files into an S3 bucket: the report's way out of the factory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from station.faults import Fault, FaultError


def put_files(bucket: str, region: str, files: Mapping[str, Path], *, api_url: str | None = None) -> None:
    """Put each file under its key; what is there already is written again, the same.

    Raises:
        FaultError: `Fault.STORE_FAILED`, with AWS's own sentence.
    """
    import boto3  # noqa: PLC0415 - slow to load
    from boto3.exceptions import Boto3Error  # noqa: PLC0415 - as above
    from botocore.config import Config  # noqa: PLC0415 - as above
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as above

    style: Any = {"addressing_style": "path"} if api_url else None
    config = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 3, "mode": "standard"}, s3=style)
    try:
        client = boto3.session.Session(region_name=region).client("s3", endpoint_url=api_url, config=config)
        for key, file in files.items():
            # In one request each, so that a key holds a whole file or the one before; botocore adds the checksum.
            with file.open("rb") as body:
                client.put_object(Bucket=bucket, Key=key, Body=body)
    except (BotoCoreError, ClientError, Boto3Error, OSError) as error:
        raise FaultError(Fault.STORE_FAILED, f"s3://{bucket}: {error}") from error
