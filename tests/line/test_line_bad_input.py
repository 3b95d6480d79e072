"""Bad input, each with its clear error, and no trace left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from whole_line import Bench, MakeStation, fresh_serial

from station.sim.jig import SimJig
from station.sim.line import Provider, Station


def start_fails(station: Station, environment: dict[str, str] | None = None) -> str:
    """Start a daemon that must refuse; return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "station", "--config", str(station.config), "run"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=dict(environment or station.provider.environment),
    )
    assert done.returncode == 1, done
    assert not (station.runtime / "control.sock").exists()
    return done.stderr


def test_without_an_open_order_there_is_no_run(station: Station, jig: SimJig, cloud_api: Any) -> None:
    bench = Bench(station, jig, cloud_api)
    result = bench.run("SN-1")
    assert (result["outcome"], result["fault"], result["run"]) == ("ERROR", "O501", None)
    assert bench.history("SN-1") == []


def test_an_order_for_an_unknown_product_is_refused(station: Station) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "station", "--config", str(station.config)),
            *("orders", "add", "WO-9", "--product", "toaster", "--quantity", "1"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "O506" in done.stderr
    assert "toaster" in done.stderr
    assert "console-board-key" in done.stderr
    assert station.control.orders() == []


def test_broken_yaml_names_file_and_line(make_station: MakeStation) -> None:
    station = make_station()
    station.config.write_text("station: x\nslots: [\n")
    said = start_fails(station)
    assert "S606" in said
    assert "station.yaml:" in said


def test_a_wrong_pin_is_tried_once_whatever_restarts(make_station: MakeStation, own_token: Provider) -> None:
    good = own_token.pin.read_text()
    own_token.pin.write_text("wrong-pin\n")
    station = make_station(where=own_token)
    assert "C303" in start_fails(station)
    # The PIN is right now, and yet nobody may try before a person says so.
    own_token.pin.write_text(good)
    said = start_fails(station)
    assert "C303" in said
    assert "clear-pin" in said
    cleared = subprocess.run(
        [sys.executable, "-m", "station", "--config", str(station.config), "hsm", "clear-pin"], check=False
    )
    assert cleared.returncode == 0
    station.start()
    assert station.stop() == 0


def test_a_missing_module_is_named(make_station: MakeStation) -> None:
    station = make_station()
    station.settings["hsm"]["key"] = "pkcs11:token=demo;object=device-ca?module-path=/nowhere/lib.so"
    station.write_config()
    said = start_fails(station)
    assert "C304" in said
    assert "/nowhere/lib.so" in said


def test_a_ca_certificate_of_another_key_is_refused(make_station: MakeStation, tmp_path: Path) -> None:
    station = make_station()
    other = tmp_path / "other.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *(
                "-subj",
                "/CN=Other REHEARSAL",
                "-days",
                "3650",
                "-keyout",
                str(tmp_path / "other.key"),
                "-out",
                str(other),
            ),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        ],
        check=True,
        capture_output=True,
    )
    station.settings["ca"] = {"certificate": str(other)}
    station.write_config()
    assert "C310" in start_fails(station)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("bad-csr-signature", "U110"),
        ("weak-rsa", "U113"),
        ("csr-subject=SOMEBODY-ELSE", "U111"),
        ("wrong-key", "U123"),
        ("forget", "U122"),
        ("flip=100", "U121"),
        ("flood", "U102"),
        ("silent", "U101"),
        ("bad-serial=../../etc/passwd", "U10"),
        ("bad-serial=<script>alert(1)</script>", "U10"),
        ("bad-serial=A\nB", "U10"),
        ("full", "U120"),
        ("no-boot-change", "U106"),
    ],
)
def test_a_bad_board_fails_by_its_own_fault_and_the_next_one_passes(
    lasting_bench: Bench, fault: str, code: str
) -> None:
    bad = fresh_serial()
    result = lasting_bench.run(bad, fault)
    assert result["outcome"] == "FAIL"
    assert result["fault"].startswith(code)
    if result["serial"]:
        lasting_bench.nothing_active(bad)
    assert lasting_bench.run(fresh_serial())["outcome"] == "PASS"
    written = [path.name for path in lasting_bench.station.folder.rglob("*")]
    assert not [name for name in written if "script" in name or "passwd" in name]
    for line in lasting_bench.station.log.read_text().splitlines():
        json.loads(line)


def test_a_key_that_lives_on_another_unit_is_a_clone(board_bench: Bench, tmp_path: Path) -> None:
    key = tmp_path / "clone.pem"
    made = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert board_bench.run("SN-1", f"key-file={key}")["outcome"] == "PASS"
    result = board_bench.run("SN-2", f"key-file={key}")
    assert (result["outcome"], result["fault"]) == ("FAIL", "U114")
    assert board_bench.certificate_states("SN-1") == ["ACTIVE"]


@pytest.mark.parametrize(("after", "step"), [("read", "install"), ("reset", "verify"), ("sign", "connect")])
def test_a_board_that_was_swapped_is_found_out_before_the_next_thing_is_done_to_it(
    lasting_bench: Bench, after: str, step: str
) -> None:
    serial, other, before = fresh_serial(), fresh_serial(), lasting_bench.station.slot()["since"]
    board = lasting_bench.plug(serial, f"swap-at={after}:{other}:CHIP-{other}")
    result = lasting_bench.station.result(after=before)
    assert (result["outcome"], result["fault"], result["step"]) == ("ABORTED", "J202", step)
    board.lift()
    lasting_bench.station.empty()
    lasting_bench.nothing_active(serial)


def test_a_serial_that_belongs_to_another_chip_is_refused(board_bench: Bench) -> None:
    assert board_bench.run("SN-1")["outcome"] == "PASS"
    result = board_bench.run("SN-1", chip="CHIP-OTHER")
    assert (result["outcome"], result["fault"]) == ("FAIL", "U115")


def test_a_unit_that_passed_is_not_made_again_without_a_rework_order(board_bench: Bench) -> None:
    assert board_bench.run("SN-1")["outcome"] == "PASS"
    result = board_bench.run("SN-1")
    assert (result["outcome"], result["fault"]) == ("ERROR", "O503")
    assert board_bench.certificate_states("SN-1") == ["ACTIVE"]


def test_a_board_of_another_model_is_the_orders_fault(board_bench: Bench) -> None:
    board = board_bench.jig.plug(board_bench.station.port, serial="SN-1", chip="C1", model="other-board", faults=())
    result = board_bench.station.result()
    board.lift()
    assert (result["outcome"], result["fault"]) == ("ERROR", "O505")


def test_a_second_station_on_the_same_state_is_refused(station: Station) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "station", "--config", str(station.config), "run"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=dict(station.provider.environment),
    )
    assert done.returncode == 1
    assert "S608" in done.stderr
    assert station.slot()["state"] == "empty"
