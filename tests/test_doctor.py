"""The doctor: every part of a real station asked, each broken once, and the sentence that says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from cloud import make_ca
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from ledgers import open_ledger
from whole_line import MakeStation, order_troubles

from station.aws.policies import Judgement, judge
from station.ca import load_ca_certificate
from station.ceremony.session import public_pem
from station.config import load
from station.doctor import Doctor, Finding, Level, examine, refuse_waste
from station.faults import Fault, FaultError
from station.hsm.pin import PinSource
from station.hsm.signers import generate_key
from station.hsm.uri import KeyUri
from station.jig.survey import Plugged, SlotView
from station.model import KeyType, certificate_id
from station.sim.line import Provider, Station, softhsm_module

ARN = "arn:aws:iot:us-east-1:000000000000"


@pytest.fixture
def made(make_station: MakeStation, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Station:
    """A station that does not run, asked within this process."""
    for name in ("SOFTHSM2_CONF", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, provider.environment[name])
    return make_station()


def ask(station: Station, part: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Finding:
    """One part's answer, with the settings as they are on disk now."""
    station.write_config()
    (found,) = examine({part: Doctor(load(station.config), clock=clock).parts()[part]}, limit_s=30)
    return found


def test_a_station_at_work_is_well_and_the_doctor_disturbs_nothing(station: Station) -> None:
    station.order("WO-1", "console-station-key", 7)
    said = json.loads(station.run("doctor", "--json"))
    assert [(one["part"], one["level"], one["fault"]) for one in said] == [
        (part, "good", None)
        for part in (
            "token",
            "ca certificate",
            "ca registered",
            "endpoint",
            "policy",
            "thing type",
            "rights",
            "feed",
            "clock",
            "disk",
            "ledger",
            "slots",
            "lamps",
            "orders",
        )
    ]
    text = {one["part"]: one["text"] for one in said}
    assert text["orders"] == "WO-1: 7 left"
    assert "TLSv1.3, its chain is trusted" in text["endpoint"]
    assert station.slot()["state"] == "empty"


def test_a_part_that_cannot_work_says_what_to_do_and_the_exit_code_is_1(make_station: MakeStation) -> None:
    station = make_station()
    station.settings["aws"]["activation"]["policy"] = "no-such-policy"
    station.write_config()
    command = [*station.command, "doctor"]
    done = subprocess.run(
        command, env=dict(station.provider.environment), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("NO   policy"))
    assert "N411" in lines[at]
    assert "no policy no-such-policy" in lines[at]
    assert lines[at + 1].strip().startswith("Next: Stop the line and call the CA owner")
    assert "\x1b" not in done.stdout


def test_all_parts_are_asked_at_once_and_one_that_hangs_is_left_behind() -> None:
    gate, release = threading.Barrier(3), threading.Event()

    def meet() -> str:
        gate.wait(10)  # passes only if the others are asked at the same time
        return "met"

    def hang() -> str:
        release.wait()
        return "never"

    began = time.monotonic()
    found = examine({"a": meet, "hangs": hang, "b": meet, "c": meet}, limit_s=1.0)
    release.set()
    assert time.monotonic() - began < 5
    assert [(one.part, one.level, one.fault) for one in found] == [
        ("a", Level.GOOD, None),
        ("hangs", Level.BAD, Fault.CHECK_LATE),
        ("b", Level.GOOD, None),
        ("c", Level.GOOD, None),
    ]


def test_a_surprise_in_one_part_does_not_hide_the_others() -> None:
    def surprise() -> str:
        raise RuntimeError("what nobody thought of")

    found = examine({"odd": surprise, "fine": lambda: "well"})
    assert [(one.level, one.fault) for one in found] == [(Level.BAD, Fault.UNEXPECTED), (Level.GOOD, None)]
    assert "what nobody thought of" in found[0].text


def test_a_wrong_pin_before_the_right_one_is_told(made: Station, own_token: Provider) -> None:
    done = subprocess.run(
        ["pkcs11-tool", "--module", softhsm_module(), "--token-label", "demo", "--login", "--pin", "00000000", "-O"],
        env=dict(own_token.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "CKR_PIN_INCORRECT" in done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", own_token.environment["SOFTHSM2_CONF"])
        found = ask(made, "token")
        assert (found.level, found.fault) == (Level.WARN, Fault.WRONG_PIN_SEEN)
        assert ask(made, "token").level is Level.GOOD  # the right PIN made the token forget it


def test_the_doctor_tries_a_wrong_pin_once_and_then_never(made: Station, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong-pin"
    wrong.write_text("000000\n")
    wrong.chmod(0o600)
    made.settings["hsm"]["pin"] = {"file": str(wrong)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(made.provider.folder / "softhsm2.conf"))
        first, second = ask(made, "token"), ask(made, "token")
    assert first.fault is second.fault is Fault.HSM_PIN
    assert "one try was made" in first.text
    assert "no further try is made" in second.text


LOCKED, FINAL_TRY = 0x40000, 0x20000  # CKF_USER_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY (PKCS #11, CK_TOKEN_INFO)


@pytest.mark.parametrize(("flag", "says"), [(LOCKED, "the PIN is locked"), (FINAL_TRY, "one more wrong PIN locks it")])
def test_a_token_at_its_last_try_is_not_tried(made: Station, own_token: Provider, flag: int, says: str) -> None:
    """SoftHSM never locks, but it tells the flags that its file holds: a vendor's token sets them by itself."""
    (file,) = (own_token.folder / "tokens").glob("*/token.object")
    content = file.read_bytes()
    at = content.index(bytes.fromhex("8000534b0000000000000002")) + 12  # CKA_OS_TOKENFLAGS, a number
    flags = int.from_bytes(content[at : at + 8], "big") | flag
    file.write_bytes(content[:at] + flags.to_bytes(8, "big") + content[at + 8 :])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", own_token.environment["SOFTHSM2_CONF"])
        found = ask(made, "token")
        assert (found.level, found.fault) == (Level.BAD, Fault.PIN_LOCKED)
        assert says in found.text
        file.write_bytes(content)  # unlocked by the token's holder: nothing else is to be done
        assert ask(made, "token").level is not Level.BAD


def test_a_token_or_key_that_is_not_the_settings_is_told(made: Station, ca_of_nobody: Path) -> None:
    usual = dict(made.settings["hsm"])
    for change, fault in (("token=demo", Fault.HSM_TOKEN), ("object=device-ca", Fault.HSM_KEY)):
        made.settings["hsm"] = {**usual, "key": usual["key"].replace(change, f"{change}-other")}
        assert ask(made, "token").fault is fault
    made.settings["hsm"] = usual
    made.settings["ca"] = {"certificate": str(ca_of_nobody)}
    assert ask(made, "token").fault is Fault.CA_MISMATCH


@pytest.fixture
def ca_of_nobody(tmp_path: Path) -> Path:
    """A CA certificate that no token and no registry knows."""
    file = tmp_path / "nobody.pem"
    file.write_bytes(make_ca("Nobody REHEARSAL").certificate.public_bytes(Encoding.PEM))
    return file


def test_a_ca_that_is_not_registered_here_is_told(made: Station, ca_of_nobody: Path) -> None:
    made.settings["ca"] = {"certificate": str(ca_of_nobody)}
    made.settings["aws"]["ca_certificate_id"] = certificate_id(load_ca_certificate(ca_of_nobody))
    found = ask(made, "ca registered")
    assert (found.level, found.fault) == (Level.BAD, Fault.CA_UNKNOWN_HERE)


def test_a_seal_that_cannot_sign_is_told_with_the_token(made: Station, own_token: Provider) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", own_token.environment["SOFTHSM2_CONF"])
        key = KeyUri.parse(own_token.key.replace("device-ca", "seal"))
        pin, latch = PinSource(file=own_token.pin), made.state / "pin-latch"
        public = generate_key(replace(key, id=b"\x05"), pin, latch, KeyType.P256)
        (made.folder / "seal.pem").write_text(public_pem(public))
        made.settings["seal"] = {"public": "seal.pem", "key": str(key)}
        assert "and with the seal" in ask(made, "token").text
        other = ec.generate_private_key(ec.SECP256R1()).public_key()
        (made.folder / "seal.pem").write_text(public_pem(other))
        found = ask(made, "token")
    assert (found.level, found.fault) == (Level.BAD, Fault.SEAL_MISMATCH)


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
def test_settings_that_do_not_fit_the_cloud(made: Station, broken: Broken) -> None:
    made.settings["aws"].update(broken.change)
    found = ask(made, broken.part)
    assert (found.level, found.fault) == (Level.BAD, broken.fault)
    assert broken.said in found.text


def test_a_server_of_another_root_is_not_trusted(made: Station) -> None:
    order_troubles(made.provider, endings=["other-root"])
    assert ask(made, "endpoint").fault is Fault.CLOUD_UNTRUSTED


def test_a_server_that_says_nothing_is_told_in_time(made: Station) -> None:
    order_troubles(made.provider, endings=["silent"])
    made.settings["aws"]["dial_timeout_s"] = 0.3
    assert ask(made, "endpoint").fault is Fault.CLOUD_SILENT


def test_tls_1_2_asks_for_our_certificate_within_the_handshake_and_that_is_well(made: Station) -> None:
    order_troubles(made.provider, tls_1_2=True)
    found = ask(made, "endpoint")
    assert (found.level, "TLSv1.2" in found.text) == (Level.GOOD, True)


@pytest.mark.parametrize(
    "operation", ["UpdateCertificate", "RegisterCertificate", "CreateThing", "AttachPolicy", "AttachThingPrincipal"]
)
def test_a_right_that_is_missing_is_named(made: Station, operation: str) -> None:
    order_troubles(made.provider, api={operation: "AccessDeniedException"})
    found = ask(made, "rights")
    assert found.fault is Fault.AWS_DENIED
    assert operation in found.text


def test_what_the_rights_were_tried_on_is_not_made(made: Station, cloud_api: Any) -> None:
    assert "create_thing" in ask(made, "rights").text
    assert not [one for one in cloud_api.list_things()["things"] if one["thingName"].startswith("no-")]


def test_a_thing_type_that_no_thing_can_be_made_of_is_told(made: Station, cloud_api: Any) -> None:
    made.settings["aws"]["activation"]["thing_type"] = "sensor"
    absent = ask(made, "thing type")
    cloud_api.create_thing_type(thingTypeName="sensor")
    there = ask(made, "thing type")
    cloud_api.deprecate_thing_type(thingTypeName="sensor")
    deprecated = ask(made, "thing type")
    assert [one.fault for one in (absent, there, deprecated)] == [Fault.THING_TYPE, None, Fault.THING_TYPE]
    assert "deprecated" in deprecated.text
    with pytest.raises(FaultError) as refused:
        refuse_waste(Doctor(load(made.config)))
    assert refused.value.fault is Fault.THING_TYPE


@pytest.fixture
def fed(made: Station) -> Callable[[dict[str, Any]], Finding]:
    """The doctor's answer about a feed at some place; the seal is not what is asked."""
    (made.folder / "seal.pem").write_bytes(b"")
    made.settings["seal"] = {"public": "seal.pem", "key": made.provider.key.replace("device-ca", "seal")}

    def asked(at: dict[str, Any]) -> Finding:
        made.settings["aws"]["activation"] = {"by": "provider", "feed": {"at": at}}
        return ask(made, "feed")

    return asked


def test_a_feed_s_folder_is_there_and_may_be_written(
    fed: Callable[[dict[str, Any]], Finding], made: Station, tmp_path: Path
) -> None:
    at = {"kind": "folder", "folder": str(tmp_path / "feed")}
    missing = fed(at)
    assert (missing.level, missing.fault) == (Level.BAD, Fault.FEED_DOWN)
    with pytest.raises(FaultError) as refused:
        refuse_waste(Doctor(load(made.config)))
    assert refused.value.fault is Fault.FEED_DOWN
    (tmp_path / "feed").mkdir()
    assert fed(at).level is Level.GOOD
    assert list((tmp_path / "feed").iterdir()) == []


def test_a_feed_s_bucket_takes_lines_and_keeps_none_of_the_doctor_s(
    fed: Callable[[dict[str, Any]], Finding], made: Station
) -> None:
    at = {"kind": "s3", "bucket": "doctor-feed"}
    missing = fed(at)
    assert (missing.level, "NoSuchBucket" in missing.text) == (Level.BAD, True)
    cloud = made.provider.cloud
    client = boto3.client("s3", region_name=cloud["region"], endpoint_url=cloud["api_url"])
    client.create_bucket(Bucket="doctor-feed")
    try:
        assert fed(at).level is Level.GOOD
        assert client.list_objects_v2(Bucket="doctor-feed")["KeyCount"] == 0
    finally:
        client.close()


def test_a_feed_s_topic_takes_messages(fed: Callable[[dict[str, Any]], Finding], made: Station) -> None:
    assert fed({"kind": "mqtt"}).level is Level.GOOD
    order_troubles(made.provider, api={"*": "AccessDeniedException"})
    found = fed({"kind": "mqtt"})
    assert (found.level, found.fault) == (Level.BAD, Fault.AWS_DENIED)


def test_a_ca_that_is_switched_off_is_told(made: Station, cloud_api: Any) -> None:
    name = made.provider.registration["ca_certificate_id"]
    cloud_api.update_ca_certificate(certificateId=name, newAutoRegistrationStatus="DISABLE")
    try:
        found = ask(made, "ca registered")
        assert found.fault is Fault.CA_NOT_ACCEPTING
        with pytest.raises(FaultError) as refused:
            refuse_waste(Doctor(load(made.config)))
        assert (refused.value.fault, refused.value.detail) == (found.fault, found.text)
        done = subprocess.run(
            [*made.command, "run"],
            env=dict(made.provider.environment),
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


def test_what_only_passes_does_not_keep_the_daemon_from_starting(made: Station) -> None:
    order_troubles(made.provider, api={"*": "ServiceUnavailableException"}, endings_always="close")
    doubts = list(refuse_waste(Doctor(load(made.config))))
    assert {"ca registered", "policy", "rights"} <= {one.part for one in doubts}


def test_the_ca_must_outlive_what_it_signs(made: Station) -> None:
    soon = ask(made, "ca certificate", clock=lambda: datetime.now(UTC) + timedelta(days=3650 - 365 - 30))
    late = ask(made, "ca certificate", clock=lambda: datetime.now(UTC) + timedelta(days=3650 - 300))
    assert (soon.level, soon.fault) == (Level.WARN, Fault.CA_EXPIRES)
    assert (late.level, late.fault) == (Level.BAD, Fault.CA_EXPIRES)


@pytest.mark.parametrize(("days", "word"), [(-1, "behind"), (1, "ahead of")])
def test_a_wrong_clock_is_told_with_its_direction(made: Station, days: int, word: str) -> None:
    found = ask(made, "clock", clock=lambda: datetime.now(UTC) + timedelta(days=days))
    assert (found.level, found.fault) == (Level.BAD, Fault.CLOCK_WRONG)
    assert word in found.text


@pytest.mark.parametrize(("free", "level"), [(100, Level.BAD), (1000, Level.WARN), (100_000, Level.GOOD)])
def test_a_full_disk_is_told(made: Station, monkeypatch: pytest.MonkeyPatch, free: int, level: Level) -> None:
    # A disk of that size cannot be had without root's mount; what is asked of it is one number.
    usage = type("Usage", (), {"free": free * 2**20})
    monkeypatch.setattr("station.doctor.shutil.disk_usage", lambda path: usage)
    found = ask(made, "disk")
    assert found.level is level
    assert found.fault is (None if level is Level.GOOD else Fault.DISK_LOW)


def test_a_damaged_ledger_is_told_and_not_touched(made: Station) -> None:
    file = made.state / "ledger.sqlite"
    open_ledger(file, simulated=True).dispose()
    content = bytearray(file.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    file.write_bytes(content)
    found = ask(made, "ledger")
    assert (found.level, found.fault) == (Level.BAD, Fault.LEDGER_DOWN)
    assert file.read_bytes() == bytes(content)


def test_a_ledger_without_an_open_order_and_of_the_other_kind(made: Station) -> None:
    assert ask(made, "ledger").text.startswith("no ledger yet")
    assert not (made.state / "ledger.sqlite").exists()
    open_ledger(made.state / "ledger.sqlite", simulated=True).dispose()
    assert ask(made, "ledger").level is Level.GOOD
    assert ask(made, "orders").fault is Fault.NO_ORDER
    (made.state / "ledger.sqlite").unlink()
    assert ask(made, "ledger").fault is Fault.LEDGER_GONE
    (made.state / "ledger.sqlite.mark").unlink()
    open_ledger(made.state / "ledger.sqlite", simulated=False).dispose()
    assert ask(made, "ledger").fault is Fault.SIMULATION_MIXED


def test_a_port_that_may_not_be_opened_and_two_in_one_slot_are_told(
    made: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.port.write_bytes(b"")
    assert ask(made, "slots").text.startswith("1 slot(s), 1 with a board")
    with monkeypatch.context() as patch:
        patch.setattr("station.doctor.os.access", lambda *_: False)  # root, who runs tests, may open everything
        denied = ask(made, "slots")
    two = SlotView("1", "usb 1-1", tuple(Plugged(str(made.port), str(made.port)) for _ in range(2)))
    monkeypatch.setattr("station.doctor.slots_now", lambda _: [two])  # as udev would tell (test_jig_udev.py)
    ambiguous = ask(made, "slots")
    assert [one.fault for one in (denied, ambiguous)] == [Fault.PORT_DENIED, Fault.PORT_AMBIGUOUS]
    assert "dialout" in denied.text
    assert "name one" in ambiguous.text


def test_a_light_that_is_not_there_is_named(made: Station, tmp_path: Path) -> None:
    lights = {"kind": "leds", "folder": str(tmp_path), **{c: f"slot1-{c}" for c in ("green", "red", "amber", "blue")}}
    made.settings["slots"][0]["lamp"] = lights
    for colour in ("green", "red", "amber"):
        (tmp_path / f"slot1-{colour}").mkdir()
        (tmp_path / f"slot1-{colour}" / "brightness").write_text("0")
    found = ask(made, "lamps")
    assert (found.level, found.fault) == (Level.BAD, Fault.PORT_DENIED)
    assert "slot1-blue" in found.text


OWN = {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}:client/${{iot:Connection.Thing.ThingName}}"}
TOPIC = {"Effect": "Allow", "Action": ["iot:Publish"], "Resource": [f"{ARN}:topic/${{iot:ClientId}}/*"]}


@pytest.mark.parametrize(
    ("statements", "action", "resource", "judged"),
    [
        ([OWN], "iot:Connect", "client/SN-1", Judgement.ALLOWED),
        ([OWN], "iot:Publish", "topic/SN-1/hello", Judgement.DENIED),
        ([OWN, TOPIC], "iot:Publish", "topic/SN-1/hello", Judgement.ALLOWED),
        ([OWN, TOPIC], "iot:Publish", "topic/SN-2/hello", Judgement.DENIED),
        ([{**TOPIC, "Action": "iot:*"}], "iot:Publish", "topic/SN-1/a/b", Judgement.ALLOWED),
        ([{**TOPIC, "Action": "IOT:publish"}], "iot:Publish", "topic/SN-1/a", Judgement.ALLOWED),
        ([OWN, {**OWN, "Effect": "Deny", "Resource": "*"}], "iot:Connect", "client/SN-1", Judgement.DENIED),
        ([{**OWN, "Resource": f"{ARN}:client/SN-?"}], "iot:Connect", "client/SN-1", Judgement.ALLOWED),
        ([{**OWN, "Resource": f"{ARN}:client/SN-.*"}], "iot:Connect", "client/SN-1", Judgement.DENIED),
        ([{**OWN, "Resource": f"{ARN}:client/${{iot:Other}}"}], "iot:Connect", "client/SN-1", Judgement.UNCLEAR),
        (
            [{**OWN, "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": ["true"]}}}],
            "iot:Connect",
            "client/SN-1",
            Judgement.ALLOWED,
        ),
        (
            [{**OWN, "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}],
            "iot:Connect",
            "client/SN-1",
            Judgement.UNCLEAR,
        ),
        ([], "iot:Connect", "client/SN-1", Judgement.DENIED),
    ],
)
def test_a_policy_is_read_as_aws_reads_it(
    statements: list[dict[str, Any]], action: str, resource: str, judged: Judgement
) -> None:
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    assert judge(document, action, f"{ARN}:{resource}", "SN-1") is judged


@pytest.mark.parametrize("document", ["", "[]", "{", '{"Statement": 5}', '{"Statement": [7, {"Action": 3}]}'])
def test_what_is_no_policy_allows_nothing(document: str) -> None:
    assert judge(document, "iot:Connect", f"{ARN}:client/SN-1", "SN-1") is Judgement.DENIED


def test_a_policy_that_forgets_the_topic_is_told(made: Station, cloud_api: Any) -> None:
    cloud_api.create_policy(
        policyName="narrow", policyDocument=json.dumps({"Version": "2012-10-17", "Statement": [OWN]})
    )
    made.settings["aws"]["activation"]["policy"] = "narrow"
    found = ask(made, "policy")
    assert (found.level, found.fault) == (Level.BAD, Fault.POLICY_NARROW)
    assert "iot:Publish" in found.text


def test_a_process_knows_its_age_with_the_interpreter_s_start() -> None:
    code = "import time\nfrom station.process import age_s\nprint(age_s(), time.process_time())"
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    age, busy = map(float, said.split())
    tick = 2 / os.sysconf("SC_CLK_TCK")
    assert busy - tick <= age <= time.monotonic() - began + tick
