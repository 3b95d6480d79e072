"""The Lambda function: from its zip, against the simulated registry and bucket, called as AWS calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import structlog
from cloud import ProviderCA, SimCloud, device, leaf_of, state
from cryptography.hazmat.primitives.asymmetric import ec
from provider_side import connect
from test_feed import SEAL

from station.activator import function
from station.activator.decide import Activator
from station.activator.package import modules, package
from station.aws.registry import Registry
from station.aws.shelf import S3Shelf
from station.faults import Fault, FaultError
from station.feed.lines import FeedLine, sealed
from station.model import CertificateStatus, Standing, StandingState, certificate_id

BUCKET = "station-feed-test"


class Context:
    """What Lambda gives its handler, as far as it is asked."""

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 60_000


@pytest.fixture
def shelf(cloud: SimCloud, monkeypatch: pytest.MonkeyPatch) -> S3Shelf:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = boto3.client("s3", region_name=cloud.said["region"], endpoint_url=cloud.said["api_url"])
    client.create_bucket(Bucket=BUCKET)
    client.close()
    return S3Shelf(BUCKET, "feed/", cloud.said["region"], api_url=cloud.said["api_url"])


@pytest.fixture
def settings(
    *, cloud: SimCloud, ca: ProviderCA, policy: str, shelf: S3Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    (tmp_path / "root" / "seals").mkdir(parents=True)
    (tmp_path / "root" / "seals" / "line-1.pem").write_bytes(SEAL.public)
    values = {
        "CA_CERTIFICATE_ID": ca.id,
        "POLICY": policy,
        "BUCKET": BUCKET,
        "AWS_REGION": cloud.said["region"],
        "API_URL": cloud.said["api_url"],
        "LAMBDA_TASK_ROOT": str(tmp_path / "root"),
        "WAIT_S": "0",
        "GRACE_S": "0",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    function._activator.cache_clear()
    yield values
    function._activator.cache_clear()


def tell(shelf: S3Shelf, certificate_id: str, ca: ProviderCA, thing: str) -> None:
    now = datetime.now(UTC)
    known = Standing(certificate_id, ca.id, thing, StandingState.CONNECTING)
    shelf.put(
        certificate_id, sealed(FeedLine("line-1", 1, known, now, now + timedelta(minutes=5)), SEAL.public, SEAL.sign)
    )


def test_an_event_activates_what_the_feed_tells_and_a_pass_alarms_of_the_stranger(
    *,
    settings: dict[str, str],
    shelf: S3Shelf,
    cloud: SimCloud,
    ca: ProviderCA,
    api: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, later, stranger = (device(ca, tmp_path / name, name) for name in ("SN-1", "SN-2", "SN-66"))
    connect(cloud, made, later, stranger)
    tell(shelf, made.id, ca, "SN-1")
    event = {"certificateId": made.id, "caCertificateId": ca.id, "certificateStatus": "PENDING_ACTIVATION"}
    assert function.handler(event, Context()) == {"activated": 1}
    assert function.handler(event, Context()) == {"active": 1}
    assert function.handler({"certificateId": stranger.id}, Context()) == {"stranger": 1}
    assert '"alarm": true' not in capsys.readouterr().out  # the feed's line may only be late
    tell(shelf, later.id, ca, "SN-2")
    assert function.handler({}, Context()) == {"activated": 1, "stranger": 1}
    alarms = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["certificate_id"], one["fault"]) for one in alarms if one["alarm"]] == [(stranger.id, "N440")]
    assert [state(api, one) for one in (made, later, stranger)] == ["ACTIVE", "ACTIVE", "PENDING_ACTIVATION"]


def test_trouble_is_raised_so_that_lambda_calls_again(
    settings: dict[str, str], cloud: SimCloud, ca: ProviderCA, tmp_path: Path
) -> None:
    made = device(ca, tmp_path / "d", "SN-1")
    connect(cloud, made)
    cloud.troubles(api={"DescribeCertificate": "AccessDeniedException"})
    with pytest.raises(FaultError) as error:
        function.handler({"certificateId": made.id}, Context())
    assert error.value.fault is Fault.AWS_DENIED


def test_one_that_cannot_be_asked_about_is_not_in_the_way_of_the_others_of_a_pass(
    *,
    settings: dict[str, str],
    shelf: S3Shelf,
    cloud: SimCloud,
    ca: ProviderCA,
    api: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older, newer = (device(ca, tmp_path / name, name) for name in ("SN-1", "SN-2"))
    connect(cloud, older, newer)
    tell(shelf, older.id, ca, "SN-1")
    get = S3Shelf.get

    def broken(self: S3Shelf, certificate_id: str) -> bytes | None:
        if certificate_id == newer.id:
            raise FaultError(Fault.AWS_ERROR)
        return get(self, certificate_id)

    monkeypatch.setattr(S3Shelf, "get", broken)
    with pytest.raises(FaultError) as error:
        function.handler({}, Context())
    assert error.value.fault is Fault.AWS_ERROR
    assert [state(api, one) for one in (older, newer)] == ["ACTIVE", "PENDING_ACTIVATION"]


def test_an_event_waits_for_the_feed_but_not_one_that_waited_in_a_storm(
    *,
    settings: dict[str, str],
    shelf: S3Shelf,
    cloud: SimCloud,
    ca: ProviderCA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, stranger = (device(ca, tmp_path / name, name) for name in ("SN-1", "SN-66"))
    connect(cloud, made, stranger)
    monkeypatch.setenv("WAIT_S", "10")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        if seconds == function._AGAIN_S:  # and not the pace's
            slept.append(seconds)
            tell(shelf, made.id, ca, "SN-1")

    monkeypatch.setattr(time, "sleep", sleep)
    old, new = (int((time.time() - age_s) * 1000) for age_s in (11, 0))
    assert function.handler({"certificateId": stranger.id, "timestamp": old}, Context()) == {"stranger": 1}
    assert slept == []
    assert function.handler({"certificateId": made.id, "timestamp": new}, Context()) == {"activated": 1}
    assert len(slept) == 1


class Instances(threading.local):
    """An activator for each thread, as Lambda has a process for each instance."""

    def __init__(self, make: Callable[[], Activator]) -> None:
        self._activator = make()

    def __call__(self) -> Activator:
        return self._activator

    def cache_clear(self) -> None:
        """Nothing is kept beyond the thread."""


def test_a_storm_on_both_instances_stays_within_the_throttle(
    *,
    settings: dict[str, str],
    shelf: S3Shelf,
    cloud: SimCloud,
    ca: ProviderCA,
    api: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pass in one, events in the other, each with a pace of its own; pace and quota both the double of AWS's."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    units = [leaf_of(ca, key, f"ST-{number}") for number in range(24)]
    names = [certificate_id(one) for one in units]
    for number, name in enumerate(names):
        tell(shelf, name, ca, f"ST-{number}")
    connect(cloud, *units)
    monkeypatch.setattr(function, "PER_S", function.PER_S * 2)
    monkeypatch.setattr(function, "_activator", Instances(function._activator.__wrapped__))
    cloud.troubles(throttle=dict.fromkeys(("DescribeCertificate", "UpdateCertificate", "AttachPolicy"), 20))
    before = cloud.control("counts").get("throttled", 0)
    events = threading.Thread(target=lambda: [function.handler({"certificateId": one}, Context()) for one in names])
    events.start()
    function.handler({}, Context())
    events.join()
    throttled = cloud.control("counts").get("throttled", 0) - before
    cloud.troubles()
    assert throttled == 0
    found = Registry(settings["AWS_REGION"], api_url=settings["API_URL"]).certificates(ca.id)
    assert {one.status for one in found} == {CertificateStatus.ACTIVE}


def test_it_needs_few_imports() -> None:
    found = modules()
    assert len(found) < 30
    assert not [name for name in found if name.startswith(("station.ledger", "station.config", "station.sim"))]
    code = "import sys, station.activator.function; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"paho", "sqlalchemy", "pydantic", "yaml", "pkcs11", "boto3"} & set(loaded)


# What docs/activation.md has pip put into the zip, with what that brings along; and what Lambda's Python has anyway.
VENDORED = ("cryptography", "cffi", "_cffi_backend*.so", "structlog")
RUNTIME = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six.py", "urllib3")


def test_the_zip_works_by_itself_and_is_the_same_each_time(
    *, settings: dict[str, str], shelf: S3Shelf, cloud: SimCloud, ca: ProviderCA, api: Any, tmp_path: Path
) -> None:
    (tmp_path / "seal.pem").write_bytes(SEAL.public)
    (tmp_path / "vendored").mkdir()
    (tmp_path / "vendored" / "library.py").write_text("")
    for name in ("one.zip", "two.zip"):
        package(tmp_path / name, [tmp_path / "seal.pem"], tmp_path / "vendored")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    task = tmp_path / "task"
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        packed.extractall(task)
    assert (task / "library.py").exists()
    assert len(list((task / "seals").glob("*.pem"))) == 1
    site = Path(structlog.__file__).parent.parent
    (tmp_path / "runtime").mkdir()
    for folder, names in ((task, VENDORED), (tmp_path / "runtime", RUNTIME)):
        for found in [found for name in names for found in site.glob(name)]:
            (folder / found.name).symlink_to(found)

    made = device(ca, tmp_path / "device", "SN-1")
    connect(cloud, made)
    tell(shelf, made.id, ca, "SN-1")
    event = {"certificateId": made.id, "caCertificateId": ca.id, "certificateStatus": "PENDING_ACTIVATION"}
    code = (
        f"import sys; sys.path[:0] = [{str(task)!r}, {str(tmp_path / 'runtime')!r}]\n"
        "import station.activator.function as function\n"
        "class Context: get_remaining_time_in_millis = staticmethod(lambda: 60000)\n"
        f"print(function.__file__); print(function.handler({event!r}, Context()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],  # without any site-packages: the zip and Lambda's own alone
        env={**os.environ, **settings, "LAMBDA_TASK_ROOT": str(task)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    where, told, answer = done.stdout.splitlines()
    assert where.startswith(str(task))
    assert json.loads(told)["verdict"] == "activated"
    assert answer == "{'activated': 1}"
    assert state(api, made) == "ACTIVE"
