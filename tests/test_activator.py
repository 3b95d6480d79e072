"""Activation by the provider: what is activated, what never is, and a storm within the throttle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cloud import ProviderCA, SimCloud, activate, device, leaf_of, state
from cryptography.hazmat.primitives.asymmetric import ec
from ledgers import end, note
from provider_side import POLICY, Line, connect
from structlog.testing import capture_logs

from station.activator.alarms import Alarm, AlarmBook
from station.activator.decide import Activator, Verdict
from station.activator.service import Service, poll
from station.aws.events import parsed
from station.aws.registry import Grant, Registry
from station.cli import main
from station.faults import Fault, FaultError
from station.ledger.standing import LedgerRegister
from station.model import CertificateStatus, Standing, StandingState, Step, certificate_id
from station.sim.line import wait_for


@pytest.fixture
def activator(registry: Registry, line: Line, ca: ProviderCA, policy: str) -> Activator:
    return Activator(registry, line.register, ca.id, Grant(policy))


def test_what_is_at_connect_gets_thing_and_policy_and_then_active(
    activator: Activator, line: Line, cloud: SimCloud, api: Any
) -> None:
    thing = f"SN-{line.ca.id[:8]}"  # all tests share the registry of things
    _, made = line.run(thing)
    connect(cloud, made)
    assert state(api, made) == "PENDING_ACTIVATION"
    assert activator.consider(made.id) is Verdict.ACTIVATED
    assert state(api, made) == "ACTIVE"
    arn = api.describe_certificate(certificateId=made.id)["certificateDescription"]["certificateArn"]
    assert [one["policyName"] for one in api.list_attached_policies(target=arn)["policies"]] == [POLICY]
    assert api.list_thing_principals(thingName=thing)["principals"] == [arn]
    assert activator.consider(made.id) is Verdict.ACTIVE


def test_policy_and_thing_come_before_active(activator: Activator, line: Line, cloud: SimCloud, api: Any) -> None:
    _, made = line.run("SN-2")
    connect(cloud, made)
    for operation in ("CreateThing", "AttachThingPrincipal", "AttachPolicy"):
        cloud.troubles(api={operation: "InvalidRequestException"})
        with pytest.raises(FaultError):
            activator.consider(made.id)
        assert state(api, made) == "PENDING_ACTIVATION"
    cloud.troubles()
    assert activator.consider(made.id) is Verdict.ACTIVATED


def test_things_are_of_the_type_that_is_named_and_it_must_exist(
    *, registry: Registry, line: Line, cloud: SimCloud, api: Any, policy: str, ca: ProviderCA
) -> None:
    thing_type = f"type-{ca.id[:8]}"
    typed = Activator(registry, line.register, ca.id, Grant(policy, thing_type))
    _, made = line.run(f"SN-{ca.id[:8]}")
    connect(cloud, made)
    with pytest.raises(FaultError) as missing:
        typed.consider(made.id)
    assert missing.value.fault is Fault.THING_TYPE
    assert state(api, made) == "PENDING_ACTIVATION"
    api.create_thing_type(thingTypeName=thing_type)
    assert typed.consider(made.id) is Verdict.ACTIVATED
    assert api.describe_thing(thingName=f"SN-{ca.id[:8]}")["thingTypeName"] == thing_type


def test_a_stranger_of_our_ca_is_not_activated(
    activator: Activator, cloud: SimCloud, ca: ProviderCA, api: Any, tmp_path: Path
) -> None:
    stranger = device(ca, tmp_path / "stranger", "SN-66")
    connect(cloud, stranger)
    assert activator.consider(stranger.id) is Verdict.STRANGER
    assert state(api, stranger) == "PENDING_ACTIVATION"


def test_orphans_superseded_and_passed_ones_are_refused(
    activator: Activator, line: Line, cloud: SimCloud, api: Any
) -> None:
    lost, orphan = line.run("SN-3")
    end(line.ledger, lost, Fault.STILL_PENDING)
    again, newer = line.run("SN-3")
    good, passed = line.run("SN-4")
    note(line.ledger, good, Step.CONNECT)
    end(line.ledger, good)
    connect(cloud, orphan, newer, passed)
    assert activator.consider(orphan.id) is Verdict.REFUSED
    assert activator.consider(passed.id) is Verdict.REFUSED
    assert activator.consider(newer.id) is Verdict.ACTIVATED
    assert [state(api, one) for one in (orphan, passed)] == ["PENDING_ACTIVATION"] * 2
    assert again.fault is None


def test_a_run_that_is_not_at_connect_yet_or_any_more_is_not_activated(
    activator: Activator, line: Line, cloud: SimCloud, api: Any
) -> None:
    run, made = line.run("SN-5", at_connect=False)
    connect(cloud, made)
    assert activator.consider(made.id) is Verdict.EARLY
    note(line.ledger, run, Step.VERIFY, Fault.KEY_UNPROVEN)
    assert activator.consider(made.id) is Verdict.EARLY
    assert state(api, made) == "PENDING_ACTIVATION"


def test_another_ca_s_certificate_is_left_alone(
    activator: Activator, line: Line, cloud: SimCloud, api: Any, tmp_path: Path
) -> None:
    from cloud import provider_ca

    other = device(provider_ca(cloud), tmp_path / "other", "SN-6")
    connect(cloud, other)
    assert activator.consider(other.id) is Verdict.FOREIGN
    assert state(api, other) == "PENDING_ACTIVATION"


def test_a_record_that_names_another_ca_is_no_permission(
    *, registry: Registry, line: Line, cloud: SimCloud, api: Any, policy: str, ca: ProviderCA
) -> None:
    _, made = line.run("SN-7")
    connect(cloud, made)

    class Forged:
        def standing(self, certificate_id: str) -> Standing | None:
            return Standing(certificate_id, "f" * 64, "SN-7", StandingState.CONNECTING)

    assert Activator(registry, Forged(), ca.id, Grant(policy)).consider(made.id) is Verdict.FOREIGN
    assert state(api, made) == "PENDING_ACTIVATION"


def test_a_run_that_ends_while_it_is_activated_leaves_nothing_active(
    *, registry: Registry, line: Line, cloud: SimCloud, api: Any, policy: str, ca: ProviderCA
) -> None:
    run, made = line.run("SN-8")
    connect(cloud, made)

    class Lifted:
        """The unit is lifted, and the outbox says INACTIVE, right after the activator asked."""

        def __init__(self) -> None:
            self.asked = 0

        def standing(self, certificate_id: str) -> Standing | None:
            self.asked += 1
            found = line.register.standing(certificate_id)
            if self.asked == 1:
                end(line.ledger, run, Fault.LIFTED)
                api.update_certificate(certificateId=made.id, newStatus="INACTIVE")
            return found

    assert Activator(registry, Lifted(), ca.id, Grant(policy)).consider(made.id) is Verdict.REFUSED
    assert state(api, made) == "INACTIVE"


def test_a_second_look_that_failed_is_made_up_for_when_it_is_asked_again(
    *, registry: Registry, line: Line, cloud: SimCloud, api: Any, policy: str, ca: ProviderCA
) -> None:
    run, lifted = line.run("SN-81")
    _, kept = line.run("SN-82")
    connect(cloud, lifted, kept)

    class Away(LedgerRegister):
        """Goes away when it was asked once."""

        asked = 0

        def standing(self, certificate_id: str) -> Standing | None:
            self.asked += 1
            if self.asked == 2:
                raise FaultError(Fault.LEDGER_DOWN)
            return super().standing(certificate_id)

    for made in (lifted, kept):
        cut_off = Activator(registry, Away(line.ledger.store.read), ca.id, Grant(policy))
        with pytest.raises(FaultError):
            cut_off.consider(made.id)
        assert state(api, made) == "ACTIVE"
    end(line.ledger, run, Fault.LIFTED)
    again = Activator(registry, line.register, ca.id, Grant(policy))
    assert [again.consider(made.id) for made in (lifted, kept)] == [Verdict.REFUSED, Verdict.ACTIVE]
    assert [state(api, made) for made in (lifted, kept)] == ["INACTIVE", "ACTIVE"]


def test_an_active_one_is_not_taken_out_where_its_feed_only_expired(
    *, registry: Registry, line: Line, cloud: SimCloud, api: Any, policy: str, ca: ProviderCA
) -> None:
    """It may have passed, and the feed stand still since."""
    _, made = line.run("SN-83")
    connect(cloud, made)
    activate(api, made)

    class Expired:
        def standing(self, certificate_id: str) -> Standing | None:
            return Standing(certificate_id, ca.id, "SN-83", StandingState.EXPIRED)

    assert Activator(registry, Expired(), ca.id, Grant(policy)).consider(made.id) is Verdict.ACTIVE
    assert state(api, made) == "ACTIVE"


@pytest.mark.parametrize("name", ["", "x" * 64, "A" * 64, "0" * 63, "../" + "0" * 61, "0" * 64])
def test_an_id_that_is_none_or_unknown_is_absent(activator: Activator, name: str) -> None:
    assert activator.consider(name) is Verdict.ABSENT


@pytest.mark.parametrize("status", ["INACTIVE", "REVOKED"])
def test_what_somebody_took_out_stays_out(
    activator: Activator, line: Line, cloud: SimCloud, api: Any, status: str
) -> None:
    _, made = line.run("SN-9")
    connect(cloud, made)
    api.update_certificate(certificateId=made.id, newStatus=status)
    assert activator.consider(made.id) is Verdict.OUT
    assert state(api, made) == status


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def alarms(tmp_path: Path) -> AlarmBook:
    return AlarmBook(tmp_path / "alarms.jsonl")


def work_off(service: Service, clock: Hand, seconds: float = 0.0) -> None:
    """Everything that is due within ``seconds`` from now."""
    until = clock.now + seconds
    while True:
        while service.step(0.0):
            pass
        if clock.now >= until or not service.waiting():
            return
        clock.now += 0.1


def test_a_stranger_is_an_alarm_once_and_only_after_the_grace(
    *, activator: Activator, alarms: AlarmBook, cloud: SimCloud, ca: ProviderCA, api: Any, tmp_path: Path
) -> None:
    stranger, clock = device(ca, tmp_path / "stranger", "SN-66"), Hand()
    connect(cloud, stranger)
    service = Service(activator, alarms, grace_s=10, clock=clock)
    service.heard(stranger.id, "203.0.113.9")
    work_off(service, clock, 5)
    assert alarms.read() == []
    work_off(service, clock, 10)
    service.heard(stranger.id)
    work_off(service, clock, 20)
    (alarm,) = AlarmBook(tmp_path / "alarms.jsonl").read()
    assert alarm["certificate_id"] == stranger.id
    assert (alarm["verdict"], alarm["source_ip"]) == ("stranger", "203.0.113.9")
    assert state(api, stranger) == "PENDING_ACTIVATION"


def test_what_somebody_revoked_since_it_was_listed_stays_revoked(
    *, activator: Activator, alarms: AlarmBook, line: Line, cloud: SimCloud, ca: ProviderCA, api: Any
) -> None:
    _, made = line.run("SN-12")
    connect(cloud, made)
    clock = Hand()
    service = Service(activator, alarms, grace_s=10, clock=clock)
    assert poll(activator.registry, ca.id, service) == 1
    api.update_certificate(certificateId=made.id, newStatus="REVOKED")  # while it waits in a storm
    work_off(service, clock)
    assert state(api, made) == "REVOKED"
    assert service.counts[Verdict.OUT] == 1


def test_a_line_that_is_slow_to_tell_is_waited_for(
    activator: Activator, alarms: AlarmBook, line: Line, cloud: SimCloud, api: Any
) -> None:
    run, made = line.run("SN-10", at_connect=False)
    connect(cloud, made)
    clock = Hand()
    service = Service(activator, alarms, grace_s=10, clock=clock)
    service.heard(made.id)
    work_off(service, clock, 2)
    note(line.ledger, run, Step.VERIFY)
    work_off(service, clock, 4)
    assert state(api, made) == "ACTIVE"
    assert alarms.read() == []


def test_a_cloud_in_trouble_is_asked_again_until_it_answers(
    activator: Activator, alarms: AlarmBook, line: Line, cloud: SimCloud, api: Any
) -> None:
    _, made = line.run("SN-11")
    connect(cloud, made)
    clock = Hand()
    service = Service(activator, alarms, grace_s=10, clock=clock)
    cloud.troubles(api={"UpdateCertificate": "AccessDeniedException"})
    service.heard(made.id)
    work_off(service, clock, 3)
    assert state(api, made) == "PENDING_ACTIVATION"
    cloud.troubles()
    work_off(service, clock, 60)
    assert state(api, made) == "ACTIVE"


def test_alarms_survive_a_cut_line_and_are_told_once(tmp_path: Path) -> None:
    file = tmp_path / "alarms.jsonl"
    alarm = Alarm("a" * 64, Verdict.STRANGER, "2026-01-01T00:00:00+00:00", "")
    AlarmBook(file).raise_(alarm)
    with file.open("a") as cut:
        cut.write('{"certificate_id": "bbb')
    again = AlarmBook(file)
    again.raise_(alarm)
    assert [one["certificate_id"] for one in again.read()] == ["a" * 64]
    again.raise_(replace(alarm, certificate_id="b" * 64))
    assert [one["certificate_id"] for one in AlarmBook(file).read()] == ["a" * 64, "b" * 64], "behind the cut line"


def test_an_alarm_that_somebody_saw_to_is_none_any_more_and_is_not_raised_again(
    settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = settings_file.parent / "activator-state" / "alarms.jsonl"
    file.parent.mkdir()
    alarm = Alarm("a" * 64, Verdict.STRANGER, "2026-01-01T00:00:00+00:00", "")
    AlarmBook(file).raise_(alarm)
    alarms = ("activator", "alarms", str(settings_file))
    assert main(alarms) == 1
    assert main([*alarms, "--seen", "a" * 64, "--by", "linh"]) == 0
    AlarmBook(file).raise_(alarm)
    capsys.readouterr()
    assert main(alarms) == 0
    assert capsys.readouterr().out == "no alarm\n"
    assert "linh" in file.read_text()
    assert main([*alarms, "--seen", "a" * 64]) == 1
    assert "there is no alarm about" in capsys.readouterr().err


@pytest.mark.timeout(300)  # 4,000 real requests: 15 s alone, and longer where others work too
def test_a_storm_of_a_thousand_is_worked_off_within_the_throttle_and_none_twice(
    *, registry: Registry, alarms: AlarmBook, cloud: SimCloud, ca: ProviderCA, api: Any, policy: str, tmp_path: Path
) -> None:
    """A thousand PROVISIONED units switched on at once, and one stranger among them."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()  # one for all: nobody looks at it here
    units = [leaf_of(ca, key, f"ST-{number}") for number in range(1000)]
    stranger = device(ca, tmp_path / "stranger", "ST-X")
    connect(cloud, *units[:600], stranger, *units[600:])

    things = {certificate_id(one): f"ST-{number}" for number, one in enumerate(units)}

    class Provisioned:
        def standing(self, certificate_id: str) -> Standing | None:
            thing = things.get(certificate_id)
            return Standing(certificate_id, ca.id, thing, StandingState.PROVISIONED) if thing else None

    # The account's quotas, and the registry's pace below them, both a hundredfold: the ratio is the production one.
    cloud.troubles(throttle={"*": 5000, "UpdateCertificate": 1000, "DescribeCertificate": 1000, "AttachPolicy": 1000})
    fast = Registry(cloud.said["region"], api_url=cloud.said["api_url"], per_s=700)
    before = cloud.control("counts")
    service = Service(Activator(fast, Provisioned(), ca.id, Grant(policy)), alarms, grace_s=0.0)
    for name in list(things)[:200]:
        service.heard(name)
    assert poll(fast, ca.id, service) == 1001
    assert poll(fast, ca.id, service) == 1001  # as the next poll does while the storm lasts
    workers = [threading.Thread(target=drain, args=(service,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert poll(fast, ca.id, service) == 1001
    drain(service)
    after = cloud.control("counts")
    cloud.troubles()
    assert service.counts[Verdict.ACTIVATED] == 1000
    assert after["UpdateCertificate"] - before.get("UpdateCertificate", 0) == 1000
    assert after.get("throttled", 0) == before.get("throttled", 0)
    found = list(registry.certificates(ca.id))
    assert {one.id for one in found if one.status is CertificateStatus.PENDING_ACTIVATION} == {stranger.id}
    assert sum(one.status is CertificateStatus.ACTIVE for one in found) == 1000
    assert [one["certificate_id"] for one in alarms.read()] == [stranger.id]


def drain(service: Service) -> None:
    deadline = time.monotonic() + 280
    while service.waiting() and time.monotonic() < deadline:
        service.step(0.1)


# The daemon: real events over TLS and MQTT, a process of its own.


EVENTS_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
        {"Effect": "Allow", "Action": ["iot:Subscribe", "iot:Receive"], "Resource": "*"},
    ],
}


@pytest.fixture
def settings_file(*, cloud: SimCloud, ca: ProviderCA, api: Any, policy: str, ledger_path: Path, tmp_path: Path) -> Path:
    own = device(ca, tmp_path / "own", "station-activator")
    connect(cloud, own)
    activate(api, own, EVENTS_POLICY)
    file = tmp_path / "activator.yaml"
    file.write_text(
        json.dumps(
            {
                "state": "activator-state",
                "region": cloud.said["region"],
                "ca_certificate_id": ca.id,
                "policy": policy,
                "register": {"kind": "ledger", "path": str(ledger_path)},
                "events": {
                    "endpoint": cloud.said["endpoint"],
                    "port": cloud.mqtt_port,
                    "certificate": str(own.chain),
                    "key_file": str(own.key),
                    "server_roots": str(cloud.server_roots),
                },
                "poll_s": 3600,
                "grace_s": 0.5,
                "simulator": {"api_url": cloud.said["api_url"]},
            }
        )
    )
    return file


def run_station(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "station", *arguments],
        env={**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def next_event(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of its log; what it complains of instead fails the test."""
    assert process.stderr is not None
    line = process.stderr.readline()
    if not line.startswith("{"):
        pytest.fail(line + process.stderr.read())
    said: dict[str, Any] = json.loads(line)
    return said


def test_the_daemon_activates_on_events_and_reports_strangers(
    *, settings_file: Path, line: Line, cloud: SimCloud, ca: ProviderCA, api: Any, tmp_path: Path
) -> None:
    stranger = device(ca, tmp_path / "stranger", "SN-66")
    _, waiting = line.run("SN-1")
    connect(cloud, waiting, stranger)
    process = subprocess.Popen(
        [sys.executable, "-m", "station", "activator", "run", str(settings_file)],
        env={**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said: list[dict[str, Any]] = []
        while not any(one.get("state") == "listening" for one in said):
            said.append(next_event(process))
        wait_for("the poll's find active", lambda: state(api, waiting) == "ACTIVE", 30)
        _, fresh = line.run("SN-2")
        connect(cloud, fresh)  # no poll is due for an hour: only the event tells
        wait_for("the event's find active", lambda: state(api, fresh) == "ACTIVE", 30)
        while not any(one["event"] == "a certificate must not be activated" for one in said):
            said.append(next_event(process))
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert state(api, stranger) == "PENDING_ACTIVATION"
    alarm = said[-1]
    assert (alarm["certificate_id"], alarm["verdict"], alarm["fault"], alarm["level"]) == (
        stranger.id,
        "stranger",
        "N440",
        "error",
    )
    listed = run_station("activator", "alarms", str(settings_file), "--json")
    assert [one["certificate_id"] for one in json.loads(listed.stdout)] == [stranger.id]
    assert listed.returncode == 1


@pytest.fixture
def once(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str], list[str]]]:
    """`station activator once`, in this process, whose log stays the tests': code, output and complaint."""
    monkeypatch.setattr("station.activator.daemon.log_as_json", lambda **_: None)

    def ran(*more: str) -> tuple[int, list[str], list[str]]:
        with capture_logs():
            code = main(["activator", "once", str(settings_file), *more])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return ran


def test_one_pass_by_hand_says_what_it_did(
    *, once: Callable[..., Any], line: Line, cloud: SimCloud, ca: ProviderCA, registry: Registry, tmp_path: Path
) -> None:
    _, made = line.run("SN-1")
    connect(cloud, made)
    code, said, _ = once("--json")
    assert (code, json.loads("".join(said))) == (0, {"activated": 1})
    connect(cloud, device(ca, tmp_path / "stranger", "SN-66"))
    assert once()[:2] == (1, ["stranger   1"])


def test_one_pass_by_hand_ends_where_a_certificate_cannot_be_asked_about(
    *, once: Callable[..., Any], line: Line, cloud: SimCloud, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("station.activator.service._FAULT_AGAIN_S", (0.0,))
    _, made = line.run("SN-1")
    connect(cloud, made)
    cloud.troubles(api={"UpdateCertificate": "AccessDeniedException"})
    code, said, complaint = once()
    assert (code, said) == (1, [])
    assert complaint[0].startswith("N421")
    assert state(api, made) == "PENDING_ACTIVATION"


def test_a_policy_that_is_not_there_is_told_at_start(
    once: Callable[..., Any], settings_file: Path, line: Line, registry: Registry
) -> None:
    settings = json.loads(settings_file.read_text())
    settings_file.write_text(json.dumps({**settings, "policy": "gone"}))
    code, _, complaint = once()
    assert code == 1
    assert complaint[0].startswith("N411")


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"\xff", b"{" * 500, b'"x"', b'{"a":' + b" " * 9000 + b"1}", b"[" * 8000]
)
def test_an_event_that_is_none_is_none(payload: bytes) -> None:
    assert parsed(payload) is None
