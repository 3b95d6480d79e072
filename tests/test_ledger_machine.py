"""Whatever the order in which slots call the ledger, and whenever the station dies, the record keeps its promises."""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledgers import (
    CA,
    PRODUCT,
    Clock,
    certificate,
    end,
    golden,
    key,
    open_ledger,
    production,
    rework,
    rows,
    unit,
)

from station.faults import Fault, FaultError
from station.model import Run

SLOTS = st.sampled_from(["1", "2"])
UNITS = st.sampled_from([("SN-1", "CHIP-1"), ("SN-2", "CHIP-2"), ("SN-3", "CHIP-3"), ("SN-1", "CHIP-3")])
KEYS = st.sampled_from(["a", "b", "c"])
FAULTS = st.sampled_from([Fault.UNIT_SILENT, Fault.CLOUD_SILENT, Fault.LIFTED])

# What a run may be told; anything else (S601 above all) is a mistake in the ledger.
REFUSALS = {
    Fault.NO_ORDER,
    Fault.ORDER_FULL,
    Fault.ALREADY_PASSED,
    Fault.NEVER_PASSED,
    Fault.UNIT_BUSY,
    Fault.IDENTITY_CLASH,
    Fault.KEY_CLONED,
}

ORPHANS = """
SELECT issued.number FROM issued JOIN uses USING (number) JOIN closures USING (run)
WHERE closures.outcome <> 'PASS' AND issued.number NOT IN (SELECT number FROM outbox)
"""
IN_SERVICE = """
SELECT serial, key_id, number FROM certificates JOIN issued USING (number)
WHERE number NOT IN (SELECT number FROM outbox)
"""
OVERBUILT = """
SELECT orders.number FROM orders JOIN admissions ON order_number = orders.number JOIN identified USING (run)
JOIN closures USING (run) WHERE kind = 'production' AND outcome = 'PASS'
GROUP BY orders.number, quantity HAVING count(DISTINCT serial) > quantity
"""
PASSED_TWICE = """
SELECT serial FROM orders JOIN admissions ON order_number = orders.number JOIN identified USING (run)
JOIN closures USING (run) WHERE kind = 'production' AND outcome = 'PASS' GROUP BY serial HAVING count(*) > 1
"""
UNBOUND = """
SELECT number FROM certificates JOIN identified USING (run) LEFT JOIN identities
ON identities.serial = identified.serial AND identities.chip_id = identified.chip_id WHERE identities.serial IS NULL
"""
LOCKED_BY_NONE = "SELECT run FROM live_runs WHERE run IN (SELECT run FROM closures)"
LIVE_BUT_OUT = "SELECT number FROM live_certificates WHERE number IN (SELECT number FROM outbox)"


@cache
def template() -> bytes:
    """An empty ledger's file: migrating one for each example would take most of the time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        open_ledger(path).dispose()
        return path.read_bytes()


class LedgerMachine(RuleBasedStateMachine):
    """Two slots, three units and an impostor, three keys."""

    @initialize(quantity=st.integers(1, 3))
    def begin(self, quantity: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "ledger.sqlite"
        self.path.write_bytes(template())
        self.clock = Clock()
        self.ledger = open_ledger(self.path, clock=self.clock)
        self.runs: dict[str, Run] = {}
        self.state: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.count = 0
        self.ledger.add_order(production("WO-0", quantity), "linh")

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.ledger.dispose()
            shutil.rmtree(self.folder)

    def attempt(self, slot: str, call: Any, then: str) -> None:
        """As the slot does: a fault ends the run."""
        try:
            call()
        except FaultError as error:
            if error.fault not in REFUSALS:
                raise
            self.finish(slot, error.fault)
        else:
            self.state[slot] = then

    def finish(self, slot: str, fault: Fault | None) -> None:
        end(self.ledger, self.runs.pop(slot), fault)
        self.state.pop(slot, None)

    @rule(slot=SLOTS, names=UNITS)
    def plug(self, slot: str, names: tuple[str, str]) -> None:
        order = self.ledger.next_order()
        if slot not in self.runs and order is not None:
            run = self.runs[slot] = Run(slot, "linh", order, PRODUCT)
            self.ledger.open(run)
            run.unit = unit(*names)
            self.attempt(slot, lambda: self.ledger.admit(run), "admitted")

    @rule(slot=SLOTS, name=KEYS)
    def certify(self, slot: str, name: str) -> None:
        if self.state.get(slot) != "admitted":
            return
        run = self.runs[slot]
        leaf = self.ledger.reusable(run, key(name), CA)
        if leaf is not None:
            self.attempt(slot, lambda: self.ledger.certifying(run, key(name), CA, leaf.serial_number), "certified")
            return
        self.count += 1
        run.number, self.keys[slot] = self.count, name
        self.attempt(slot, lambda: self.ledger.certifying(run, key(name), CA, self.count), "certifying")

    @rule(slot=SLOTS, days=st.integers(1, 400))
    def sign(self, slot: str, days: int) -> None:
        if self.state.get(slot) == "certifying":
            run = self.runs[slot]
            assert run.number
            leaf = certificate(run.number, self.keys[slot], self.clock.now + timedelta(days=days))
            self.attempt(slot, lambda: self.ledger.certified(run, leaf), "certified")

    @rule(slot=SLOTS)
    def pass_(self, slot: str) -> None:
        if self.state.get(slot) == "certified":
            self.finish(slot, None)

    @rule(slot=SLOTS, fault=FAULTS)
    def fail(self, slot: str, fault: Fault) -> None:
        if slot in self.runs:
            self.finish(slot, fault)

    @rule(serial=st.sampled_from(["SN-1", "SN-2"]), kind=st.sampled_from([production, rework, golden]))
    @precondition(lambda self: self.count < 50)
    def open_order(self, serial: str, kind: Any) -> None:
        self.count += 1
        name = f"WO-{self.count}"
        self.ledger.add_order(production(name, 1) if kind is production else kind(name, serial), "linh")

    @rule()
    def close_oldest(self) -> None:
        if open_ones := [found for found in self.ledger.orders() if not found.closed_at]:
            self.ledger.close_order(open_ones[0].order.number, "linh")

    @rule(days=st.integers(1, 200))
    def time_goes_by(self, days: int) -> None:
        self.clock.now += timedelta(days=days)

    @rule()
    def die_and_start_again(self) -> None:
        self.ledger.dispose()
        self.ledger = open_ledger(self.path, clock=self.clock)
        assert {cut.run for cut in self.ledger.recover()} == {run.id for run in self.runs.values()}
        self.runs.clear()
        self.state.clear()

    @invariant()
    def the_record_keeps_its_promises(self) -> None:
        in_service = rows(self.path, IN_SERVICE)
        assert len({serial for serial, _, _ in in_service}) == len(in_service), "two certificates of one unit"
        assert len({name for _, name, _ in in_service}) == len(in_service), "one key on two units"
        for broken in (ORPHANS, OVERBUILT, PASSED_TWICE, UNBOUND, LOCKED_BY_NONE, LIVE_BUT_OUT):
            assert rows(self.path, broken) == [], broken
        live = {number for (number,) in rows(self.path, "SELECT number FROM live_certificates")}
        assert {number for _, _, number in in_service} <= live
        locked = {run for (run,) in rows(self.path, "SELECT run FROM live_runs")}
        assert locked == {run.id for run in self.runs.values()}


LedgerMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # forty steps are read sooner than they are shrunk
    suppress_health_check=[HealthCheck.too_slow],
)
TestWhateverTheOrderTheRecordKeepsItsPromises = LedgerMachine.TestCase
