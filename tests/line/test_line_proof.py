"""A day closed as on the line: the daemon's own keeper, the seal in a real token, a real S3, the auditor's command."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from whole_line import MakeStation, make_seal

from station.sim.line import Provider, wait_for


@pytest.fixture
def bucket(provider: Provider) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        region_name=provider.cloud["region"],
        endpoint_url=provider.cloud["api_url"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="factory-anchors")
    yield client
    client.close()


def test_the_seal_in_the_token_signs_the_day_and_its_anchor_leaves_the_machine(
    make_station: MakeStation, own_token: Provider, bucket: Any, tmp_path: Path
) -> None:
    seal = make_seal(own_token)
    station = make_station(where=own_token, seal=seal, proof={"s3": {"bucket": "factory-anchors"}})
    with station:
        found = wait_for("the anchor", lambda: bucket.list_objects_v2(Bucket="factory-anchors").get("Contents"))
    (key,) = [entry["Key"] for entry in found]
    with closing(sqlite3.connect(station.state / "ledger.sqlite")) as ledger:
        ((day,),) = ledger.execute("SELECT day FROM heads")
    assert key == f"anchors/demo-line/{day}.txt"
    anchor = tmp_path / "anchor.txt"
    anchor.write_bytes(bucket.get_object(Bucket="factory-anchors", Key=key)["Body"].read())
    verify = ["ledger", "verify", "--anchor", str(anchor), "--seal", seal["public"]]
    said = json.loads(station.run(*verify, "--json"))
    assert (said["whole"], said["heads"], said["sealed"]) == (True, 1, 1)
    assert said["proved_to"] > 0
    # Its archive carries the same head, and says so by itself.
    (archive,) = (station.state / "archives").glob("*.jsonl.gz")
    assert "Sealed: 1 of the 1 head(s)" in station.run(*verify, str(archive))
