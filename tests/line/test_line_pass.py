"""What a good unit holds after PASS, as strangers see it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from whole_line import Bench, MakeStation, order_troubles

from station.faults import Fault, FaultError
from station.sim.jig import SimJig
from station.sim.line import Provider, Station, wait_for

FIRST_LINES = ["identify", "admit", "enroll", "issue", "install", "verify", "connect"]


def run(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **(env or {})}
    )


def passed(bench: Bench, serial: str) -> Any:
    board = bench.plug(serial)
    result = bench.station.result()
    assert (result["outcome"], result["fault"], result["detail"]) == ("PASS", None, "")
    return board


@pytest.mark.parametrize("origin", ["board", "station"])
def test_a_good_board_passes_with_every_step_on_record(
    station: Station, jig: SimJig, cloud_api: Any, origin: str
) -> None:
    station.order("WO-1", f"console-{origin}-key", 1)
    bench = Bench(station, jig, cloud_api)
    result = bench.run("SN-1")
    assert result["outcome"] == "PASS"
    (history,) = bench.history("SN-1")
    assert [step["step"] for step in history["steps"]] == FIRST_LINES
    assert (history["outcome"], history["operator"], history["order"]) == ("PASS", "demo", "WO-1")
    assert bench.certificate_states("SN-1") == ["ACTIVE"]
    assert station.control.orders()[0]["passed"] == 1


def test_openssl_accepts_the_chain_and_shows_the_profile(bench: Bench, provider: Provider) -> None:
    board = passed(bench, "SN-2")
    chain = board.stored("chain")
    assert run("openssl", "verify", "-x509_strict", "-CAfile", str(provider.ca), str(chain)).stdout.endswith("OK\n")
    text = run("openssl", "x509", "-in", str(chain), "-noout", "-text").stdout
    for wanted in (
        "Version: 3",
        "CN = SN-2",
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Client Authentication",
        "X509v3 Subject Key Identifier",
        "X509v3 Authority Key Identifier",
    ):
        assert wanted in text
    leaf, ca = x509.load_pem_x509_certificates(chain.read_bytes())
    assert ca == x509.load_pem_x509_certificate(provider.ca.read_bytes())
    assert leaf.serial_number > 2**64
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca


def test_mosquitto_publishes_with_what_the_board_holds(bench: Bench, provider: Provider) -> None:
    board = passed(bench, "SN-3")
    published = run(
        "mosquitto_pub",
        *("--cafile", provider.cloud["server_roots"], "--cert", str(board.stored("chain"))),
        *("--key", str(board.stored("key")), "-h", "localhost", "-p", str(provider.cloud["mqtt_port"])),
        *("-q", "1", "-t", "foo/bar", "-i", "SN-3", "-m", "Hello"),
    )
    assert published.returncode == 0, published.stderr


def test_pkcs11_tool_shows_the_ca_key_sensitive_and_never_extractable(provider: Provider) -> None:
    module = provider.key.partition("module-path=")[2]
    shown = run(
        "pkcs11-tool",
        *("--module", module, "--token-label", "demo", "--login", "--pin", provider.pin.read_text().strip()),
        *("--list-objects", "--type", "privkey"),
        env={"SOFTHSM2_CONF": provider.environment["SOFTHSM2_CONF"]},
    ).stdout
    assert "device-ca" in shown
    access = next(line for line in shown.splitlines() if "Access" in line)
    assert "sensitive" in access
    assert "never extractable" in access
    assert "local" in access


def test_first_contact_over_443_with_alpn(make_station: MakeStation, jig: SimJig, cloud_api: Any) -> None:
    station = make_station()
    cloud = station.provider.cloud
    station.settings["aws"] |= {"port": cloud["alpn_port"]}
    station.settings["aws"]["simulator"] |= {"alpn": True}
    station.write_config()
    station.start()
    station.order("WO-1", "console-station-key", 1)
    assert Bench(station, jig, cloud_api).run("SN-4")["outcome"] == "PASS"


def test_the_provider_activates_and_the_station_waits(make_station: MakeStation, jig: SimJig, cloud_api: Any) -> None:
    station = make_station()
    station.settings["aws"]["activation"] = {"by": "provider"}
    station.write_config()
    station.start()
    station.order("WO-1", "console-board-key", 1)
    bench = Bench(station, jig, cloud_api)
    board = bench.plug("SN-5")
    wait_for("PENDING", lambda: bench.history("SN-5") and bench.certificate_states("SN-5") == ["PENDING_ACTIVATION"])
    (certificate,) = bench.history("SN-5")[0]["certificates"]
    arn = cloud_api.describe_certificate(certificateId=certificate["certificate_id"])["certificateDescription"]
    cloud_api.attach_policy(policyName="station-device", target=arn["certificateArn"])
    cloud_api.update_certificate(certificateId=certificate["certificate_id"], newStatus="ACTIVE")
    assert station.result()["outcome"] == "PASS"
    board.lift()


def test_a_retest_after_a_failed_run_passes_and_only_the_last_certificate_is_active(bench: Bench) -> None:
    assert bench.run("SN-6", "flip=40")["fault"] == "U121"
    bench.station.drained()
    assert bench.run("SN-6")["outcome"] == "PASS"
    bench.station.drained()
    assert bench.certificate_states("SN-6") == ["INACTIVE", "ACTIVE"]


def test_a_rework_takes_the_earlier_certificate_out_of_service(bench: Bench) -> None:
    assert bench.run("SN-7")["outcome"] == "PASS"
    bench.station.order("RMA-1", "console-station-key", 1, kind="rework", serials=["SN-7"], reason="cracked antenna")
    assert bench.run("SN-7")["outcome"] == "PASS"
    bench.station.drained()
    assert bench.certificate_states("SN-7") == ["INACTIVE", "ACTIVE"]
    assert [run["order"] for run in bench.history("SN-7")] == ["WO-1", "RMA-1"]


def test_a_golden_sample_runs_again_and_again_without_counting(bench: Bench) -> None:
    bench.station.order("GOLD-1", "console-station-key", 1, kind="golden", serials=["GOLD"])
    for _ in range(2):
        assert bench.run("GOLD")["outcome"] == "PASS"
    assert bench.station.control.orders()[0]["passed"] == 0


def test_a_board_that_nobody_can_dial_with_is_provisioned_and_fills_its_order(
    make_station: MakeStation, jig: SimJig, cloud_api: Any
) -> None:
    station = make_station()
    station.products["offline"] = {**station.products["console-board-key"], "first_contact": {"by": "none"}}
    station.write_config()
    station.start()
    station.order("WO-1", "offline", 1)
    bench = Bench(station, jig, cloud_api)
    result = bench.run("SN-9")
    assert (result["outcome"], result["fault"], result["step"]) == ("PROVISIONED", None, "verify")
    assert station.control.orders()[0]["passed"] == 1
    assert bench.history("SN-9")[0]["key_proof"] == "signed"
    # It connects in the field: nothing may have taken its certificate out of service.
    station.drained()
    assert bench.certificate_states("SN-9") == [None]
    assert bench.run("SN-9")["fault"] == "O501"


def test_the_exchange_with_the_board_is_kept_but_for_its_key(bench: Bench) -> None:
    board = passed(bench, "SN-10")
    found = bench.station.control.transcript("SN-10")
    said = "".join(entry["text"] for entry in found["entries"])
    assert " hello " in said
    assert " commit item=chain " in said
    assert "not kept: the unit's private key" in said
    assert "item=key" not in said
    shown = bench.station.run("unit", "SN-10", "--transcript")
    assert f"run {found['run']}" in shown
    assert "\\x1b[0;32m" in shown
    board.lift()
    with pytest.raises(FaultError) as error:
        bench.station.control.transcript("SN-11")
    assert error.value.fault is Fault.NO_TRANSCRIPT


def test_no_secret_is_in_the_log_or_the_ledger(bench: Bench, provider: Provider) -> None:
    board = passed(bench, "SN-8")
    key = board.stored("key").read_text()
    secrets = [provider.pin.read_text().strip(), *key.splitlines()[1:-1]]
    bench.station.stop()
    for file in Path(bench.station.folder).rglob("*"):
        if file.is_file():
            content = file.read_bytes().decode(errors="replace")
            for secret in secrets:
                assert secret not in content, file
    order_troubles(provider)
