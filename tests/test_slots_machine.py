"""Boards plugged, lifted and swapped at random, parts that go and come: the invariants hold, and the latch never lies.

``make soak`` runs a thousand events; the suite some two hundred.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from gang import LIFTED_MS, Gang, gang, rows
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_ledger_machine import IN_SERVICE, LIVE_BUT_OUT, LOCKED_BY_NONE, ORPHANS, OVERBUILT, PASSED_TWICE, template

from station.faults import Fault
from station.model import Outcome
from station.sim.line import wait_for
from station.status import SlotState

SOAK = os.environ.get("STATION_SOAK") == "1"
SLOTS = ("1", "2", "3", "4")
NAMES = st.sampled_from(SLOTS)
TROUBLES = st.sampled_from([(), (), (), ("flip=100",), ("forget",), ("commit-hash",)])
events = 0


class SlotsMachine(RuleBasedStateMachine):
    """Four slots; a hand that does what it likes."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gang-"))
        self.parts = ExitStack()
        self.gang: Gang = self.parts.enter_context(gang(self.folder, len(SLOTS), template()))
        self.count = 0

    def teardown(self) -> None:
        if not hasattr(self, "gang"):
            return
        try:
            self.at_the_end()
        finally:
            self.parts.close()
            shutil.rmtree(self.folder)

    def happened(self) -> None:
        global events  # noqa: PLW0603 - counted over all examples
        events += 1

    @rule(slot=NAMES, troubles=TROUBLES)
    def plug_a_new_board(self, slot: str, troubles: tuple[str, ...]) -> None:
        if slot in self.gang.boards:
            self.gang.lift(slot)
            self.happened()
        self.count += 1
        self.gang.plug(slot, f"SN-{self.count}", *troubles)
        self.happened()

    @rule(slot=NAMES, which=st.integers(1, 200))
    def plug_a_board_again(self, slot: str, which: int) -> None:
        # No precondition: what is drawn must not depend on how fast a slot was.
        serial = f"SN-{which % max(1, self.count) + 1}"
        if not self.count or any(board.serial == serial for board in self.gang.boards.values()):
            return
        if slot in self.gang.boards:
            self.gang.lift(slot)
            self.happened()
        self.gang.plug(slot, serial)
        self.happened()

    @rule(slot=NAMES)
    def lift(self, slot: str) -> None:
        if slot in self.gang.boards:
            self.gang.lift(slot)
            self.happened()

    @rule(slot=NAMES)
    def wait_for_the_result(self, slot: str) -> None:
        if slot in self.gang.boards:
            self.gang.settled(slot)

    @rule(slot=NAMES)
    def wait_and_lift(self, slot: str) -> None:
        if slot in self.gang.boards:
            self.gang.settled(slot)
            self.gang.lift(slot)
            self.happened()
            time.sleep(LIFTED_MS / 1000 * 1.5)  # a hand that fetches the next board

    @rule(slot=NAMES)
    def swap_under_the_result(self, slot: str) -> None:
        """As fast as this process can: far faster than a lift takes."""
        if slot in self.gang.boards and self.gang.settled(slot).state is SlotState.RESULT:
            self.gang.lift(slot)
            self.count += 1
            self.gang.plug(slot, f"SN-{self.count}")
            self.happened()
            self.happened()

    @rule(token=st.booleans())
    def a_part_goes_and_comes_back(self, token: bool) -> None:
        part = self.gang.authority if token else self.gang.cloud
        part.down = True
        self.happened()
        time.sleep(0.1)
        part.down = False

    @rule(slot=NAMES)
    def put_into_service(self, slot: str) -> None:
        if self.gang.service.why_out(slot):
            self.gang.service.enable(slot, "linh")

    @invariant()
    def nothing_is_broken(self) -> None:
        if hasattr(self, "gang"):
            assert self.gang.broken == []

    @invariant()
    def no_board_stands_under_another_s_green(self) -> None:
        if hasattr(self, "gang"):
            for slot, board in self.gang.boards.items():
                wait_for(f"slot {slot} to tell the truth", lambda s=slot, b=board: not self.lies(s, b.serial))  # type: ignore[misc] # mypy: defaults in a lambda

    def lies(self, slot: str, serial: str) -> bool:
        shown = self.gang.slot(slot)
        return shown.outcome is Outcome.PASS and shown.serial != serial

    def at_the_end(self) -> None:
        """All is lifted and quiet: the record and the cloud agree."""
        for slot in SLOTS:
            if self.gang.service.why_out(slot):
                self.gang.service.enable(slot, "linh")
        self.gang.clear()
        for slot in SLOTS:
            wait_for(f"slot {slot} empty", lambda slot=slot: self.gang.slot(slot).state is SlotState.EMPTY)  # type: ignore[misc] # mypy: a default in a lambda
        wait_for("the line at work", lambda: self.gang.status.now().andon is None)
        wait_for("an empty outbox", lambda: not self.waiting())
        record = self.gang.record
        assert self.gang.broken == []
        assert rows(record, "SELECT id FROM runs WHERE id NOT IN (SELECT run FROM closures)") == []
        for promise in (ORPHANS, OVERBUILT, PASSED_TWICE, LOCKED_BY_NONE, LIVE_BUT_OUT):
            assert rows(record, promise) == [], promise
        in_service = {serial for serial, _, _ in rows(record, IN_SERVICE)}
        working = self.gang.active()
        assert all(len(certificates) == 1 for certificates in working.values())
        assert set(working) == in_service
        passed = "SELECT serial FROM identified JOIN closures USING (run) WHERE outcome = 'PASS'"
        assert {serial for (serial,) in rows(record, passed)} >= set(working)

    def waiting(self) -> bool:
        return bool(
            rows(self.gang.record, "SELECT number FROM outbox WHERE number NOT IN (SELECT number FROM outbox_done)")
        )


SlotsMachine.TestCase.settings = settings(
    max_examples=24 if SOAK else 3,
    stateful_step_count=120 if SOAK else 60,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
TestWhateverTheHandDoes = SlotsMachine.TestCase


def test_a_board_that_is_put_under_another_s_green_lamp_is_found_out_and_the_same_one_is_not(tmp_path: Path) -> None:
    with gang(tmp_path, 1, template(), lifted_ms=5_000) as made:  # far longer than any swap here takes
        made.plug("1", "SN-1")
        assert made.settled("1").outcome is Outcome.PASS
        made.lift("1")
        made.plug("1", "SN-1")  # as a board that restarts its own USB
        made.lift("1")
        made.plug("1", "SN-2")
        wait_for("the swap", lambda: made.slot("1").fault is Fault.SWAPPED)
        assert made.slot("1").outcome is Outcome.ABORTED
        assert made.broken == []


def test_enough_has_happened() -> None:
    assert events == 0 or events > (1000 if SOAK else 50)
