"""The doctor at the cloud: CA, endpoint, policy, thing type, rights and feed, each broken once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from whole_line import asked, order_troubles

from station.ca import load_ca_certificate
from station.config import load
from station.doctor import Doctor, Finding, Level, refuse_waste
from station.faults import Fault, FaultError
from station.model import certificate_id
from station.sim.line import Station

ARN = "arn:aws:iot:us-east-1:000000000000"


class Broken(NamedTuple):
    part: str
    change: dict[str, Any]
    fault: Fault
    said: str


@pytest.mark.parametrize(
    "broken",
    [
        Broken("ca registered", {"ca_certificate_id": "a" * 64}, Fault.CA_MISMATCH, "the CA certificate's is"),
        Broken("endpoint", {"port": 1}, Fault.CLOUD_UNREACHABLE, "localhost:1"),
        Broken("policy", {"activation": {"by": "station", "policy": "gone"}}, Fault.POLICY_MISSING, "no policy gone"),
    ],
    ids=lambda broken: broken.part,
)
def test_settings_that_do_not_fit_the_cloud(resting: Station, broken: Broken) -> None:
    resting.settings["aws"].update(broken.change)
    found = asked(resting, broken.part)
    assert (found.level, found.fault) == (Level.BAD, broken.fault)
    assert broken.said in found.text


def test_a_server_of_another_root_is_not_trusted(resting: Station) -> None:
    order_troubles(resting.provider, endings=["other-root"])
    assert asked(resting, "endpoint").fault is Fault.CLOUD_UNTRUSTED


def test_a_server_that_says_nothing_is_told_in_time(resting: Station) -> None:
    order_troubles(resting.provider, endings=["silent"])
    resting.settings["aws"]["dial_timeout_s"] = 0.3
    assert asked(resting, "endpoint").fault is Fault.CLOUD_SILENT


def test_tls_1_2_asks_for_our_certificate_within_the_handshake_and_that_is_well(resting: Station) -> None:
    order_troubles(resting.provider, tls_1_2=True)
    found = asked(resting, "endpoint")
    assert (found.level, "TLSv1.2" in found.text) == (Level.GOOD, True)


@pytest.mark.parametrize(
    "operation", ["UpdateCertificate", "RegisterCertificate", "CreateThing", "AttachPolicy", "AttachThingPrincipal"]
)
def test_a_right_that_is_missing_is_named(resting: Station, operation: str) -> None:
    order_troubles(resting.provider, api={operation: "AccessDeniedException"})
    found = asked(resting, "rights")
    assert found.fault is Fault.AWS_DENIED
    assert operation in found.text


def test_what_the_rights_were_tried_on_is_not_made(resting: Station, cloud_api: Any) -> None:
    assert "create_thing" in asked(resting, "rights").text
    assert not [one for one in cloud_api.list_things()["things"] if one["thingName"].startswith("no-")]


def test_a_thing_type_that_no_thing_can_be_made_of_is_told(resting: Station, cloud_api: Any) -> None:
    resting.settings["aws"]["activation"]["thing_type"] = "sensor"
    absent = asked(resting, "thing type")
    cloud_api.create_thing_type(thingTypeName="sensor")
    there = asked(resting, "thing type")
    cloud_api.deprecate_thing_type(thingTypeName="sensor")
    deprecated = asked(resting, "thing type")
    assert [one.fault for one in (absent, there, deprecated)] == [Fault.THING_TYPE, None, Fault.THING_TYPE]
    assert "deprecated" in deprecated.text
    with pytest.raises(FaultError) as refused:
        refuse_waste(Doctor(load(resting.config)))
    assert refused.value.fault is Fault.THING_TYPE


@pytest.fixture
def fed(resting: Station) -> Callable[[dict[str, Any]], Finding]:
    """The doctor's answer about a feed at some place; the seal is not what is asked."""
    (resting.folder / "seal.pem").write_bytes(b"")
    resting.settings["seal"] = {"public": "seal.pem", "key": resting.provider.key.replace("device-ca", "seal")}

    def at_its_place(at: dict[str, Any]) -> Finding:
        resting.settings["aws"]["activation"] = {"by": "provider", "feed": {"at": at}}
        return asked(resting, "feed")

    return at_its_place


def test_a_feed_s_folder_is_there_and_may_be_written(
    fed: Callable[[dict[str, Any]], Finding], resting: Station, tmp_path: Path
) -> None:
    at = {"kind": "folder", "folder": str(tmp_path / "feed")}
    missing = fed(at)
    assert (missing.level, missing.fault) == (Level.BAD, Fault.FEED_DOWN)
    with pytest.raises(FaultError) as refused:
        refuse_waste(Doctor(load(resting.config)))
    assert refused.value.fault is Fault.FEED_DOWN
    (tmp_path / "feed").mkdir()
    assert fed(at).level is Level.GOOD
    assert list((tmp_path / "feed").iterdir()) == []


def test_a_feed_s_bucket_takes_lines_and_keeps_none_of_the_doctor_s(
    fed: Callable[[dict[str, Any]], Finding], resting: Station
) -> None:
    at = {"kind": "s3", "bucket": "doctor-feed"}
    missing = fed(at)
    assert (missing.level, "NoSuchBucket" in missing.text) == (Level.BAD, True)
    cloud = resting.provider.cloud
    client = boto3.client("s3", region_name=cloud["region"], endpoint_url=cloud["api_url"])
    client.create_bucket(Bucket="doctor-feed")
    try:
        assert fed(at).level is Level.GOOD
        assert client.list_objects_v2(Bucket="doctor-feed")["KeyCount"] == 0
    finally:
        client.close()


def test_a_feed_s_topic_takes_messages(fed: Callable[[dict[str, Any]], Finding], resting: Station) -> None:
    assert fed({"kind": "mqtt"}).level is Level.GOOD
    order_troubles(resting.provider, api={"*": "AccessDeniedException"})
    found = fed({"kind": "mqtt"})
    assert (found.level, found.fault) == (Level.BAD, Fault.AWS_DENIED)


def test_a_ca_that_is_switched_off_is_told(resting: Station, cloud_api: Any) -> None:
    name = resting.provider.registration["ca_certificate_id"]
    cloud_api.update_ca_certificate(certificateId=name, newAutoRegistrationStatus="DISABLE")
    try:
        found = asked(resting, "ca registered")
        assert found.fault is Fault.CA_NOT_ACCEPTING
        with pytest.raises(FaultError) as refused:
            refuse_waste(Doctor(load(resting.config)))
        assert (refused.value.fault, refused.value.detail) == (found.fault, found.text)
        done = subprocess.run(
            [*resting.command, "run"],
            env=dict(resting.provider.environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[0].startswith("N407")
        assert found.text in done.stderr
    finally:
        cloud_api.update_ca_certificate(certificateId=name, newAutoRegistrationStatus="ENABLE")


def test_what_only_passes_does_not_keep_the_daemon_from_starting(resting: Station) -> None:
    order_troubles(resting.provider, api={"*": "ServiceUnavailableException"}, endings_always="close")
    doubts = list(refuse_waste(Doctor(load(resting.config))))
    assert {"ca registered", "policy", "rights"} <= {one.part for one in doubts}


def test_a_policy_that_forgets_the_topic_is_told(resting: Station, cloud_api: Any) -> None:
    own = {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}:client/${{iot:Connection.Thing.ThingName}}"}
    cloud_api.create_policy(
        policyName="narrow", policyDocument=json.dumps({"Version": "2012-10-17", "Statement": [own]})
    )
    resting.settings["aws"]["activation"]["policy"] = "narrow"
    found = asked(resting, "policy")
    assert (found.level, found.fault) == (Level.BAD, Fault.POLICY_NARROW)
    assert "iot:Publish" in found.text


def test_a_ca_that_is_not_registered_here_is_told(resting: Station, ca_of_nobody: Path) -> None:
    resting.settings["ca"] = {"certificate": str(ca_of_nobody)}
    resting.settings["aws"]["ca_certificate_id"] = certificate_id(load_ca_certificate(ca_of_nobody))
    found = asked(resting, "ca registered")
    assert (found.level, found.fault) == (Level.BAD, Fault.CA_UNKNOWN_HERE)
