"""Every family of boards beside the others in one jig: plugged in, provisioned, and in its own colour.

Some of them take their port along as they restart, and come back as another device in the same slot.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from board_contract import Stop
from family_bed import certified, product_of, refusal
from replay import entries_of, replayed
from whole_line import Bench, MakeStation

import station.sim.flasher
from station.boards import families
from station.boards.nrf91 import Nrf91Board
from station.credentials import examine
from station.faults import Fault
from station.model import Step
from station.sim.jig import SimJig
from station.sim.line import Station, wait_for
from station.sim.linux import PASSWORD
from station.transcript import Transcript


@dataclass(frozen=True)
class Row:
    """One product with its board, and what comes of it: a family adds its own here.

    ``product`` is what a product file says beside the parts that all share; ``board`` what `SimJig.plug` is asked for.
    """

    product: dict[str, Any]
    board: dict[str, Any]
    outcome: str = "PASS"
    key_proof: str = "signed"
    states: list[str | None] = field(default_factory=lambda: ["ACTIVE"])


def key(origin: str, kind: str = "p256") -> dict[str, Any]:
    return {"key": {"type": kind, "origin": origin}}


# The key is in the board, and nobody can connect: it does so in the field, so its certificate stays as it is.
OFFLINE: dict[str, Any] = {"outcome": "PROVISIONED", "key_proof": "unproven", "states": [None]}
NOBODY: dict[str, Any] = {"first_contact": {"by": "none"}}


def flasher(chip: str) -> dict[str, Any]:
    """A command for each step of the family `command`: a probe at the flash of the chip, which the jig keeps there."""
    probe = [sys.executable, "-I", "-S", station.sim.flasher.__file__]
    steps = ("identify", "enroll", "install", "reset", "inspect")
    return {step: {"run": [*probe, step, f"../../boards/{chip}"]} for step in steps}


BY_WATCHDOG = {"reset": "watchdog-reset"}  # a pty has no RTS line
IMEI, UUID = "35265610088518", "25c95751-efa4-40d4-8b4a-1dcaab81fa"
NRF91 = {"family": "nrf91", "model": "nRF9151-LACA"}

ROWS: dict[str, Row] = {
    "console": Row(
        {"driver": "console", **key("station")}, {"serial": "SN-1", "chip": "C-1", "faults": ["echo", "renumber"]}
    ),
    "command": Row(
        {"driver": "command", **key("station"), "options": flasher("CHIP-SN-3")},
        {"serial": "SN-3", "chip": "CHIP-SN-3"},
        key_proof="digest",
    ),
    "command-board-key": Row(
        {"driver": "command", **key("board"), **NOBODY, "options": flasher("CHIP-SN-4")},
        {"serial": "SN-4", "chip": "CHIP-SN-4"},
        **{**OFFLINE, "key_proof": "signed"},
    ),
    "esp32": Row(
        {"driver": "esp32", "model": "ESP32-C3", "baud": 460_800, **key("station"), "options": BY_WATCHDOG},
        {"family": "esp32", "model": "ESP32-C3", "serial": "A0B1C2D3E4F5", "chip": "A0B1C2D3E4F5"},
        key_proof="digest",
    ),
    "nrf91": Row(
        {"driver": "nrf91", "model": "nRF9151-LACA", **key("board"), **NOBODY},
        {**NRF91, "serial": f"{IMEI}1", "chip": f"{UUID}c1", "faults": ["noise"]},
        **OFFLINE,
    ),
    "nrf91-shell": Row(
        {"driver": "nrf91", "model": "nRF9151-LACA", **key("station"), "options": {"host": "shell", "reset": "kernel"}},
        {**NRF91, "serial": f"{IMEI}2", "chip": f"{UUID}c2", "mode": "shell", "faults": ["renumber"]},
        key_proof="digest",
    ),
    "zephyr": Row(
        {"driver": "zephyr", **key("station"), "options": {"buffer_bytes": 4096}},
        {
            "family": "zephyr",
            "serial": "none",
            "chip": "3336343110473837",
            "faults": ["buffer=4096", "noise", "renumber"],
        },
        key_proof="digest",
    ),
    "zephyr-key-on-board": Row(
        {"driver": "zephyr", **key("board"), **NOBODY, "options": {"buffer_bytes": 4096, "chunk": 192}},
        {"family": "zephyr", "serial": "none", "chip": "3336343110473838", "mode": "old", "faults": ["buffer=4096"]},
        **OFFLINE,
    ),
    "freertos": Row(
        {
            "driver": "freertos",
            **key("board"),
            **NOBODY,
            "options": {"new_name": "u5-"},
            "certificate": {"validity_days": 365, "backdate_s": 3600, "organization": "Demo", "chain": "leaf"},
        },
        {"family": "freertos", "serial": "-", "chip": "uid", "faults": ["interrupted"]},
        **OFFLINE,
    ),
    "micropython": Row(
        {
            "driver": "micropython",
            **key("board"),
            "options": {"identity": "module", "folder": "."},
            "certificate": {"validity_days": 365, "backdate_s": 3600, "organization": "Demo", "chain": "leaf"},
            "first_contact": {"by": "board", "topic": "foo/bar"},
        },
        {"family": "micropython", "serial": "MP-1", "chip": "MP-C1", "faults": ["renumber"]},
    ),
}

if os.geteuid() == 0:  # its login in a chroot needs root
    ROWS["linux"] = Row(
        {
            "driver": "linux",
            **key("board"),
            "options": {"password": {"file": "../gateway-password"}},
            "first_contact": {"by": "board", "topic": "foo/bar"},
        },
        {"family": "linux", "serial": "GW-1", "chip": "GW-C1", "faults": ["renumber", "noise"]},
    )


def test_the_talk_of_a_unit_that_failed_behind_its_reset_is_printed_and_plays_back_to_the_same_end(
    make_station: MakeStation, jig: SimJig
) -> None:
    line = make_station()
    line.products["modem"] = {**line.products["console-board-key"], **ROWS["nrf91"].product}
    line.write_config()
    line.start()
    line.order("WO-1", "modem", 1)
    jig.plug(line.port, **{**ROWS["nrf91"].board, "faults": ["forget"]})
    then = line.result()
    assert (then["fault"], then["step"]) == (Fault.NOT_PERSISTENT.code, Step.VERIFY)
    talk = json.loads(line.run("unit", then["serial"], "--transcript", "--json"))
    made = product_of("nrf91", {})
    with replayed(entries_of(talk)) as port:
        board = Nrf91Board(port, made, Stop(), Transcript())
        unit = board.identify()
        credentials = certified(board.enroll(unit.serial), made, unit.serial)
        assert board.identify() == unit
        board.install(credentials)
        board.reset()
        assert board.identify() == unit
        detail = refusal(lambda: examine(board.inspect(b""), credentials, b""), Fault.NOT_PERSISTENT)
        board.close()
    assert (unit.serial, detail) == (then["serial"], then["detail"])


@pytest.mark.skipif(os.geteuid() != 0, reason="linux has no row: a chroot with a login in it needs root")
def test_every_family_has_a_row() -> None:
    assert {row.product["driver"] for row in ROWS.values()} == set(families())


def admitted(line: Station, number: int) -> None:
    """Wait until a slot's unit is admitted: it keeps its order's product, whatever is ordered then. Or has a result."""
    before = {None, Step.IDENTIFY, Step.ADMIT}

    def further() -> bool:
        slot = line.slot(number)
        return slot["state"] == "result" or slot["step"] not in before

    wait_for("a unit past its admission", further)


def test_every_family_beside_the_others_in_one_jig(make_station: MakeStation, jig: SimJig, cloud_api: Any) -> None:
    line = make_station(slots=len(ROWS))
    shared = line.products["console-station-key"]
    line.products = {name: {**shared, **row.product} for name, row in ROWS.items()}
    line.settings["slot_times"] = {"debounce_ms": 100, "lifted_ms": 2_000}  # who restarts on a laden machine is late
    line.write_config()
    (line.folder / "gateway-password").touch(mode=0o600)
    (line.folder / "gateway-password").write_text(PASSWORD)
    line.start()
    bench = Bench(line, jig, cloud_api)
    together = set()
    for place, (name, row) in enumerate(ROWS.items(), 1):
        # One order is worked at a time (docs/adr/0002): the next one is opened once this unit is admitted to its own.
        line.order(f"WO-{name}", name, 1)
        jig.plug(line.ports[place - 1], **{"model": "demo-board", **row.board})
        admitted(line, place)
        line.control.close_order(f"WO-{name}", "demo")
        if place > 1:
            if line.slot(place - 1)["state"] == "running":
                together.add(name)
            line.result(number=place - 1)  # two at once are enough for a machine of two cores
    for place, (name, row) in enumerate(ROWS.items(), 1):
        result = line.result(number=place)
        assert (result["outcome"], result["fault"], result["detail"]) == (row.outcome, None, ""), name
        serial = result["serial"]
        (run,) = bench.history(serial)
        assert run["key_proof"] == row.key_proof, name
        assert bench.certificate_states(serial) == row.states, name
    assert together, "no two families were at work at once"
    # All of them are still in their nests, each with its own lamp.
    slots = line.control.status()["slots"]
    assert [slot["outcome"] for slot in slots] == [row.outcome for row in ROWS.values()]
    line.drained()
