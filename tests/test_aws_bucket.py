"""The bucket to which is only added: a real S3 over HTTP (MiniStack's), with troubles."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import boto3
import pytest
from cloud import SimCloud

from station.aws import calls
from station.aws.bucket import Bucket
from station.faults import Fault, FaultError
from station.sim.line import wait_for


@pytest.fixture
def s3(cloud: SimCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """S3 as a stranger sees it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = boto3.client("s3", region_name=cloud.said["region"], endpoint_url=cloud.said["api_url"])
    yield client
    client.close()


@pytest.fixture
def name(s3: Any) -> str:
    made = f"b-{uuid4().hex}"
    s3.create_bucket(Bucket=made)
    return made


@pytest.fixture
def bucket(cloud: SimCloud, name: str) -> Bucket:
    return Bucket(cloud.said["region"], name, api_url=cloud.said["api_url"])


def refused(bucket: Bucket, key: str, body: bytes = b"x") -> FaultError:
    with pytest.raises(FaultError) as error:
        bucket.put(key, body)
    return error.value


def test_what_is_put_is_there_with_its_kind_and_the_checksum_that_s3_held_it_against(
    bucket: Bucket, name: str, s3: Any
) -> None:
    text = "Tỷ lệ đạt".encode()
    bucket.put("line-1/2026-11-24/page.html", text)
    found = s3.get_object(Bucket=name, Key="line-1/2026-11-24/page.html", ChecksumMode="ENABLED")
    assert found["Body"].read() == text
    assert found["ContentType"] == "text/html; charset=utf-8"
    assert found["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(text).digest()).decode()


def test_the_same_again_is_well_and_something_else_is_never_written_over(bucket: Bucket, name: str, s3: Any) -> None:
    bucket.put("anchors/2026-11-24.txt", b"the first")
    bucket.put("anchors/2026-11-24.txt", b"the first")
    for other in (b"the other", b"the first and more", b"the"):
        error = refused(bucket, "anchors/2026-11-24.txt", other)
        assert error.fault is Fault.STORE_DIFFERS
        assert error.detail == f"s3://{name}/anchors/2026-11-24.txt holds something else"
    assert s3.get_object(Bucket=name, Key="anchors/2026-11-24.txt")["Body"].read() == b"the first"


@pytest.mark.parametrize("trouble", ["InternalError", "SlowDown", "close"])
def test_what_passes_is_waited_for(bucket: Bucket, name: str, s3: Any, cloud: SimCloud, trouble: str) -> None:
    cloud.troubles(api={"PutObject": trouble})
    before = cloud.control("counts").get("PutObject", 0)
    putting = threading.Thread(target=bucket.put, args=("k", b"x"))
    putting.start()
    wait_for("another try", lambda: cloud.control("counts").get("PutObject", 0) >= before + 2)
    cloud.troubles()
    putting.join(30)
    assert s3.get_object(Bucket=name, Key="k")["Body"].read() == b"x"


def test_what_does_not_pass_is_named_at_once(bucket: Bucket, cloud: SimCloud, s3: Any) -> None:
    cloud.troubles(api={"PutObject": "AccessDenied"})
    before = cloud.control("counts").get("PutObject", 0)
    assert refused(bucket, "k").fault is Fault.AWS_DENIED
    assert cloud.control("counts")["PutObject"] == before + 1
    cloud.troubles()
    missing = refused(Bucket(cloud.said["region"], "no-such-bucket", api_url=cloud.said["api_url"]), "k")
    assert missing.fault is Fault.AWS_ERROR
    assert "NoSuchBucket" in missing.detail


def test_a_station_that_may_not_read_is_told_what_would_tell(bucket: Bucket, name: str, cloud: SimCloud) -> None:
    bucket.put("k", b"x")
    cloud.troubles(api={"GetObject": "AccessDenied"})
    error = refused(bucket, "k")
    assert error.fault is Fault.AWS_DENIED
    assert error.detail == f"s3://{name}/k is there already, and only s3:GetObject would tell whether it is the same"


def test_a_store_that_is_away_is_told_after_some_patience(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_PATIENCE_S", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert refused(Bucket("us-east-1", "b-1", api_url=url), "k").fault is Fault.CLOUD_UNREACHABLE
