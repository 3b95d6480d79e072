"""The family `nrf91`: the contract on a simulated modem, its traps, and boards that are noisy, broken or false."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from board_contract import BoardContract
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from family_bed import Bed, bed, certified, less_patience, product_of, provisioned, refusal
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from station.boards.attestation import Attestation
from station.boards.csr import mended
from station.boards.nrf91 import FAMILY, Nrf91Board, Options
from station.faults import Fault, FaultError
from station.model import Call, KeyOrigin, KeyProof, KeyType
from station.sim.jig import SimJig

IMEI, CHIP, MODEL, FIRMWARE = (
    "352656100885188",
    "25c95751-efa4-40d4-8b4a-1dcaab81fac9",
    "nRF9151-LACA",
    "mfw_nrf91x1_2.0.2",
)
BOARD, STATION = {"sec_tag": 42}, {"key_origin": KeyOrigin.STATION}

# What a real modem answered to AT%KEYGEN=52,2,0 (nRFCloud/utils, tests/test_device_credentials_installer.py).
REAL_CSR = (
    "MIIBCzCBrwIBADAvMS0wKwYDVQQDDCQ1MDM2Mzk1My0zMjM0LTQ3MjMtODBiOS0xNTAzZDg4MjcxYmYwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC"
    "AAQ37lDghqs2kF2iiH8lYRDDxNMiziQRPPdw9Meb1iHfTEZNdlB1xZzMV-oK6i52p1GHYQszjoDzUAZF2zU2MTGGoB4wHAYJKoZIhvcNAQkOMQ8w"
    "DTALBgNVHQ8EBAMCA-gwDAYIKoZIzj0EAwIFAANJADBGAiEAzaMPi5NcWFYZBJGBMk0tU-TBoNDVlQUzhHWJzXKRTWsCIQCWYpYqjccA281F5Geb"
    "8SwOP3tnjS_ZbAXUgVWhTVNuvg"
)
REAL_COSE = (
    "0oRDoQEmoQRBIVhM2dn3hQlQUDY5UzI0RyOAuRUD2IJxv0IYNFggTaa7Z9K-8bQPz3YG5o_h32quNr0FHEtnX5VpEZ-8gflQY8D67v4xx32mF0L3"
    "-mbuuVhAfY3TgibaimIVPaN1C3Sz_oWj6JPf8sEOV2XNBDUNCV3sD3WdNOjgv32-rLXAx_vBIvpk1DTCb3Y97zqFhhdKlw"
)


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class TestContract(BoardContract):
    """The AT host; the key is made in the modem, which can show nothing of it."""

    driver = Nrf91Board
    serial, chip, model = IMEI, CHIP, MODEL
    keys: ClassVar = [(KeyOrigin.BOARD, KeyType.P256)]
    proofs: ClassVar = {KeyOrigin.BOARD: KeyProof.UNPROVEN}
    dials = False
    mode, baud_bytes = "at", 0
    options = Options(sec_tag=42)

    @pytest.fixture
    def port(self, tmp_path: Path) -> Iterator[str]:
        with SimJig(tmp_path) as jig:
            identity: dict[str, Any] = {"serial": IMEI, "chip": CHIP, "model": MODEL, "fw": FIRMWARE}
            jig.plug(tmp_path / "port", **identity, family="nrf91", mode=self.mode, baud_bytes=self.baud_bytes)
            yield str(tmp_path / "port")


class TestContractThroughTheShell(TestContract):
    """The AT shell at the speed of 921,600 baud; the key is made on the station and read back by its digest."""

    keys: ClassVar = [(KeyOrigin.STATION, kind) for kind in (KeyType.P256, KeyType.P384, KeyType.RSA2048)]
    proofs: ClassVar = {KeyOrigin.STATION: KeyProof.DIGEST}
    mode, baud_bytes = "shell", 92_160
    options = Options(sec_tag=42, host="shell", reset="kernel")


@pytest.fixture
def modem(tmp_path: Path) -> Iterator[Bed]:
    with bed(tmp_path, "nrf91", serial=IMEI, chip=CHIP, model=MODEL, fw=FIRMWARE) as made:
        yield made


@pytest.mark.parametrize("faults", [["noise"], ["no-echo", "garbage"]])
def test_a_modem_behind_a_shell_is_provisioned_whatever_its_console_prints(modem: Bed, faults: list[str]) -> None:
    made = product_of("nrf91", {"sec_tag": 42, "host": "shell"})
    assert provisioned(modem.open(made, *faults, mode="shell"), made) is KeyProof.UNPROVEN


def test_a_modem_that_restarts_before_it_numbers_its_errors_is_provisioned_none_the_less(modem: Bed) -> None:
    made = product_of("nrf91", BOARD, **STATION)
    assert provisioned(modem.open(made, "reset-at=3"), made) is KeyProof.DIGEST


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("silent", Fault.UNIT_SILENT),
        ("vanish-at=9", Fault.LIFTED),
        ("never-back", Fault.UNIT_SILENT),
        ("full", Fault.INSTALL_REFUSED),
        ("forget", Fault.NOT_PERSISTENT),
        ("flip", Fault.READBACK_DIFFERS),
        ("keygen-fails", Fault.UNIT_REFUSED),
        ("bad-csr-signature", Fault.CSR_INVALID),
        ("bad-digest", Fault.UNATTESTED),
        ("wrong-tag", Fault.UNATTESTED),
        ("wrong-device", Fault.UNATTESTED),
    ],
)
def test_each_trouble_has_its_fault(modem: Bed, fault: str, expected: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    less_patience(monkeypatch, "nrf91", expected)
    made = product_of("nrf91", BOARD)
    board = modem.open(made, fault)
    refusal(lambda: provisioned(board, made), expected)


def test_the_csr_with_its_null_is_what_the_ca_cannot_read_and_the_mended_one_is(modem: Bed) -> None:
    raw = decoded(REAL_CSR)
    with pytest.raises(ValueError, match="signature_alg"):
        x509.load_der_x509_csr(raw)
    request = x509.load_der_x509_csr(mended(raw))
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=50363953-3234-4723-80b9-1503d88271bf"
    assert mended(mended(raw)) == mended(raw)


@given(st.binary(max_size=600), st.integers(0, 266))
def test_nothing_makes_the_mending_fall_over(noise: bytes, at: int) -> None:
    mended(noise)
    raw = decoded(REAL_CSR)
    mended(raw[:at] + noise + raw[at:])


def test_a_real_modem_s_attestation_is_of_its_csr_and_of_no_other() -> None:
    found = Attestation.read(decoded(REAL_COSE))
    device = "50363953-3234-4723-80b9-1503d88271bf"
    found.check(decoded(REAL_CSR), 52, device, ())
    refusal(lambda: found.check(decoded(REAL_CSR)[:-1], 52, device, ()), Fault.UNATTESTED)
    refusal(lambda: found.check(decoded(REAL_CSR), 53, device, ()), Fault.UNATTESTED)
    refusal(lambda: found.check(decoded(REAL_CSR), 52, CHIP, ()), Fault.UNATTESTED)


@given(st.binary(max_size=300), st.integers(0, 220))
def test_no_bytes_of_an_attestation_make_the_driver_fall_over(noise: bytes, at: int) -> None:
    real = decoded(REAL_COSE)
    for text in (noise, real[:at] + noise, real[:at] + noise + real[at:]):
        if text != real:
            with suppress(FaultError):
                Attestation.read(text).check(decoded(REAL_CSR), 52, None, ())


def test_where_the_product_lists_the_identity_keys_the_attestation_is_by_one_of_them(
    modem: Bed, tmp_path: Path
) -> None:
    plain = product_of("nrf91", BOARD)
    modem.open(plain).enroll(IMEI)
    (public,) = tmp_path.rglob("identity.pub")
    listed = tmp_path / "identity-keys.pem"
    listed.write_bytes(public.read_bytes())
    strict = product_of("nrf91", {**BOARD, "identity_keys": listed})
    assert provisioned(modem.open(strict), strict) is KeyProof.UNPROVEN
    for fault in ("bad-attestation", "no-attestation"):
        refusal(partial(modem.open(strict, fault).enroll, IMEI), Fault.UNATTESTED)
    assert modem.open(plain, "no-attestation").enroll(IMEI).csr


@pytest.mark.parametrize("tag", [2_147_483_648, 2_147_483_667, 2_147_483_668, 0, -1])
def test_the_tags_whose_tls_can_be_decrypted_and_other_odd_ones_are_refused(tag: int) -> None:
    with pytest.raises(ValidationError) as error:
        Options(sec_tag=tag)
    assert ("decrypt" in str(error.value)) is (tag in range(2_147_483_648, 2_147_483_668))


@pytest.mark.parametrize("host", ["at", "shell"])
def test_what_one_command_cannot_carry_is_refused_before_anything_is_sent(modem: Bed, host: str) -> None:
    made = product_of("nrf91", {**BOARD, "host": host, "line_bytes": 1_400}, **STATION)
    board = modem.open(made, mode=host)
    credentials = certified(board.enroll(IMEI), made, IMEI)
    before = len(modem.transcript.entries())
    kconfig = {"at": "CONFIG_AT_HOST_CMD_MAX_LEN", "shell": "CONFIG_SHELL_CMD_BUFF_SIZE"}[host]
    assert kconfig in refusal(lambda: board.install(credentials), Fault.PRODUCT_UNFIT)
    assert len(modem.transcript.entries()) == before
    assert FAMILY.limits(made.options).place_bytes == made.options.room < len(credentials.chain_pem)


@pytest.mark.parametrize("host", ["at", "shell"])
def test_a_text_of_just_the_room_makes_no_longer_line(host: str) -> None:
    options = Options.model_validate({"host": host})
    text = ("A" * 64 + "\n") * 200
    line = options.write(1, text[: options.room])
    if host == "shell":
        line = "at '" + line.replace("\n", "\\n") + "'"
    assert options.line_bytes - 66 < len(line) <= options.line_bytes


def test_a_shell_that_keeps_the_escapes_stores_no_certificate(modem: Bed) -> None:
    made = product_of("nrf91", {**BOARD, "host": "shell"}, **STATION)
    board = modem.open(made, "keeps-escapes", mode="shell")
    assert "527" in refusal(lambda: provisioned(board, made), Fault.INSTALL_REFUSED)


def test_a_firmware_with_a_shorter_line_than_it_should_have_is_named(modem: Bed) -> None:
    made = product_of("nrf91", BOARD, **STATION)
    refusal(lambda: provisioned(modem.open(made, "cut"), made), Fault.INSTALL_REFUSED)


def test_before_modem_firmware_1_3_the_imei_is_the_chip_id(modem: Bed) -> None:
    unit = modem.open(product_of("nrf91", BOARD), "no-uuid", "no-null").identify()
    assert (unit.serial, unit.chip_id, unit.model, unit.firmware) == (IMEI, IMEI, MODEL, FIRMWARE)


def test_a_whole_restart_by_the_modem_firmware_s_own_command(modem: Bed) -> None:
    made = product_of("nrf91", {**BOARD, "reset": "xreset"})
    assert provisioned(modem.open(made, "renumber"), made) is KeyProof.UNPROVEN


def test_a_shell_that_does_not_restart_is_found_out(modem: Bed) -> None:
    made = product_of("nrf91", {**BOARD, "host": "shell", "reset": "kernel"})
    # Slow, so that it has been up for some while before the reset.
    board = modem.open(made, "no-restart", "slow=50", mode="shell")
    board.identify()
    refusal(board.reset, Fault.UNIT_RESET)


@pytest.mark.parametrize("reset", ["cfun", "xreset"])
def test_a_modem_that_answers_ok_and_goes_on_as_before_is_found_out(modem: Bed, reset: str) -> None:
    board = modem.open(product_of("nrf91", {**BOARD, "reset": reset}), "no-restart")
    board.identify()
    refusal(board.reset, Fault.UNIT_RESET)


@pytest.mark.parametrize(
    ("fault", "expected", "said"),
    [
        ("not-allowed", Fault.INSTALL_REFUSED, "514 the modem does not allow it"),
        ("active", Fault.INSTALL_REFUSED, "518 the modem is active"),
        ("keeps", Fault.UNIT_REFUSED, "519 such a credential exists already"),
    ],
)
def test_an_error_of_the_modem_is_told_by_its_number_and_in_words(
    modem: Bed, fault: str, expected: Fault, said: str
) -> None:
    made = product_of("nrf91", BOARD)
    modem.open(made).enroll(IMEI)
    modem.lift()
    board = modem.open(made, fault)
    assert said in refusal(lambda: board.enroll(IMEI), expected)


def test_a_modem_cannot_dial_and_takes_no_images(modem: Bed) -> None:
    board = modem.open(product_of("nrf91", BOARD))
    refusal(lambda: board.dial(Call("localhost", 8883, IMEI, "t", b"x", 1)), Fault.UNIT_CANNOT_DIAL)
    refusal(board.flash, Fault.CONFIG)


def test_a_slot_finds_out_whether_a_modem_is_in_it(tmp_path: Path) -> None:
    made = product_of("nrf91", BOARD)
    assert not Nrf91Board.probe(str(tmp_path / "none"), made)
    with SimJig(tmp_path) as jig:
        for place, faults in (("good", ()), ("mute", ("silent",))):
            jig.plug(tmp_path / place, serial=IMEI, chip=f"chip-{place}", model=MODEL, family="nrf91", faults=faults)
        assert Nrf91Board.probe(str(tmp_path / "good"), made)
        assert not Nrf91Board.probe(str(tmp_path / "mute"), made)


def test_the_ca_s_own_leaf_is_what_the_modem_holds(modem: Bed, tmp_path: Path) -> None:
    made = product_of("nrf91", BOARD)
    board = modem.open(made)
    credentials = certified(board.enroll(IMEI), made, IMEI)
    board.install(credentials)
    (stored,) = tmp_path.rglob("42-1.pem")
    assert stored.read_bytes() == credentials.leaf.public_bytes(Encoding.PEM) + credentials.chain[1].public_bytes(
        Encoding.PEM
    )
