"""A thread per slot: wait for a board, run, latch the result until the board is lifted, again.

The thread's stack is its state. It ends by itself within one poll once the station stops; a run gets its grace first.

What is latched stays until the board is lifted, whatever else happens: the same board never runs twice without that,
nor does one run that was in the slot when the station started. Three errors in a row take the slot out of service, save
those that are the order's, the ledger's or the whole line's. While the line stands (`station.andon`), boards wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import structlog

from station.andon import AndonCord, Doubt
from station.faults import Blame, Fault, FaultError
from station.interfaces import BoardDriver, Ledger, OrderBook
from station.jig import Nest, Presence
from station.model import Outcome, Product, Run, Step, WorkOrder
from station.sequence import Line, provision
from station.service import SlotService
from station.status import SlotState, SlotStatus, StatusBoard
from station.transcript import Transcript

_LEDGER_RETRY_S = 1.0
_RUN_PIECE_S = 0.05
_STANDING_S = 0.1  # how often a board that waits for the line looks whether it goes on
_GOOD = frozenset({Outcome.PASS, Outcome.PROVISIONED})
_RECORD = frozenset({Fault.LEDGER_DOWN, Fault.LEDGER_GONE})
_ERRORS = 3  # in a row: then the slot is out of service

log = structlog.get_logger()


class Halt:
    """The station's own wish to stop: at once for slots without a run, after the grace for the others."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._abort_at = float("inf")
        self._tell: list[Callable[[], None]] = []

    def tell(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called when the station is asked to stop: for who waits on something else."""
        self._tell.append(wake)

    def ask(self, grace_s: float) -> None:
        """Stop: no new run, and an end to the running ones after ``grace_s``."""
        self._abort_at = time.monotonic() + grace_s
        self._asked.set()
        for wake in self._tell:
            wake()

    @property
    def asked(self) -> bool:
        """Whether no new run may begin."""
        return self._asked.is_set()

    @property
    def overdue(self) -> bool:
        """Whether the grace is over."""
        return time.monotonic() >= self._abort_at

    def wait(self, seconds: float) -> bool:
        """Wait, less long once asked; return `asked`."""
        return self._asked.wait(seconds)


class RunStop:
    """`interfaces.Stop` for one run: lifted, or the station's grace is over. Each look is also the slot's tick."""

    def __init__(self, presence: Presence, halt: Halt, tick: Callable[[], None]) -> None:
        self._presence, self._halt, self._tick = presence, halt, tick

    def check(self) -> None:
        """Raise once there is a reason."""
        self._tick()
        if self._presence.lifted():
            raise FaultError(Fault.LIFTED, "nothing is in the slot")
        if self._halt.overdue:
            raise FaultError(Fault.STOPPED, "the station stops, and the grace of the run is over")

    def wait(self, seconds: float) -> None:
        """Wait in pieces, each followed by a look."""
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            # Not on the halt event: it is set all through the grace, and this would spin.
            time.sleep(min(left, _RUN_PIECE_S))


@dataclass(frozen=True, slots=True)
class Bench:
    """What every slot works with."""

    line: Line
    ledger: Ledger
    orders: OrderBook
    products: Mapping[str, Product]
    driver: Callable[[str], BoardDriver]
    operator: str
    status: StatusBoard
    halt: Halt
    settled: Callable[[], None]
    andon: AndonCord
    service: SlotService


class Slot(threading.Thread):
    """One nest of the jig, at work."""

    def __init__(self, nest: Nest, bench: Bench) -> None:
        super().__init__(name=f"slot-{nest.name}")
        self.slot, self._nest, self._presence, self._bench = nest.name, nest, nest.presence, bench
        self.ticked = time.monotonic()
        self._errors = 0  # in a row
        self._doubt: Doubt | None = None
        self._named_at = 0.0  # as `Presence.since`, when the running board was last asked for its name
        bench.halt.tell(self._presence.wake)
        bench.service.tell(self._presence.wake)

    def run(self) -> None:
        """Live until the station stops."""
        structlog.contextvars.bind_contextvars(slot=self.slot)
        self._nest.rest()
        latched = self._left_from_before()
        while not self._bench.halt.asked:
            if self._why_out() is not None:
                self._stay_out()
                latched = SlotStatus(self.slot)
                continue
            # Who lifts a running board shall still see what that was; and a dead board may only seem to be lifted.
            shown_on = latched.fault is Fault.LIFTED or self._nest.blind
            self._post(replace(latched, state=SlotState.EMPTY) if shown_on else SlotStatus(self.slot))
            if not self._await(lambda: self._presence.plugged() or self._why_out() is not None):
                break
            if self._why_out() is not None or not self._line_works():
                latched = SlotStatus(self.slot)
                continue
            latched, run = self._provision()
            self._latch(latched, run)
        log.info("slot ends")

    def _left_from_before(self) -> SlotStatus:
        """A board that is in the slot already may have had its run: it must be lifted first."""
        self._nest.listen()
        if self._presence.there():
            error = FaultError(Fault.THERE_AT_START, "nobody saw it come")
            self._latch(self._refused(error))
        return SlotStatus(self.slot)

    def _latch(self, status: SlotStatus, run: Run | None = None) -> None:
        """Show a result until the board is lifted; then see whether the slot goes on.

        Boards that were swapped faster than a lift takes must not be shown each other's result. But a board may also
        restart its own USB after its run: whoever has come is asked for its name. One that says nothing is not the
        one that passed, and may well be the one that failed.
        """
        self._post(status)
        since = self._named_at if run else self._presence.since
        while self._await(partial(self._lifted_or_stirred, since)):
            if self._presence.lifted():
                self._count(status)
                return
            since = self._presence.since
            if status.fault is not Fault.SWAPPED and not self._may_be(run, status.outcome):
                error = FaultError(Fault.SWAPPED, "a board was put in before the one with the result was seen lifted")
                status = self._refused(error)
                log.warning("another board under a result", detail=error.detail)
                self._post(status)

    def _lifted_or_stirred(self, since: float) -> bool:
        return self._presence.lifted() or (self._presence.since != since and self._presence.plugged())

    def _may_be(self, run: Run | None, outcome: Outcome | None) -> bool:
        """Whether the board that is there now is the run's, as far as it says."""
        silent = outcome not in _GOOD
        if run is None or run.unit is None:
            return silent
        stop = RunStop(self._presence, self._bench.halt, self._tick)
        try:
            board = self._bench.driver(run.product.driver)(self._nest.ready(stop), run.product, stop, Transcript())
            try:
                found = board.identify()
            finally:
                board.close()
        except FaultError:
            return silent
        finally:
            self._nest.rest()
        return (found.serial, found.chip_id) == (run.unit.serial, run.unit.chip_id)

    def _count(self, status: SlotStatus) -> None:
        """Three errors in a row, none of them the line's, are the slot's."""
        doubt, self._doubt = self._doubt, None
        if status.outcome is Outcome.ABORTED:
            return
        if status.outcome is not Outcome.ERROR or status.fault is None:
            self._errors = 0
            return
        if doubt is not None:
            self._await(doubt.decided.is_set, _STANDING_S)
        if status.fault.blame is Blame.ORDER or status.fault in _RECORD or (doubt and doubt.of_line):
            return
        self._errors += 1
        if self._errors >= _ERRORS:
            self._errors = 0
            self._take_out(status.fault)

    def _take_out(self, fault: Fault) -> None:
        try:
            self._bench.service.disable(self.slot, "the station", f"{_ERRORS} errors in a row, the last {fault.code}")
        except FaultError as error:
            log.error("the slot stays in service", fault=error.fault.code, detail=error.detail)  # noqa: TRY400 - the detail says it

    def _why_out(self) -> str | None:
        return self._bench.service.why_out(self.slot)

    def _stay_out(self) -> None:
        """Out of service until a person says otherwise."""
        while (why := self._why_out()) is not None and not self._bench.halt.asked:
            self._post(SlotStatus(self.slot, SlotState.OUT, fault=Fault.SLOT_OUT, detail=why))
            self._await(partial(self._out_for_another_reason, why))
        self._errors = 0

    def _out_for_another_reason(self, why: str) -> bool:
        return self._why_out() != why

    def _line_works(self) -> bool:
        """Wait while the line stands; False where the board is not in the slot any more, or need not wait."""
        if self._bench.andon.holds():
            self._await(self._may_begin, _STANDING_S)
        return not self._bench.halt.asked and self._presence.plugged() and self._why_out() is None

    def _may_begin(self) -> bool:
        if not self._presence.plugged() or self._why_out() is not None or not self._bench.andon.holds():
            return True
        self._post_once(SlotStatus(self.slot, SlotState.WAITING))
        return False

    def _post_once(self, status: SlotStatus) -> None:
        """Only where the line stands for longer than a trial, and is not told yet."""
        now = self._bench.status.now()
        shown = next(slot.state for slot in now.slots if slot.slot == self.slot)
        if now.andon is not None and shown is not SlotState.WAITING:
            self._post(status)

    def _await(self, there: Callable[[], bool], piece_s: float = float("inf")) -> bool:
        while not self._bench.halt.asked:
            self._tick()
            patience_s = self._nest.listen()
            if there():
                return True
            self._presence.wait(min(patience_s, piece_s))
        return False

    def _provision(self) -> tuple[SlotStatus, Run | None]:
        """One attempt at what is in the nest: what the lamp latches, and the run, if there was one."""
        try:
            order = self._next_order()
            run = Run(self.slot, self._bench.operator, order, self._product(order))
            self._bench.ledger.open(run)
        except FaultError as error:
            log.warning("no run", fault=error.fault.code, detail=error.detail)
            return self._refused(error), None
        with structlog.contextvars.bound_contextvars(run=run.id):
            self._attempt(run)
            return self._latched(run, self._close(run)), run

    def _refused(self, error: FaultError) -> SlotStatus:
        """The result of a board that got no run."""
        return SlotStatus(
            self.slot, SlotState.RESULT, outcome=Outcome.of(error.fault), fault=error.fault, detail=error.detail
        )

    def _next_order(self) -> WorkOrder:
        order = self._bench.orders.next_order()
        if order is None:
            raise FaultError(Fault.NO_ORDER, "no open work order has units left to build")
        return order

    def _product(self, order: WorkOrder) -> Product:
        product = self._bench.products.get(order.product)
        if product is None:
            raise FaultError(Fault.CONFIG, f"order {order.number} is for {order.product}, which has no product file")
        return product

    def _attempt(self, run: Run) -> None:
        stop = RunStop(self._presence, self._bench.halt, self._tick)
        try:
            driver = self._bench.driver(run.product.driver)
            board = driver(self._nest.ready(stop), run.product, stop, run.transcript)
            try:
                provision(run, board, self._bench.line, stop, partial(self._tell, stop))
            finally:
                board.close()
        except FaultError as error:
            run.fault = error
        except Exception as error:
            log.exception("unexpected")
            run.fault = FaultError(Fault.UNEXPECTED, f"run {run.id}: {type(error).__name__}")
        finally:
            self._nest.rest()

    def _close(self, run: Run) -> FaultError | None:
        """Put the end on record, however long that takes, and return what the lamp shows: green means committed.

        Until then the slot shows the ledger's fault. Where the station stops first, its next start closes the run.
        """
        while True:
            try:
                self._bench.ledger.close(run)
                break
            except FaultError as error:
                log.error("the end of the run is not on record", fault=error.fault.code, detail=error.detail)  # noqa: TRY400 - the detail says it
                self._post(self._latched(run, error))
                self._tick()
                if self._bench.halt.wait(_LEDGER_RETRY_S):
                    return error
        self._bench.settled()
        log.info(
            "run ends",
            outcome=run.outcome.value,
            serial=run.unit.serial if run.unit else None,
            fault=run.fault.fault.code if run.fault else None,
            detail=run.fault.detail if run.fault else "",
            ms=round(sum(record.duration_ms for record in run.steps)),
        )
        if run.fault:
            self._doubt = self._bench.andon.pull(run.fault)
        return run.fault

    def _tell(self, stop: RunStop, run: Run, step: Step) -> None:
        """Show the step that begins; not before the line can do it."""
        serial = run.unit.serial if run.unit else None
        status = SlotStatus(self.slot, SlotState.RUNNING, run.id, run.order.number, serial, step)
        while self._bench.andon.holds(step):
            self._post_once(replace(status, state=SlotState.WAITING))
            stop.wait(_STANDING_S)
        self._named_at = self._presence.since
        log.info("step", step=step.value, serial=serial)
        self._post(replace(status, since=datetime.now(UTC)))

    def _latched(self, run: Run, fault: FaultError | None) -> SlotStatus:
        return SlotStatus(
            self.slot,
            SlotState.RESULT,
            run.id,
            run.order.number,
            run.unit.serial if run.unit else None,
            run.steps[-1].step if run.steps else None,
            run.outcome if fault is None else Outcome.of(fault.fault),
            fault.fault if fault else None,
            fault.detail if fault else "",
        )

    def _post(self, status: SlotStatus) -> None:
        self._bench.status.post(status)

    def _tick(self) -> None:
        self.ticked = time.monotonic()
