"""From the first drop to an acknowledged publish; and whatever keeps a unit from it ends in the one fault that says so.

Users' ten troubles (jitr.md), and where each is named: 1 `CHAIN_INCOMPLETE` (test_aws_dial.py); 2 and 3 are no fault:
the first drop is expected in every form, and nothing waits longer than it must; 4 `CLOUD_UNTRUSTED`; 5
`POLICY_MISSING`, `CONNECT_REFUSED`, `PUBLISH_REFUSED`; 6 all of this file; 7 `CA_NOT_CA` (test_aws_registry.py);
8 `STILL_PENDING`; 9 `CLIENT_ID_TAKEN`; 10 `CA_UNKNOWN_HERE`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aws_units import CREDENTIALS, Contact, contact, lift, raises
from cloud import OPEN_POLICY, ProviderCA, SimCloud, activate, make_ca, provider_ca, register, state

from station.aws import Registry
from station.faults import Fault
from station.model import Ending

MakeContact = Callable[..., Contact]


@pytest.fixture(scope="module")
def ca(shared_cloud: SimCloud) -> ProviderCA:
    return provider_ca(shared_cloud)


@pytest.fixture
def policy(api: Any) -> str:
    return make_policy(api, OPEN_POLICY)


@pytest.fixture
def make(cloud: SimCloud, ca: ProviderCA, tmp_path: Path) -> MakeContact:
    def unit(policy: str | None = None, ca: ProviderCA = ca, **changes: Any) -> Contact:
        return contact(cloud, ca, tmp_path, policy, **changes)

    return unit


def make_policy(api: Any, document: dict[str, Any]) -> str:
    name = f"p-{os.urandom(4).hex()}"
    api.create_policy(policyName=name, policyDocument=json.dumps(document))
    return name


def allowing(*actions_and_resources: tuple[str, str]) -> dict[str, Any]:
    statements = [
        {"Effect": "Allow", "Action": action, "Resource": f"arn:aws:iot:us-east-1:000000000000:{resource}"}
        for action, resource in actions_and_resources
    ]
    return {"Version": "2012-10-17", "Statement": statements}


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread, and fail where it fails."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - a thread's top
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not failed


@pytest.fixture
def registry(cloud: SimCloud, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of its own, whose pace no other test has to share."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return Registry(cloud.said["region"], api_url=cloud.said["api_url"])


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("alpn", [False, True], ids=["8883", "443"])
def test_the_station_activates_a_fresh_unit_in_order_and_soon(
    cloud: SimCloud, make: MakeContact, api: Any, policy: str, alpn: bool
) -> None:
    unit = make(policy, alpn=alpn, port=cloud.alpn_port if alpn else cloud.mqtt_port)
    assert unit.dial(unit.call) is Ending.DROPPED
    began = time.monotonic()
    unit.wait_active()
    unit.wait_accepted()
    assert time.monotonic() - began < 2.0
    found = api.describe_certificate(certificateId=unit.device.id)["certificateDescription"]
    assert found["status"] == "ACTIVE"
    assert api.list_thing_principals(thingName=unit.call.client_id)["principals"] == [found["certificateArn"]]
    (attached,) = api.list_attached_policies(target=found["certificateArn"])["policies"]
    assert attached["policyName"] == policy


def test_a_unit_costs_the_registry_six_calls(cloud: SimCloud, make: MakeContact, policy: str) -> None:
    unit = make(policy)
    unit.dial(unit.call)
    before = sum(cloud.control("counts").values())
    unit.wait_active()
    unit.wait_accepted()
    assert sum(cloud.control("counts").values()) - before == 6


@pytest.mark.parametrize(
    "ending",
    ["close", "silent", "alert-after-handshake", "registered-reset", "registered-connack-5", "connack-no-puback"],
)
def test_a_first_dial_that_ends_in_any_form_costs_no_unit(
    cloud: SimCloud, make: MakeContact, policy: str, ending: str
) -> None:
    cloud.troubles(endings=[ending])
    unit = make(policy)
    assert unit.dial(unit.call) is not Ending.ACKNOWLEDGED
    unit.wait_active()
    unit.wait_accepted()


def test_the_provider_activates_and_the_station_waits(make: MakeContact, api: Any) -> None:
    unit = make()
    unit.dial(unit.call)

    def provider() -> None:
        until(lambda: state(api, unit.device) == "PENDING_ACTIVATION")
        activate(api, unit.device)

    with meanwhile(provider):
        unit.wait_active()
    unit.wait_accepted()


def test_a_policy_that_comes_late_is_waited_for(make: MakeContact, api: Any, policy: str) -> None:
    unit = make()
    unit.dial(unit.call)
    activate(api, unit.device, policy=None)
    unit.wait_active()
    arn = api.describe_certificate(certificateId=unit.device.id)["certificateDescription"]["certificateArn"]
    attach = threading.Timer(0.4, lambda: api.attach_policy(policyName=policy, target=arn))
    with meanwhile(attach.run):
        unit.wait_accepted()


def test_a_slow_registry_is_waited_for(cloud: SimCloud, make: MakeContact, policy: str) -> None:
    cloud.troubles(pending_delay_s=0.8)
    unit = make(policy)
    unit.dial(unit.call)
    unit.wait_active()
    unit.wait_accepted()


def test_many_slots_together_stay_below_the_accounts_quota(
    cloud: SimCloud, make: MakeContact, policy: str, registry: Registry
) -> None:
    cloud.troubles(pending_delay_s=0.8)
    units = [make(policy, registry=registry) for _ in range(5)]
    for unit in units:
        unit.dial(unit.call)
    before, began = cloud.control("counts")["DescribeCertificate"], time.monotonic()
    threads = [threading.Thread(target=unit.wait_active) for unit in units]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls, seconds = cloud.control("counts")["DescribeCertificate"] - before, time.monotonic() - began
    assert calls <= 7 * seconds + 4
    assert {unit.status() for unit in units} == {"ACTIVE"}


def test_throttled_calls_slow_the_station_down_and_cost_no_unit(
    cloud: SimCloud, make: MakeContact, policy: str, registry: Registry
) -> None:
    cloud.troubles(throttle={"DescribeCertificate": 1, "*": 3})
    unit = make(policy, registry=registry)
    unit.dial(unit.call)
    unit.wait_active()
    unit.wait_accepted()


def test_what_is_throttled_to_the_deadline_is_named(
    cloud: SimCloud, make: MakeContact, policy: str, registry: Registry
) -> None:
    unit = make(policy, deadline_s=1.0, registry=registry)
    unit.dial(unit.call)
    cloud.troubles(api={"DescribeCertificate": "ThrottlingException"})
    before = cloud.control("counts")["DescribeCertificate"]
    with raises(Fault.THROTTLED, "DescribeCertificate"):
        unit.wait_active()
    assert cloud.control("counts")["DescribeCertificate"] - before <= 5


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        ("close", Fault.NOT_REGISTERED),
        ("connack-5", Fault.NOT_REGISTERED),
        ("silent", Fault.CLOUD_SILENT),
    ],
)
def test_a_cloud_that_never_registers_is_named_by_its_ending(
    cloud: SimCloud, make: MakeContact, policy: str, ending: str, fault: Fault
) -> None:
    cloud.troubles(endings_always=ending)
    # Long enough for the second dial, whose ending is told: it comes after 1 s.
    unit = make(policy, deadline_s=4.0 if ending == "silent" else 1.3, dial_timeout_s=0.3)
    unit.dial(unit.call)
    with raises(fault):
        unit.wait_active()


def test_a_server_of_another_root_is_named_at_once(cloud: SimCloud, make: MakeContact, policy: str) -> None:
    cloud.troubles(endings_always="other-root")
    unit = make(policy)
    assert unit.dial(unit.call) is Ending.UNTRUSTED
    began = time.monotonic()
    with raises(Fault.CLOUD_UNTRUSTED, "localhost:"):
        unit.wait_active()
    with raises(Fault.CLOUD_UNTRUSTED):
        unit.wait_accepted()
    assert time.monotonic() - began < 3.0


def test_the_own_ca_as_server_root_is_named(make: MakeContact, ca: ProviderCA, policy: str) -> None:
    unit = make(policy)
    unit = replace(unit, credentials=replace(unit.credentials, server_roots=ca.pem.encode()))
    with raises(Fault.CLOUD_UNTRUSTED):
        unit.wait_active()


def test_an_endpoint_where_nobody_listens_is_named(make: MakeContact, policy: str) -> None:
    unit = make(policy, port=1, deadline_s=1.3)
    with raises(Fault.CLOUD_UNREACHABLE, "localhost:1"):
        unit.wait_active()
    unit = make(policy, port=1, deadline_s=0.1)
    with raises(Fault.CLOUD_UNREACHABLE):
        unit.wait_accepted()


def test_a_ca_that_is_not_registered_here_is_named(make: MakeContact, policy: str) -> None:
    unit = make(policy, ca=replace(make_ca(), id="ab" * 32), deadline_s=0.2)
    unit.dial(unit.call)
    with raises(Fault.CA_UNKNOWN_HERE, "ab" * 32):
        unit.wait_active()


@pytest.mark.parametrize(("active", "auto"), [(False, True), (True, False)], ids=["INACTIVE", "no auto-registration"])
def test_a_ca_that_takes_no_units_is_named(make: MakeContact, api: Any, policy: str, active: bool, auto: bool) -> None:
    unit = make(policy, ca=register(api, make_ca(), active=active, auto=auto), deadline_s=0.2)
    unit.dial(unit.call)
    with raises(Fault.CA_NOT_ACCEPTING, "auto-registration ENABLE" if auto else "auto-registration DISABLE"):
        unit.wait_active()


def test_an_endpoint_that_accepts_what_the_registry_does_not_know_is_named(make: MakeContact, policy: str) -> None:
    unit = make(policy, deadline_s=2.5)
    with raises(Fault.FIRST_CONNECT_ACCEPTED, "another account"):
        unit.cloud.wait_active(unit.device.leaf, unit.call, lambda _: Ending.ACKNOWLEDGED, unit.stop)


def test_a_provider_that_does_not_activate_is_named(make: MakeContact) -> None:
    unit = make(deadline_s=0.5)
    unit.dial(unit.call)
    with raises(Fault.STILL_PENDING, "PENDING_ACTIVATION"):
        unit.wait_active()
    with raises(Fault.STILL_PENDING, "PENDING_ACTIVATION"):
        unit.wait_accepted()


@pytest.mark.parametrize("status", ["INACTIVE", "REVOKED"])
def test_a_certificate_that_is_out_of_service_stays_out_and_is_named(
    make: MakeContact, api: Any, policy: str, status: str
) -> None:
    unit = make(policy, deadline_s=0.5)
    unit.dial(unit.call)
    api.update_certificate(certificateId=unit.device.id, newStatus=status)
    with raises(Fault.CERTIFICATE_OUT, status):
        unit.wait_active()
    with raises(Fault.CERTIFICATE_OUT, status):
        unit.wait_accepted()
    assert state(api, unit.device) == status


def test_a_certificate_that_vanishes_from_the_registry_is_named(
    make: MakeContact, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = make(deadline_s=0.8)
    unit.dial(unit.call)
    find = Registry.find

    def found_and_gone(registry: Registry, leaf: Any) -> Any:
        """The real registry, and somebody who deletes between two polls, never during one."""
        found = find(registry, leaf)
        if found is not None:
            api.update_certificate(certificateId=unit.device.id, newStatus="REVOKED")
            api.delete_certificate(certificateId=unit.device.id, forceDelete=True)
        return found

    monkeypatch.setattr(Registry, "find", found_and_gone)
    with raises(Fault.NOT_REGISTERED, "gone"):
        unit.wait_active()


def test_a_certificate_that_was_never_known_is_not_called_active(make: MakeContact) -> None:
    unit = make(ca=make_ca(), deadline_s=0.1)
    with raises(Fault.NOT_REGISTERED, unit.device.id):
        unit.wait_accepted()


def test_a_policy_that_the_account_does_not_have_is_named_and_nothing_is_activated(make: MakeContact, api: Any) -> None:
    unit = make("no-such-policy")
    unit.dial(unit.call)
    with raises(Fault.POLICY_MISSING, "no-such-policy"):
        unit.wait_active()
    assert state(api, unit.device) == "PENDING_ACTIVATION"


def test_an_active_certificate_without_a_policy_is_named(make: MakeContact, api: Any) -> None:
    unit = make(deadline_s=0.4)
    unit.dial(unit.call)
    activate(api, unit.device, policy=None)
    unit.wait_active()
    with raises(Fault.POLICY_MISSING, unit.device.id):
        unit.wait_accepted()


def test_a_policy_too_narrow_to_connect_is_named(make: MakeContact, api: Any) -> None:
    unit = make(make_policy(api, allowing(("iot:Connect", "client/another"))), deadline_s=0.5)
    unit.dial(unit.call)
    unit.wait_active()
    with raises(Fault.CONNECT_REFUSED, unit.call.client_id):
        unit.wait_accepted()


def test_a_policy_too_narrow_to_publish_is_named(make: MakeContact, api: Any) -> None:
    unit = make(make_policy(api, allowing(("iot:Connect", "client/*"))), deadline_s=0.5)
    unit.dial(unit.call)
    unit.wait_active()
    with raises(Fault.PUBLISH_REFUSED, unit.call.topic):
        unit.wait_accepted()


def test_another_client_of_the_same_id_is_named(make: MakeContact, api: Any) -> None:
    unit = make(make_policy(api, allowing(("iot:Connect", "client/*"))), deadline_s=0.5)
    unit.dial(unit.call)
    unit.wait_active()
    over = threading.Event()

    def rival() -> None:
        while not over.is_set():
            unit.dial(replace(unit.call, hold_s=0.2))

    with meanwhile(rival):
        try:
            with raises(Fault.CLIENT_ID_TAKEN, unit.call.client_id):
                unit.wait_accepted()
        finally:
            over.set()


@pytest.mark.parametrize("wait", ["unknown", "throttled", "pending", "accepted"])
def test_a_board_that_is_lifted_ends_each_wait_at_once(
    cloud: SimCloud, make: MakeContact, api: Any, registry: Registry, wait: str
) -> None:
    unit = make(registry=registry)
    if wait == "unknown":
        cloud.troubles(endings_always="close")
    else:
        unit.dial(unit.call)
    if wait == "throttled":
        cloud.troubles(throttle={"DescribeCertificate": 0.0})
    if wait == "accepted":
        activate(api, unit.device, policy=None)
    lifted: list[float] = []

    def soon() -> None:
        lift(unit)
        lifted.append(time.monotonic())

    with meanwhile(threading.Timer(0.4, soon).run), raises(Fault.LIFTED):
        (unit.wait_accepted if wait == "accepted" else unit.wait_active)()
    assert time.monotonic() - lifted[0] < 0.3


def test_the_registrys_denial_is_named_at_once(cloud: SimCloud, make: MakeContact, policy: str) -> None:
    unit = make(policy)
    unit.dial(unit.call)
    cloud.troubles(api={"AttachPolicy": "AccessDeniedException"})
    began = time.monotonic()
    with raises(Fault.AWS_DENIED, "AttachPolicy"):
        unit.wait_active()
    assert time.monotonic() - began < 3.0
