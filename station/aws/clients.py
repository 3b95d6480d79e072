"""boto3's clients as this house makes them: the registry's, the feed's shelves' and the buckets'."""

from __future__ import annotations

from functools import cache
from typing import Any

from botocore.exceptions import BotoCoreError

from station.aws.calls import CALLS_PER_S, Calls, unanswered


def client(
    service: str, region: str, *, api_url: str | None = None, per_s: float = CALLS_PER_S, read_timeout_s: float = 5.0
) -> Calls:
    """A service's client in a region, at AWS or at ``api_url``, paced to ``per_s`` calls of each operation.

    Raises:
        FaultError: `Fault.AWS_DENIED` where there are no credentials, or they cannot be read.
    """
    import boto3  # noqa: PLC0415 - slow to load
    import botocore.session  # noqa: PLC0415 - as boto3
    from botocore.config import Config  # noqa: PLC0415 - as boto3

    config = Config(
        connect_timeout=3,
        read_timeout=read_timeout_s,
        # Retries are ours: botocore's wait neither sees a lifted board nor slows the other slots down.
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path" if api_url else "auto"},
    )
    try:
        core = botocore.session.get_session()
        core.register_component("data_loader", loader := _descriptions())
        session: Any = boto3.session.Session(botocore_session=core, region_name=region)
        loader.search_paths[:] = dict.fromkeys(loader.search_paths)  # boto3 adds its folder each time
        return Calls(session.client(service, endpoint_url=api_url, config=config), per_s)
    except BotoCoreError as error:
        raise unanswered("connect", error) from error


@cache
def _descriptions() -> Any:
    """AWS's descriptions of its services: megabytes of JSON that boto3 would read anew for each client."""
    import botocore.loaders  # noqa: PLC0415 - as boto3

    return botocore.loaders.create_loader()
