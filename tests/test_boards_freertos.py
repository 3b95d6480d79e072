"""The family `freertos`: the contract on a simulated command line, its traps, and boards that are noisy or broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from board_contract import BoardContract
from cryptography import x509
from family_bed import Bed, bed, certified, less_patience, product_of, provisioned, refusal
from pydantic import ValidationError

from station.boards.freertos import FAMILY, FreertosBoard, Options
from station.boards.wire import NOISE_MAX
from station.credentials import chosen_roots
from station.faults import Fault
from station.fit import misfits
from station.model import Call, ChainForm, FirstContact, KeyOrigin, KeyProof, KeyType
from station.sim.jig import SimJig

LEAF: dict[str, Any] = {"chain_form": ChainForm.LEAF}
ROOTS = (Path(__file__).parent.parent / "config/amazon-roots.pem").read_bytes()


class TestContract(BoardContract):
    """At the speed of 921,600 baud; the key is made on the board."""

    driver = FreertosBoard
    roots = False  # a label holds one of the station's: the driver compares it itself
    serial = chip = "SN-1"
    keys: ClassVar = [(KeyOrigin.BOARD, KeyType.P256)]
    proofs: ClassVar = {KeyOrigin.BOARD: KeyProof.UNPROVEN}
    dials = False
    form = ChainForm.LEAF
    options = Options(endpoint="abc-ats.iot.us-east-1.amazonaws.com")

    @pytest.fixture
    def port(self, tmp_path: Path) -> Iterator[str]:
        with SimJig(tmp_path) as jig:
            identity: dict[str, Any] = {"serial": "SN-1", "chip": "uid", "model": "none", "family": "freertos"}
            jig.plug(tmp_path / "port", **identity, baud_bytes=92_160)
            yield str(tmp_path / "port")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Bed]:
    with bed(tmp_path, "freertos", serial="SN-1", chip="uid", model="none") as made:
        yield made


def test_a_board_is_provisioned_whatever_its_log_says_in_the_middle_of_a_pem(cli: Bed) -> None:
    made = product_of("freertos", {}, **LEAF)
    assert provisioned(cli.open(made, "interrupted", "noise"), made) is KeyProof.UNPROVEN


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("silent", Fault.UNIT_SILENT),
        ("vanish-at=6", Fault.LIFTED),
        ("never-back", Fault.UNIT_SILENT),
        ("no-restart", Fault.UNIT_RESET),
        ("forget", Fault.NOT_PERSISTENT),
        ("flip", Fault.READBACK_DIFFERS),
        ("import-fails", Fault.INSTALL_REFUSED),
        ("no-csr", Fault.UNIT_REFUSED),
        ("other-key", Fault.KEY_UNPROVEN),
        ("bad-csr-signature", Fault.CSR_INVALID),
    ],
)
def test_each_trouble_has_its_fault(cli: Bed, fault: str, expected: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    less_patience(monkeypatch, "freertos", expected)
    made = product_of("freertos", {}, **LEAF)
    board = cli.open(made, fault)
    refusal(lambda: provisioned(board, made), expected)


def test_a_configuration_that_cannot_be_saved_is_named(cli: Bed) -> None:
    board = cli.open(product_of("freertos", {}, **LEAF), "no-commit")
    refusal(lambda: board.enroll("SN-2"), Fault.UNIT_REFUSED)


def test_a_label_holds_one_certificate_so_that_the_product_must_say_leaf(cli: Bed) -> None:
    made = product_of("freertos", {}, **LEAF)
    board = cli.open(made)
    assert isinstance(board, FreertosBoard)
    credentials = certified(board.enroll("SN-1"), made, "SN-1")
    # What happens otherwise: behind the first END, the firmware takes lines for commands.
    board._ask("pki import cert", 3)
    said = [line for text in credentials.chain_pem.splitlines() * 2 for line in board._ask(text.decode(), 3)]
    assert b"Command not recognized. Enter 'help' to view a list of available commands." in said
    whole = product_of("freertos", {})
    (sentence,) = misfits(whole, FAMILY.limits(whole.options), credentials.chain)
    assert "no chain of the form leaf+ca (it holds: leaf)" in sentence


def test_one_root_of_the_station_s_goes_in_and_the_product_names_it(cli: Bed) -> None:
    made = product_of("freertos", {}, **LEAF)
    board = cli.open(made)
    credentials = certified(board.enroll("SN-1"), made, "SN-1")
    many = type(credentials)(credentials.chain, chosen_roots(ROOTS, ()), None, ChainForm.LEAF)
    before = len(cli.transcript.entries())
    refusal(lambda: board.install(many), Fault.PRODUCT_UNFIT)
    assert len(cli.transcript.entries()) == before
    (sentence,) = misfits(made, FAMILY.limits(made.options), credentials.chain, ROOTS)
    assert "holds 1 of the 4 server roots; name those it needs" in sentence


def test_a_certificate_of_over_2_048_bytes_is_refused_before_anything_is_sent(cli: Bed) -> None:
    made = product_of("freertos", {}, **LEAF)
    board = cli.open(made)
    credentials = certified(board.enroll("SN-1"), made, "SN-1")
    limits = FAMILY.limits(made.options)
    assert limits.certificate_bytes == 1_983
    small = type(limits)(limits.forms, limits.board_keys, certificate_bytes=300, lifted_by=limits.lifted_by)
    (sentence,) = misfits(made, small, credentials.chain)
    assert "PEM_CERT_MAX_LEN" in sentence


def test_the_longest_thing_name_and_endpoint_stand_on_one_line_and_a_longer_name_is_refused_before(cli: Bed) -> None:
    made = product_of("freertos", {"endpoint": "e" * 100}, **LEAF, client_id="{serial}" + "-" * 60)
    board = cli.open(made)
    unit = board.identify()
    name = made.client_id_of(unit)
    assert len(name) == 64
    assert x509.load_der_x509_csr(board.enroll(name).csr).subject.rfc4514_string() == f"CN={name}"
    longer = replace(unit, serial=unit.serial + "1")
    assert f"client id '{longer.serial}-" in refusal(lambda: made.client_id_of(longer), Fault.CONFIG)


def test_settings_that_did_not_stay_are_found_out(cli: Bed) -> None:
    made = product_of("freertos", {"endpoint": "abc-ats.iot.us-east-1.amazonaws.com"}, **LEAF)
    board = cli.open(made)
    assert isinstance(board, FreertosBoard)
    credentials = certified(board.enroll("SN-1"), made, "SN-1")
    board.install(credentials)
    board._set("mqtt_endpoint", "elsewhere.example")
    board._commit()
    board.reset()
    assert "mqtt_endpoint" in refusal(lambda: board.inspect(bytes(32)), Fault.READBACK_DIFFERS)


def test_a_fresh_board_gets_a_name_that_stays(cli: Bed, tmp_path: Path) -> None:
    with bed(tmp_path / "new", "freertos", serial="-", chip="uid", model="none") as fresh:
        nameless = fresh.open(product_of("freertos", {}, **LEAF))
        assert "new_name" in refusal(nameless.identify, Fault.UNIT_IDENTITY)
        nameless.close()
        fresh.plugged.lift()
        made = product_of("freertos", {"new_name": "u5-"}, **LEAF)
        unit = fresh.open(made).identify()
        assert unit.serial.startswith("u5-")
        assert len(unit.serial) == 15
        fresh.plugged.lift()
        assert fresh.open(made).identify() == unit


def test_a_thing_name_by_the_product_s_template_is_the_same_unit_in_this_run_and_in_the_next(cli: Bed) -> None:
    made = product_of("freertos", {}, **LEAF, client_id="acme-{serial}")
    board = cli.open(made)
    unit = board.identify()
    assert unit.serial == "SN-1"
    board.enroll("acme-SN-1")
    assert board.identify() == unit
    board.reset()
    assert board.identify() == unit
    cli.plugged.lift()
    assert cli.open(made).identify() == unit


@pytest.mark.parametrize(
    "options", [{"new_name": "a b"}, {"new_name": "x" * 40}, {"endpoint": "a; reset"}, {"colour": 1}]
)
def test_options_that_would_be_commands_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


def test_endless_output_costs_no_more_than_its_bound(cli: Bed) -> None:
    board = cli.open(product_of("freertos", {}, **LEAF), "flood=1")
    refusal(board.identify, Fault.UNIT_GARBLED)
    kept = sum(len(entry.data) for entry in cli.transcript.entries())
    assert kept < NOISE_MAX


def test_a_command_line_cannot_dial_and_takes_no_images(cli: Bed) -> None:
    made = product_of("freertos", {}, **LEAF)
    board = cli.open(made)
    refusal(lambda: board.dial(Call("localhost", 8883, "SN-1", "t", b"x", 1)), Fault.UNIT_CANNOT_DIAL)
    refusal(board.flash, Fault.CONFIG)
    assert made.first_contact is FirstContact.NONE


def test_a_slot_finds_out_whether_a_command_line_is_in_it(tmp_path: Path) -> None:
    made = product_of("freertos", {}, **LEAF)
    assert not FreertosBoard.probe(str(tmp_path / "none"), made)
    with SimJig(tmp_path) as jig:
        for place, faults in (("good", ()), ("mute", ("silent",))):
            jig.plug(tmp_path / place, serial="SN", chip=f"c-{place}", model="none", family="freertos", faults=faults)
        assert FreertosBoard.probe(str(tmp_path / "good"), made)
        assert not FreertosBoard.probe(str(tmp_path / "mute"), made)
