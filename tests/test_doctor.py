"""The doctor: every part of a real station asked, each broken once, and the sentence that says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from ledgers import open_ledger
from whole_line import MakeStation, asked

from station.ceremony.session import public_pem
from station.cli import main
from station.doctor import Doctor, Level, examine
from station.faults import Fault
from station.hsm.pin import PinSource
from station.hsm.signers import generate_key
from station.hsm.uri import KeyUri
from station.jig.survey import Plugged, SlotView
from station.model import KeyType
from station.sim.line import Provider, Station, softhsm_module


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


def test_a_wrong_pin_before_the_right_one_is_told(resting: Station, own_token: Provider) -> None:
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
        found = asked(resting, "token")
        assert (found.level, found.fault) == (Level.WARN, Fault.WRONG_PIN_SEEN)
        assert asked(resting, "token").level is Level.GOOD  # the right PIN made the token forget it


def test_the_doctor_tries_a_wrong_pin_once_and_then_never(resting: Station, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong-pin"
    wrong.write_text("000000\n")
    wrong.chmod(0o600)
    resting.settings["hsm"]["pin"] = {"file": str(wrong)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(resting.provider.folder / "softhsm2.conf"))
        first, second = asked(resting, "token"), asked(resting, "token")
    assert first.fault is second.fault is Fault.HSM_PIN
    assert "one try was made" in first.text
    assert "no further try is made" in second.text


LOCKED, FINAL_TRY = 0x40000, 0x20000  # CKF_USER_PIN_LOCKED, CKF_USER_PIN_FINAL_TRY (PKCS #11, CK_TOKEN_INFO)


@pytest.mark.parametrize(("flag", "says"), [(LOCKED, "the PIN is locked"), (FINAL_TRY, "one more wrong PIN locks it")])
def test_a_token_at_its_last_try_is_not_tried(resting: Station, own_token: Provider, flag: int, says: str) -> None:
    """SoftHSM never locks, but it tells the flags that its file holds: a vendor's token sets them by itself."""
    (file,) = (own_token.folder / "tokens").glob("*/token.object")
    content = file.read_bytes()
    at = content.index(bytes.fromhex("8000534b0000000000000002")) + 12  # CKA_OS_TOKENFLAGS, a number
    flags = int.from_bytes(content[at : at + 8], "big") | flag
    file.write_bytes(content[:at] + flags.to_bytes(8, "big") + content[at + 8 :])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", own_token.environment["SOFTHSM2_CONF"])
        found = asked(resting, "token")
        assert (found.level, found.fault) == (Level.BAD, Fault.PIN_LOCKED)
        assert says in found.text
        file.write_bytes(content)  # unlocked by the token's holder: nothing else is to be done
        assert asked(resting, "token").level is not Level.BAD


def test_a_token_or_key_that_is_not_the_settings_is_told(resting: Station, ca_of_nobody: Path) -> None:
    usual = dict(resting.settings["hsm"])
    for change, fault in (("token=demo", Fault.HSM_TOKEN), ("object=device-ca", Fault.HSM_KEY)):
        resting.settings["hsm"] = {**usual, "key": usual["key"].replace(change, f"{change}-other")}
        assert asked(resting, "token").fault is fault
    resting.settings["hsm"] = usual
    resting.settings["ca"] = {"certificate": str(ca_of_nobody)}
    assert asked(resting, "token").fault is Fault.CA_MISMATCH


def test_a_seal_that_cannot_sign_is_told_with_the_token(resting: Station, own_token: Provider) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", own_token.environment["SOFTHSM2_CONF"])
        key = KeyUri.parse(own_token.key.replace("device-ca", "seal"))
        pin, latch = PinSource(file=own_token.pin), resting.state / "pin-latch"
        public = generate_key(replace(key, id=b"\x05"), pin, latch, KeyType.P256)
        (resting.folder / "seal.pem").write_text(public_pem(public))
        resting.settings["seal"] = {"public": "seal.pem", "key": str(key)}
        assert "and with the seal" in asked(resting, "token").text
        other = ec.generate_private_key(ec.SECP256R1()).public_key()
        (resting.folder / "seal.pem").write_text(public_pem(other))
        found = asked(resting, "token")
    assert (found.level, found.fault) == (Level.BAD, Fault.SEAL_MISMATCH)


def test_the_ca_must_outlive_what_it_signs(resting: Station) -> None:
    soon = asked(resting, "ca certificate", clock=lambda: datetime.now(UTC) + timedelta(days=3650 - 365 - 30))
    late = asked(resting, "ca certificate", clock=lambda: datetime.now(UTC) + timedelta(days=3650 - 300))
    assert (soon.level, soon.fault) == (Level.WARN, Fault.CA_EXPIRES)
    assert (late.level, late.fault) == (Level.BAD, Fault.CA_EXPIRES)


@pytest.mark.parametrize(("days", "word"), [(-1, "behind"), (1, "ahead of")])
def test_a_wrong_clock_is_told_with_its_direction(resting: Station, days: int, word: str) -> None:
    found = asked(resting, "clock", clock=lambda: datetime.now(UTC) + timedelta(days=days))
    assert (found.level, found.fault) == (Level.BAD, Fault.CLOCK_WRONG)
    assert word in found.text


@pytest.mark.parametrize(("free", "level"), [(100, Level.BAD), (1000, Level.WARN), (100_000, Level.GOOD)])
def test_a_full_disk_is_told(resting: Station, monkeypatch: pytest.MonkeyPatch, free: int, level: Level) -> None:
    # A disk of that size cannot be had without root's mount; what is asked of it is one number.
    usage = type("Usage", (), {"free": free * 2**20})
    monkeypatch.setattr("station.doctor.shutil.disk_usage", lambda path: usage)
    found = asked(resting, "disk")
    assert found.level is level
    assert found.fault is (None if level is Level.GOOD else Fault.DISK_LOW)


def test_a_damaged_ledger_is_told_and_not_touched(resting: Station) -> None:
    file = resting.state / "ledger.sqlite"
    open_ledger(file, simulated=True).dispose()
    content = bytearray(file.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    file.write_bytes(content)
    found = asked(resting, "ledger")
    assert (found.level, found.fault) == (Level.BAD, Fault.LEDGER_DOWN)
    assert file.read_bytes() == bytes(content)


def test_a_ledger_without_an_open_order_and_of_the_other_kind(resting: Station) -> None:
    assert asked(resting, "ledger").text.startswith("no ledger yet")
    assert not (resting.state / "ledger.sqlite").exists()
    open_ledger(resting.state / "ledger.sqlite", simulated=True).dispose()
    assert asked(resting, "ledger").level is Level.GOOD
    assert asked(resting, "orders").fault is Fault.NO_ORDER
    (resting.state / "ledger.sqlite").unlink()
    assert asked(resting, "ledger").fault is Fault.LEDGER_GONE
    (resting.state / "ledger.sqlite.mark").unlink()
    open_ledger(resting.state / "ledger.sqlite", simulated=False).dispose()
    assert asked(resting, "ledger").fault is Fault.SIMULATION_MIXED


def test_a_port_that_may_not_be_opened_and_two_in_one_slot_are_told(
    resting: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    resting.port.write_bytes(b"")
    assert asked(resting, "slots").text.startswith("1 slot(s), 1 with a board")
    with monkeypatch.context() as patch:
        patch.setattr("station.doctor.os.access", lambda *_: False)  # root, who runs tests, may open everything
        denied = asked(resting, "slots")
    two = SlotView("1", "usb 1-1", tuple(Plugged(str(resting.port), str(resting.port)) for _ in range(2)))
    monkeypatch.setattr("station.doctor.slots_now", lambda _: [two])  # as udev would tell (test_jig_udev.py)
    ambiguous = asked(resting, "slots")
    assert [one.fault for one in (denied, ambiguous)] == [Fault.PORT_DENIED, Fault.PORT_AMBIGUOUS]
    assert "dialout" in denied.text
    assert "name one" in ambiguous.text


def test_a_light_that_is_not_there_is_named(resting: Station, tmp_path: Path) -> None:
    lights = {"kind": "leds", "folder": str(tmp_path), **{c: f"slot1-{c}" for c in ("green", "red", "amber", "blue")}}
    resting.settings["slots"][0]["lamp"] = lights
    for colour in ("green", "red", "amber"):
        (tmp_path / f"slot1-{colour}").mkdir()
        (tmp_path / f"slot1-{colour}" / "brightness").write_text("0")
    found = asked(resting, "lamps")
    assert (found.level, found.fault) == (Level.BAD, Fault.PORT_DENIED)
    assert "slot1-blue" in found.text


def test_the_command_keeps_its_five_seconds_after_a_slow_start_too(
    settings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    never = threading.Event()
    monkeypatch.setattr("station.process.age_s", lambda: 4.2)
    monkeypatch.setattr(Doctor, "parts", lambda _: {"hangs": never.wait, "fine": lambda: "well"})
    assert main(["--config", str(settings), "doctor"]) == 1
    said = capsys.readouterr().out
    assert "no answer within 0.5 s" in said
    assert "well" in said


def test_a_process_knows_its_age_with_the_interpreter_s_start() -> None:
    code = "import time\nfrom station.process import age_s\nprint(age_s(), time.process_time())"
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    age, busy = map(float, said.split())
    tick = 2 / os.sysconf("SC_CLK_TCK")
    assert busy - tick <= age <= time.monotonic() - began + tick
