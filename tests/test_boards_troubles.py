"""Every family against every trouble of a wire: a whole provisioning all the same, or the right fault in time.

What a family's table says here is what ``docs/boards/README.md`` says. A new family adds its own to `FAMILIES`.
"""

from __future__ import annotations

import os
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from board_contract import BoardContract, Stop
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from family_bed import Bed, bed, less_patience, product_of, provisioned
from replay import replayed
from test_boards_command import options as flasher_options
from test_ca import make_key

from station.boards import families
from station.boards import family as load_family
from station.boards.command import CommandBoard
from station.credentials import Credentials
from station.faults import Fault, FaultError
from station.interfaces import Board
from station.model import ChainForm, KeyOrigin, KeyType, Product
from station.sim.linux import PASSWORD
from station.transcript import Transcript

# Within this the worst of them has its fault, with the patience that these tests have.
WITHIN_S = 20.0


@dataclass(frozen=True)
class Family:
    """How boards of a family are plugged in, and what they are ordered to do for each trouble.

    ``troubles`` names the simulator's faults, and the station's fault where it is no whole provisioning.
    """

    options: Callable[[Path], dict[str, Any]]
    board: dict[str, str]
    troubles: dict[str, tuple[tuple[str, ...], Fault | None]]
    product: dict[str, Any] = field(default_factory=dict)
    always: tuple[str, ...] = ()
    sim: str = ""


def fine(*faults: str) -> tuple[tuple[str, ...], None]:
    return faults, None


def password(folder: Path) -> dict[str, Any]:
    file = folder / "password"
    file.touch(mode=0o600)
    file.write_text(PASSWORD)
    return {"password": {"file": file}}


LEAF = {"chain_form": ChainForm.LEAF}
STATION = {"key_origin": KeyOrigin.STATION}
MAC = "A0B1C2D3E4F5"

FAMILIES = {
    "console": Family(
        lambda _: {},
        {"serial": "SN-1", "chip": "C-1", "model": "demo-board"},
        {
            "noise": fine("noise"),
            "garbage": fine("garbage"),
            "echo": fine("echo"),
            "slow": fine("slow=20"),
            "reset": fine("reset-at=write"),
            "renumbering": fine("renumber"),
            "endless": (("flood",), Fault.UNIT_GARBLED),
            "half": (("half-reply",), Fault.UNIT_SILENT),
        },
        STATION,
        sim="board",
    ),
    "esp32": Family(
        lambda _: {"reset": "watchdog-reset"},
        {"serial": MAC, "chip": MAC, "model": "ESP32-C3"},
        {
            "noise": fine("noise"),
            "garbage": fine("garbage"),
            "echo": (("echo",), Fault.UNIT_SILENT),
            "slow": fine("slow=8"),
            "reset": fine("reset-at=13"),
            "renumbering": fine("renumber"),
            "endless": (("flood-at=13",), Fault.UNIT_SILENT),
            "half": (("hang-at=13",), Fault.INSTALL_REFUSED),
        },
        {**STATION, "model": "ESP32-C3", "baud": 460_800},
    ),
    "nrf91": Family(
        lambda _: {"sec_tag": 42, "reset": "xreset"},
        {"serial": "352656100885188", "chip": "25c95751-efa4-40d4-8b4a-1dcaab81fac9", "model": "nRF9151-LACA"},
        {
            "noise": fine("noise"),
            "garbage": fine("garbage"),
            "echo": fine("no-echo"),
            "slow": fine("slow=20"),
            "reset": fine("reset-at=18"),
            "renumbering": fine("renumber"),
            "endless": (("flood=7",), Fault.UNIT_GARBLED),
            "half": (("half-reply=5",), Fault.UNIT_SILENT),
        },
        STATION,
    ),
    "zephyr": Family(
        lambda _: {"buffer_bytes": 4_096},
        {"serial": "none", "chip": "3336343110473837", "model": "none"},
        {
            "noise": fine("noise"),
            "garbage": fine("garbage"),
            "echo": fine("no-echo"),
            "slow": fine("slow=20"),
            "reset": fine("reset-at=14"),
            "renumbering": fine("renumber"),
            "endless": (("flood=6",), Fault.UNIT_GARBLED),
            "half": (("half-reply=4",), Fault.UNIT_SILENT),
        },
        STATION,
        always=("buffer=4096",),
    ),
    "freertos": Family(
        lambda _: {},
        {"serial": "SN-1", "chip": "uid", "model": "none"},
        {
            "noise": fine("noise"),
            "garbage": fine("garbage"),
            "echo": fine("no-echo"),
            "slow": fine("slow=20", "interrupted"),
            "reset": fine("reset-at=8"),
            "renumbering": fine("renumber"),
            "endless": (("flood=4",), Fault.UNIT_GARBLED),
            "half": (("half-reply=5",), Fault.UNIT_SILENT),
        },
        LEAF,
    ),
    "micropython": Family(
        lambda _: {"identity": "module", "folder": "."},
        {"serial": "SN-1", "chip": "CHIP-1", "model": "demo-board"},
        {
            "noise": fine("noise"),
            "garbage": fine("garbage"),
            "echo": fine("echo"),
            "slow": fine("slow=5"),
            "reset": fine("reset-at=40"),
            "renumbering": fine("renumber"),
            "endless": (("flood=5",), Fault.UNIT_GARBLED),
            "half": (("half-reply=5",), Fault.UNIT_SILENT),
        },
        {**LEAF, **STATION},
    ),
    "linux": Family(
        password,
        {"serial": "SN-1", "chip": "CHIP-1", "model": "demo-board"},
        {
            "noise": fine("noise"),
            "garbage": fine("garbage"),
            "echo": fine("echo"),
            "slow": fine("slow=20"),
            "reset": fine("reset-at=12"),  # at the key: the login that follows has a secret of its own
            "renumbering": fine("renumber"),
            "endless": (("flood=6",), Fault.UNIT_GARBLED),
            "half": (("half-reply=6",), Fault.UNIT_SILENT),
        },
        {**STATION, "chain_form": ChainForm.TWO_SLOTS},
    ),
}
COMMAND = Family(
    lambda _: {},
    {},
    {
        "noise": fine("long-log@install"),
        "garbage": (("garbage@identify",), Fault.FLASHER_FAILED),
        "echo": (("echo@install",), Fault.FLASHER_FAILED),
        "slow": fine("slow=0.2@install"),
        "reset": (("signal=9@install",), Fault.FLASHER_FAILED),
        "renumbering": fine("renumber@reset"),
        "endless": (("endless@inspect",), Fault.FLASHER_FAILED),
        "half": (("half={@install",), Fault.FLASHER_LATE),
    },
    STATION,
)
FAMILIES["command"] = COMMAND
TROUBLES = ("noise", "garbage", "echo", "slow", "reset", "renumbering", "endless", "half")
CELLS = [(name, trouble) for name in FAMILIES for trouble in TROUBLES]


class FlasherBed(Bed):
    """For the family `command`: a file stands for the port, and the troubles are its program's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stop, self.transcript = folder, Stop(), Transcript()
        self._opened = []
        (folder / "SN-1").mkdir()

    def open(self, made: Product, *faults: str, place: str = "", **more: Any) -> Board:
        trouble, _, step = faults[0].partition("@") if faults else ("", "", "identify")
        (self.folder / place).touch()
        chosen = flasher_options(self.folder / "SN-1", trouble, at=step, timeout_s=1.0 if "half" in trouble else 10.0)
        made = replace(made, options=chosen)
        self._opened.append(CommandBoard(str(self.folder / place), made, self.stop, self.transcript))
        return self._opened[-1]

    def lift(self) -> None:
        (self.folder / "slot").unlink()


@contextmanager
def plugged(name: str, folder: Path) -> Iterator[Bed]:
    if name == "command":
        made = FlasherBed(folder)
        try:
            yield made
        finally:
            made.close()
        return
    family = FAMILIES[name]
    with bed(folder, family.sim or name, **family.board) as slot:
        slot.driver = name
        yield slot


def made_for(name: str, folder: Path) -> Product:
    family = FAMILIES[name]
    options = {} if name == "command" else family.options(folder)
    if name == "command":
        return replace(product_of("console", options, **family.product), driver=name)
    return product_of(name, options, **family.product)


@pytest.mark.parametrize(("name", "trouble"), CELLS, ids=[f"{name}-{trouble}" for name, trouble in CELLS])
def test_a_trouble_costs_time_or_ends_in_its_fault_and_the_next_board_in_the_slot_is_provisioned(
    name: str, trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "linux" and os.geteuid() != 0:
        pytest.skip("a chroot with a login in it needs root")
    family, made = FAMILIES[name], made_for(name, tmp_path)
    faults, expected = family.troubles[trouble]
    with plugged(name, tmp_path) as slot:
        board = slot.open(made, *family.always, *faults, place="slot")
        if expected is None:
            provisioned(board, made, slot.transcript)
        else:
            with monkeypatch.context() as patience:
                less_patience(patience, name, expected)
                began = time.monotonic()
                with pytest.raises(FaultError) as error:
                    provisioned(board, made, slot.transcript)
                assert error.value.fault is expected, error.value
                assert time.monotonic() - began < WITHIN_S
            board.close()
            slot.lift()
            provisioned(slot.open(made, *family.always, place="slot"), made, slot.transcript)
        said = b"".join(entry.data for entry in slot.transcript.entries())
        assert PASSWORD.encode() not in said
        assert made.key_origin is KeyOrigin.BOARD or re.search(rb"not kept: .{0,40}the unit's private key", said)


def test_the_page_says_what_becomes_of_each_family_in_each_trouble() -> None:
    page = (Path(__file__).parent.parent / "docs/boards/README.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if line.count("|") == 10
    ]
    said = {row[0].strip("`"): row[1:] for row in rows if row[0].startswith("`")}
    assert set(said) == set(FAMILIES) == set(families())
    for name, family in FAMILIES.items():
        assert set(family.troubles) == set(TROUBLES)
        faults = [family.troubles[trouble][1] for trouble in TROUBLES]
        assert said[name] == ["passes" if fault is None else fault.value for fault in faults], name


@pytest.mark.parametrize(("name", "fault"), [("nrf91", "keygen-fails"), ("zephyr", "no-devid"), ("freertos", "no-csr")])
def test_a_failed_unit_s_talk_played_back_to_the_driver_ends_as_it_did(tmp_path: Path, name: str, fault: str) -> None:
    family, made = FAMILIES[name], replace(made_for(name, tmp_path), key_origin=KeyOrigin.BOARD)
    with plugged(name, tmp_path) as slot:
        board = slot.open(made, *family.always, fault, place="slot")
        with pytest.raises(FaultError) as then:
            provisioned(board, made)
    with replayed(slot.transcript.entries()) as port:
        board = load_family(name).driver(port, made, Stop(), Transcript())
        with pytest.raises(FaultError) as now:
            provisioned(board, made)
        board.close()
    assert (now.value.fault, now.value.detail) == (then.value.fault, then.value.detail)


KEY = make_key(KeyType.P256)
TEXT = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
DER = KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "form",
    [
        TEXT,
        DER,
        DER.hex().upper().encode(),
        TEXT.replace(b"\n", b"\\n"),
        *(b64encode(b"x" * at + TEXT) for at in range(3)),
    ],
)
def test_the_search_for_a_key_finds_it_in_whatever_form(form: bytes) -> None:
    transcript, made = Transcript(), Credentials((), b"", KEY, ChainForm.LEAF)
    transcript.sent(b"write " + form)
    with pytest.raises(AssertionError):
        BoardContract().nothing_of_the_key_is_in(transcript, made)
