"""The family `esp32`: the real esptool against a simulated loader; partitions as the vendor's own parser reads them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from board_contract import BoardContract, Stop
from cryptography import x509
from esp_idf_nvs_partition_gen import nvs_partition_gen
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_ca import product

from station.boards.esp32 import FAMILY, Esp32Board, Nvs, Options
from station.boards.flasher import Flasher, OrderError
from station.boards.nvs import strings
from station.boards.secure_cert import Entry, build, entry, parse
from station.credentials import Credentials, examine
from station.faults import Fault, FaultError
from station.model import Call, ChainForm, Image, KeyOrigin, KeyProof, KeyType, Product
from station.sim.jig import PluggedBoard, SimJig
from station.transcript import Transcript

MAC = "A0B1C2D3E4F5"
BY_WATCHDOG = Options(reset="watchdog-reset")  # a pty has no RTS line


BY_NVS = Options(offset=0x9000, size=0x4000, nvs=Nvs(roots="server_roots"), reset="watchdog-reset")


class TestContract(BoardContract):
    """On a chip whose loader runs the stub, at 460,800 baud."""

    driver = Esp32Board
    model = "ESP32-C3"
    serial = chip = MAC
    keys: ClassVar = [(KeyOrigin.STATION, KeyType.P256), (KeyOrigin.STATION, KeyType.RSA2048)]
    proofs: ClassVar = {KeyOrigin.STATION: KeyProof.DIGEST}
    dials = False
    roots = False  # no place of this partition is for them: they are the firmware's own
    options = BY_WATCHDOG

    @pytest.fixture
    def port(self, tmp_path: Path) -> Iterator[str]:
        with SimJig(tmp_path) as jig:
            jig.plug(tmp_path / "port", serial=MAC, chip=MAC, model="ESP32-C3", family="esp32")
            yield str(tmp_path / "port")


# -- the partition ---------------------------------------------------------------------------------------------------


def test_one_entry_is_as_the_vendor_s_tool_makes_it() -> None:
    assert entry(51, b"hello").hex() == "11ba5eba000000003300050068656c6c6f0000000000000000000000680f0099"


ENTRIES = st.lists(
    st.builds(Entry, st.sampled_from([0, 1, 2, 51, 55]), st.binary(min_size=1, max_size=300)), max_size=6
)


@settings(max_examples=30)
@given(ENTRIES)
def test_what_was_built_is_read(entries: list[Entry]) -> None:
    partition = build(entries, 0x2000)
    assert len(partition) == 0x2000
    assert parse(partition) == entries


@settings(max_examples=30)
@given(ENTRIES.filter(bool), st.data())
def test_no_changed_bit_is_read_over(entries: list[Entry], data: st.DataObject) -> None:
    partition = bytearray(build(entries, 0x1000))
    at = data.draw(st.integers(0, len(partition) * 8 - 1))
    partition[at // 8] ^= 1 << at % 8
    with contextlib.suppress(ValueError):
        assert parse(bytes(partition)) != entries


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_no_garbage_makes_the_reader_fall_over(garbage: bytes) -> None:
    for content in (garbage, entry(1, b"x") + garbage, entry(1, b"x")[:-1] + garbage):
        with contextlib.suppress(ValueError):
            parse(content)


def test_what_does_not_fit_is_not_cut() -> None:
    with pytest.raises(ValueError, match="its entries are 4160 bytes, the partition has 4096"):
        build([Entry(1, bytes(4096))], 0x1000)


def test_the_integrity_entry_guards_against_a_lost_entry() -> None:
    first, second = Entry(1, b"first"), Entry(2, b"second")
    whole = build([first, second], 0x1000)
    with pytest.raises(ValueError, match="integrity"):
        parse(whole[len(entry(1, b"first")) :])
    with pytest.raises(ValueError, match="no integrity entry"):
        parse(entry(1, b"first").ljust(0x1000, b"\xff"))


# -- chips -----------------------------------------------------------------------------------------------------------

Plug = Callable[..., tuple[Esp32Board, PluggedBoard]]


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def transcript() -> Transcript:
    return Transcript()


@pytest.fixture
def plug(tmp_path: Path, stop: Stop, transcript: Transcript) -> Iterator[Plug]:
    opened: list[Esp32Board] = []
    with SimJig(tmp_path / "boards") as jig:

        def make(*faults: str, options: Options = BY_WATCHDOG, **changes: Any) -> tuple[Esp32Board, PluggedBoard]:
            port = tmp_path / "port"
            board = jig.plug(port, serial=MAC, chip=MAC, model="ESP32-C3", family="esp32", faults=faults)
            made = replace(station_key(), options=options, **changes)
            opened.append(Esp32Board(str(port), made, stop, transcript))
            return opened[-1], board

        (tmp_path / "boards").mkdir(exist_ok=True)
        yield make
        for driver in opened:
            driver.close()


def station_key(kind: KeyType = KeyType.P256) -> Product:
    return replace(product(kind), key_origin=KeyOrigin.STATION, model="ESP32-C3", baud=460_800)


def certified(board: Esp32Board, form: ChainForm = ChainForm.LEAF_CA) -> Credentials:
    return replace(BoardContract().certified(board.enroll("SN-1"), station_key()), form=form)


def refusal(call: Callable[[], object], *faults: Fault) -> str:
    with pytest.raises(FaultError) as error:
        call()
    assert error.value.fault in faults, error.value
    return error.value.detail


def partition(tmp_path: Path) -> bytes:
    return (tmp_path / "boards" / MAC / "flash.bin").read_bytes()[0xD000:0xF000]


def said(transcript: Transcript) -> str:
    return b"".join(item.data for item in transcript.entries()).decode("latin-1")


def test_the_vendor_s_parser_finds_the_whole_chain_and_the_key(
    plug: Plug, tmp_path: Path, capsys: pytest.CaptureFixture[str], transcript: Transcript
) -> None:
    from esp_secure_cert import tlv_parser

    stale = build([Entry(51, b"s" * 6_000)], 0x2000)
    board, _ = plug()
    credentials = certified(board)
    board.identify()
    flash = tmp_path / "boards" / MAC / "flash.bin"
    content = bytearray(flash.read_bytes())
    content[0xD000:0xF000] = stale
    flash.write_bytes(content)
    board.install(credentials)
    written = tmp_path / "partition.bin"
    written.write_bytes(partition(tmp_path))
    tlv_parser.process_tlv_entries(str(written))
    shown = capsys.readouterr().out
    assert "INVALID" not in shown
    assert shown.count("VALID") == 3
    # Its own way into this partition drops all but the first certificate.
    pems = x509.load_pem_x509_certificates(credentials.chain_pem)
    assert shown.count("BEGIN CERTIFICATE") == len(pems) == 2
    assert "Software-based" in shown
    assert b"ssssss" not in written.read_bytes()  # nothing of the longer partition that was there
    log = said(transcript)
    assert "Hash of data verified" in log
    assert "ESP32-C3" in log
    BoardContract().nothing_of_the_key_is_in(transcript, credentials)


@pytest.mark.parametrize("form", ChainForm)
def test_an_nvs_partition_is_made_by_espressif_s_generator_and_read_back(
    plug: Plug, transcript: Transcript, form: ChainForm
) -> None:
    board, _ = plug(options=BY_NVS)
    board.identify()
    assert not board.inspect(bytes(32)).chain
    credentials = certified(board, form)
    board.install(credentials)
    evidence = board.inspect(bytes(32))
    assert evidence.roots is not None
    assert examine(evidence, credentials, bytes(32)) is KeyProof.DIGEST
    BoardContract().nothing_of_the_key_is_in(transcript, credentials)


def test_what_an_nvs_string_cannot_hold_is_refused_before_it_is_sent(plug: Plug) -> None:
    board, _ = plug(options=BY_NVS)
    credentials = replace(certified(board), server_roots=b"r" * 4_000)
    refusal(lambda: board.install(credentials), Fault.PRODUCT_UNFIT)
    assert FAMILY.limits(BY_NVS).roots_bytes == FAMILY.limits(BY_NVS).place_bytes == 3_999


def nvs(texts: dict[str, str]) -> bytes:
    made = io.BytesIO()
    generator = nvs_partition_gen.nvs_open(made, 0x6000, 0xFE)
    for namespace in ("certs", "other"):
        nvs_partition_gen.write_entry(generator, namespace, "namespace", "", "")
        for name, text in texts.items():
            nvs_partition_gen.write_entry(generator, name, "data", "string", text + namespace)
    nvs_partition_gen.nvs_close(generator)
    return made.getvalue()


def test_the_strings_of_one_namespace_are_read_from_all_its_pages() -> None:
    texts = {"a": "A" * 3_000, "b": "B" * 2_000, "c": ""}
    assert strings(nvs(texts), "certs") == {name: f"{text}certs\0".encode() for name, text in texts.items()}
    assert strings(nvs(texts), "none") == {}
    assert strings(b"\xff" * 0x4000, "certs") == {}


@settings(max_examples=60)
@given(st.integers(64, 173), st.integers(0, 7))  # what follows fills its text's last 32 bytes
def test_no_changed_bit_of_an_nvs_entry_is_read_over(at: int, bit: int) -> None:
    partition = bytearray(nvs({"a": "A" * 40}))
    before = strings(bytes(partition), "certs")
    partition[at] ^= 1 << bit
    with contextlib.suppress(ValueError):
        assert strings(bytes(partition), "certs") != before


@settings(max_examples=30)
@given(st.binary(max_size=300))
def test_no_garbage_makes_the_nvs_reader_fall_over(garbage: bytes) -> None:
    for start in (b"", b"\xfe\xff\xff\xff" + bytes(28) + b"\xaa" * 32):
        with contextlib.suppress(ValueError):
            strings((start + garbage).ljust(0x1000, b"\xff"), "certs")


def test_each_form_of_chain_goes_into_its_entries_and_roots_into_the_user_s(plug: Plug) -> None:
    board, _ = plug(options=replace_options(roots=52, stub=False))
    board.identify()
    for form in ChainForm:
        credentials = certified(board, form)
        board.install(credentials)
        evidence = board.inspect(bytes(32))
        assert evidence.roots is not None
        assert examine(evidence, credentials, bytes(32)) is KeyProof.DIGEST


def replace_options(**changes: Any) -> Options:
    return BY_WATCHDOG.model_copy(update=changes)


@pytest.mark.parametrize(
    ("faults", "text"),
    [
        (["flash-encrypted"], "flash encryption is on"),
        (["secure-boot"], "secure boot is on"),
        (["secure-download"], "secure download mode"),
    ],
)
def test_a_chip_whose_efuses_do_not_fit_is_refused_before_anything_is_written(
    plug: Plug, faults: list[str], text: str
) -> None:
    board, _ = plug(*faults)
    assert text in refusal(board.identify, Fault.CHIP_STATE)


def test_a_chip_with_secure_boot_is_served_without_a_stub_where_the_product_has_it_so(plug: Plug) -> None:
    board, _ = plug("secure-boot", options=replace_options(secure_boot=True, serial_prefix="SN-"))
    unit = board.identify()
    assert (unit.serial, unit.chip_id, unit.firmware) == (f"SN-{MAC}", MAC, "v0.4")
    credentials = certified(board)
    board.install(credentials)
    assert examine(board.inspect(bytes(32)), credentials, bytes(32)) is KeyProof.DIGEST


def test_no_bootloader_is_written_where_esptool_writes_none(plug: Plug) -> None:
    """The simulator is no ESP32, the one chip with secure boot of version 1: what the child says of it is made up."""
    found = {"secure_download": False, "flash_encryption": False, "secure_boot": True, "secure_boot_v1": True}
    for offset, refused in ((0x1000, True), (0x8000, False)):
        image = Image(Path("image.bin"), offset, "0" * 64)
        board, _ = plug(options=replace_options(secure_boot=True), images=(image,))
        if refused:
            assert "below 0x8000" in refusal(partial(board._right_state, found), Fault.CHIP_STATE)
        else:
            board._right_state(found)


def test_flash_that_does_not_keep_a_bit_is_refused(plug: Plug) -> None:
    board, _ = plug("bad-flash")
    board.identify()
    credentials = certified(board)
    assert "MD5" in refusal(lambda: board.install(credentials), Fault.INSTALL_REFUSED)


def test_a_partition_that_is_gone_after_the_reset_is_seen(plug: Plug) -> None:
    board, _ = plug("forget")
    board.identify()
    credentials = certified(board)
    board.install(credentials)
    board.reset()
    refusal(lambda: examine(board.inspect(bytes(32)), credentials, bytes(32)), Fault.NOT_PERSISTENT)


def test_a_chip_that_did_not_restart_and_one_without_a_wired_reset_line_are_seen(plug: Plug) -> None:
    board, _ = plug(options=Options())
    board.identify()
    board.install(certified(board))
    assert "still runs" in refusal(board.reset, Fault.UNIT_RESET)


def test_a_chip_that_is_lifted_as_it_restarts_is_not_waited_for(plug: Plug, stop: Stop) -> None:
    board, chip = plug()
    board.identify()
    chip.lift()
    stop.reason = Fault.LIFTED
    refusal(board.reset, Fault.LIFTED)


def test_another_chip_behind_the_reset_is_another_unit(plug: Plug) -> None:
    board, _ = plug("swap-at-reset")
    assert board.identify().chip_id == MAC
    board.reset()
    assert board.identify().chip_id == "F5E4D3C2B1A0"


def test_images_are_written_and_hashed_only_as_they_were_reviewed(plug: Plug, tmp_path: Path) -> None:
    image = tmp_path / "data.bin"
    content = hashlib.sha256(b"seed").digest() * 2_000
    image.write_bytes(content)
    board, _ = plug(images=(Image(image, 0x110000, hashlib.sha256(content).hexdigest()),))
    board.identify()
    board.flash()
    flash = (tmp_path / "boards" / MAC / "flash.bin").read_bytes()
    assert flash[0x110000 : 0x110000 + len(content)] == content
    image.write_bytes(content + b"x")
    refusal(board.flash, Fault.IMAGE_WRONG)


@pytest.mark.parametrize("fault", ["silent", "vanish-at=06"])
def test_a_chip_that_says_nothing_any_more_ends_the_run(plug: Plug, fault: str) -> None:
    board, _ = plug(fault)

    def run() -> None:
        board.identify()
        board.install(certified(board))

    refusal(run, Fault.UNIT_SILENT, Fault.INSTALL_REFUSED, Fault.LIFTED)


def test_a_stop_ends_the_child_at_once_and_closing_waits_for_nobody(plug: Plug, stop: Stop) -> None:
    board, _ = plug("silent")
    pulled: list[float] = []

    def pull() -> None:
        pulled.append(time.monotonic())
        stop.reason = Fault.STOPPED

    timer = threading.Timer(0.5, pull)
    timer.start()
    refusal(board.identify, Fault.STOPPED)
    board.close()
    assert time.monotonic() - pulled[0] < 3
    timer.join()
    assert board._flasher._closed


def test_a_partition_that_is_too_small_is_refused_before_anything_is_sent(plug: Plug) -> None:
    board, _ = plug(options=replace_options(size=0x1000, roots=51))
    credentials = replace(certified(board), server_roots=b"r" * 4_000)
    assert "the partition has 4096" in refusal(lambda: board.install(credentials), Fault.PRODUCT_UNFIT)


def test_nobody_dials_for_a_chip_in_its_loader(plug: Plug) -> None:
    board, _ = plug()
    refusal(lambda: board.dial(Call("localhost", 8883, MAC, "t", b"x", 1)), Fault.UNIT_CANNOT_DIAL)


def test_a_port_that_another_program_holds_is_denied(plug: Plug, tmp_path: Path) -> None:
    import serial

    board, _ = plug()
    with serial.Serial(str(tmp_path / "port"), exclusive=True):
        refusal(board.identify, Fault.PORT_DENIED)


def test_a_child_that_dies_or_is_asked_for_nonsense_is_named(stop: Stop) -> None:
    log: list[bytes] = []
    flasher = Flasher(stop, log.append)
    with pytest.raises(OrderError, match="no order is called dance"):
        flasher.ask("dance", timeout_s=60)
    with pytest.raises(FaultError) as error:
        flasher.ask("dance", timeout_s=0)
    assert error.value.fault is Fault.FLASHER_LATE
    with pytest.raises(FaultError, match="dead already"):
        flasher.ask("mac", timeout_s=1)
    flasher.close()


EXCESS = '{"payload": 9999}'
MISSING = '{"error": "ModuleNotFoundError", "detail": "No module named esptool", "payload": 0}'


@pytest.mark.parametrize(
    ("says", "text"),
    [
        ("sys.exit(3)", "the flasher died"),
        ("out.write(bytes([255] * 4))", "an answer of 4294967295 bytes"),
        ("out.write(bytes([0, 0, 0, 2]) + b'[]')", "an answer that is none"),
        (f"out.write(bytes([0, 0, 0, {len(EXCESS)}]) + {EXCESS.encode()!r})", "9999 bytes of data"),
        (f"out.write(bytes([0, 0, 0, {len(MISSING)}]) + {MISSING.encode()!r})", "next: docs/boards/esp32.md"),
    ],
)
def test_a_child_that_is_none_is_its_own_fault(
    plug: Plug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, text: str
) -> None:
    child = tmp_path / "child.py"
    child.write_text(f"import sys\nout = sys.stdout.buffer\n{says}\nout.flush()\nsys.stdin.read()\n")
    monkeypatch.setattr("station.boards.flasher._CHILD", child)
    board, _ = plug()
    assert text in refusal(board.identify, Fault.FLASHER_FAILED)


def test_limits_are_those_of_the_partition() -> None:
    limits = FAMILY.limits(Options())
    assert limits.station_keys == frozenset(KeyType)
    assert not limits.board_keys
    assert limits.flashes
    assert limits.place_bytes is not None
    assert 4_000 < limits.place_bytes < 0x2000
    smaller = FAMILY.limits(Options(size=0x1000)).place_bytes
    assert smaller is not None
    assert smaller < limits.place_bytes


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": 0xD001},
        {"size": 100},
        {"roots": 3},
        {"serial_prefix": "../"},
        {"reset": "x"},
        {"nvs": {"key": "longer_than_15_c"}},
        {"nvs": {"key": "client_cert"}, "size": 0x3000},
        {"nvs": {}},
        {"nvs": {}, "size": 0x3000, "roots": 51},
    ],
)
def test_options_out_of_their_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options(**wrong)
