"""The registry: what AWS's API may answer, and certificates taken out of service for good."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aws_units import CREDENTIALS, Contact, contact, raises, shared_registry
from cloud import ProviderCA, SimCloud, activate, make_ca, provider_ca, register, state

from station.aws import Registry
from station.aws.calls import Pace
from station.faults import Fault
from station.model import Ending, certificate_id


@pytest.fixture(scope="module")
def ca(shared_cloud: SimCloud) -> ProviderCA:
    return provider_ca(shared_cloud)


@pytest.fixture
def registry(cloud: SimCloud) -> Registry:
    return shared_registry(cloud.said["region"], cloud.said["api_url"])


@pytest.fixture
def unit(cloud: SimCloud, ca: ProviderCA, tmp_path: Path) -> Contact:
    return contact(cloud, ca, tmp_path, None)


def at_once(registry: Registry) -> Registry:
    """Without patience."""
    return registry.during(time.monotonic(), time.sleep)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("ThrottlingException", Fault.THROTTLED),
        ("UnauthorizedException", Fault.AWS_DENIED),
        ("AccessDeniedException", Fault.AWS_DENIED),
        ("ExpiredTokenException", Fault.AWS_DENIED),
        ("UnrecognizedClientException", Fault.AWS_DENIED),
        ("InternalFailureException", Fault.AWS_ERROR),
        ("ServiceUnavailableException", Fault.AWS_ERROR),
        ("InvalidRequestException", Fault.AWS_ERROR),
        ("close", Fault.CLOUD_UNREACHABLE),
    ],
)
def test_each_refusal_of_aws_has_its_fault(
    cloud: SimCloud, unit: Contact, monkeypatch: pytest.MonkeyPatch, answer: str, fault: Fault
) -> None:
    registry = own_registry(cloud, monkeypatch)
    cloud.troubles(api={"DescribeCertificate": answer})
    with raises(fault, "" if answer == "close" else answer):
        at_once(registry).find(unit.device.leaf)


@pytest.mark.parametrize("answer", ["InternalFailureException", "close"])
def test_what_passes_by_itself_is_waited_out(cloud: SimCloud, unit: Contact, answer: str) -> None:
    cloud.troubles(api={"DescribeCertificate": answer})
    better = threading.Timer(0.3, cloud.troubles)
    better.start()
    assert unit.status() is None
    better.join()


def own_registry(cloud: SimCloud, environment: pytest.MonkeyPatch, url: str = "") -> Registry:
    for name, value in CREDENTIALS.items():
        environment.setenv(name, value)
    return Registry(cloud.said["region"], api_url=url or cloud.said["api_url"])


def test_an_api_where_nobody_listens_is_unreachable(
    cloud: SimCloud, unit: Contact, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    registry = own_registry(cloud, monkeypatch, f"http://127.0.0.1:{port}")
    with raises(Fault.CLOUD_UNREACHABLE):
        at_once(registry).find(unit.device.leaf)


def test_a_station_without_credentials_says_so(
    cloud: SimCloud, unit: Contact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_credentials(monkeypatch, tmp_path)
    registry = Registry(cloud.said["region"], api_url=cloud.said["api_url"])
    with raises(Fault.AWS_DENIED, "credentials"):
        registry.find(unit.device.leaf)


def test_a_profile_that_does_not_exist_is_a_denial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with raises(Fault.AWS_DENIED, "no-such-profile"):
        Registry("us-east-1", api_url="http://127.0.0.1:1")


def no_credentials(environment: pytest.MonkeyPatch, folder: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        environment.delenv(name, raising=False)
    environment.setenv("HOME", str(folder))
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
    environment.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_a_signature_that_aws_refuses_is_a_denial_that_does_not_quote_the_request(unit: Contact) -> None:
    quoting = b'{"message": "The Canonical String should have been: x-amz-security-token:SECRET"}'
    with raises(Fault.AWS_DENIED, "wrong clock") as error:
        answered(quoting, "InvalidSignatureException", unit)
    assert "SECRET" not in error.value.detail


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>log in to the guest network</html>",
        b"{}",
        b'{"certificateDescription": {"status": "ACTIVE"}}',
        b'{"certificateDescription": {"status": "NEW_WORD", "certificateArn": "a"}}',
    ],
)
def test_an_answer_of_another_shape_is_awss_error(unit: Contact, answer: bytes) -> None:
    with raises(Fault.AWS_ERROR, "describe_certificate"):
        answered(answer, "", unit)


def answered(body: bytes, code: str, unit: Contact) -> None:
    """Ask a server that gives one answer, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                error = f"x-amzn-errortype: {code}\r\n" if code else ""
                head = f"HTTP/1.1 {'403 No' if code else '200 OK'}\r\n{error}content-length: {len(body)}\r\n\r\n"
                peer.sendall(head.encode() + body)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.MonkeyPatch.context() as environment:
            for name, value in CREDENTIALS.items():
                environment.setenv(name, value)
            registry = Registry("us-east-1", api_url=f"http://127.0.0.1:{server.getsockname()[1]}")
        try:
            at_once(registry).find(unit.device.leaf)
        finally:
            thread.join()


def test_one_operations_calls_are_spread_and_a_throttle_stops_all_of_them() -> None:
    pace = Pace(per_s=10.0)
    waits = [pace.reserve() for _ in range(20)]
    assert [wait == 0 for wait in waits[:4]] == [True] * 4  # the burst
    assert 1.3 < waits[-1] < 1.9
    pace = Pace(per_s=1000.0)
    pauses = []
    for _ in range(8):
        pace.throttled()
        pauses.append(pace.reserve())
    assert pauses[0] < 0.3
    assert 3.9 < pauses[-1] < 4.1
    pace.accepted()
    pace.throttled()
    assert pace.reserve() < 4.1


def test_the_data_endpoint_is_asked_for(registry: Registry) -> None:
    assert registry.data_endpoint() == "localhost"


def test_what_never_connected_is_registered_inactive_and_cannot_be_activated_by_connecting(
    unit: Contact, api: Any
) -> None:
    unit.retire()
    assert state(api, unit.device) == "INACTIVE"
    assert unit.dial(unit.call) is Ending.DROPPED
    unit.retire()
    assert state(api, unit.device) == "INACTIVE"


@pytest.mark.parametrize("status", ["PENDING_ACTIVATION", "ACTIVE", "INACTIVE", "REVOKED"])
def test_what_is_registered_goes_out_of_service_whatever_it_was(unit: Contact, api: Any, status: str) -> None:
    unit.dial(unit.call)
    if status == "ACTIVE":
        activate(api, unit.device)
    elif status != "PENDING_ACTIVATION":
        api.update_certificate(certificateId=unit.device.id, newStatus=status)
    unit.retire()
    unit.retire()
    assert state(api, unit.device) == ("REVOKED" if status == "REVOKED" else "INACTIVE")


def test_what_connects_while_it_is_retired_goes_out_of_service(cloud: SimCloud, unit: Contact, api: Any) -> None:
    cloud.troubles(pending_delay_s=3600)  # the registry's answer was true a moment ago
    unit.dial(unit.call)
    unit.retire()
    cloud.troubles()
    assert state(api, unit.device) == "INACTIVE"


@pytest.mark.parametrize("known", [False, True], ids=["unknown CA", "INACTIVE CA"])
def test_what_cannot_be_registered_yet_is_named_for_the_outbox(
    cloud: SimCloud, api: Any, tmp_path: Path, known: bool
) -> None:
    ca = register(api, make_ca(), active=False) if known else make_ca()
    unit = contact(cloud, ca, tmp_path, None)
    with raises(Fault.CA_NOT_ACCEPTING, certificate_id(ca.certificate)):
        unit.retire()
    if known:
        api.update_ca_certificate(certificateId=ca.id, newStatus="ACTIVE")
        unit.retire()
        assert state(api, unit.device) == "INACTIVE"


def test_the_call_names_unit_endpoint_and_topic(unit: Contact) -> None:
    serial = unit.call.client_id
    assert (unit.call.endpoint, unit.call.topic) == ("localhost", f"{serial}/hello")
    assert replace(unit.call, hold_s=1.0).payload
