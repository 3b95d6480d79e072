"""A thread per slot: wait for a board, run, latch the result until the board is lifted, again.

The thread's stack is its state. It ends by itself within one poll once the station stops; a run gets its grace first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from station.faults import Fault, FaultError
from station.interfaces import BoardDriver, Ledger, OrderBook
from station.jig import Nest, Presence
from station.model import Outcome, Product, Run, Step, WorkOrder
from station.sequence import Line, provision
from station.status import SlotState, SlotStatus, StatusBoard

_LEDGER_RETRY_S = 1.0
_RUN_PIECE_S = 0.05

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


class Slot(threading.Thread):
    """One nest of the jig, at work."""

    def __init__(self, nest: Nest, bench: Bench) -> None:
        super().__init__(name=f"slot-{nest.name}")
        self.slot, self._nest, self._presence, self._bench = nest.name, nest, nest.presence, bench
        self.ticked = time.monotonic()
        bench.halt.tell(self._presence.wake)

    def run(self) -> None:
        """Live until the station stops."""
        structlog.contextvars.bind_contextvars(slot=self.slot)
        latched = SlotStatus(self.slot)
        self._nest.rest()
        while not self._bench.halt.asked:
            # Who lifts a running board shall still see what that was; and a dead board may only seem to be lifted.
            shown_on = latched.fault is Fault.LIFTED or self._nest.blind
            self._post(replace(latched, state=SlotState.EMPTY) if shown_on else SlotStatus(self.slot))
            if not self._await(self._presence.plugged):
                break
            latched = self._provision()
            self._post(latched)
            self._await(self._presence.lifted)
        log.info("slot ends")

    def _await(self, there: Callable[[], bool]) -> bool:
        while not self._bench.halt.asked:
            self._tick()
            patience_s = self._nest.listen()
            if there():
                return True
            self._presence.wait(patience_s)
        return False

    def _provision(self) -> SlotStatus:
        """One attempt at what is in the nest; what comes back is what the lamp latches."""
        try:
            order = self._next_order()
            run = Run(self.slot, self._bench.operator, order, self._product(order))
            self._bench.ledger.open(run)
        except FaultError as error:
            log.warning("no run", fault=error.fault.code, detail=error.detail)
            return SlotStatus(
                self.slot, SlotState.RESULT, outcome=Outcome.of(error.fault), fault=error.fault, detail=error.detail
            )
        with structlog.contextvars.bound_contextvars(run=run.id):
            self._attempt(run)
            return self._latched(run, self._close(run))

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
                provision(run, board, self._bench.line, stop, self._tell)
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
        return run.fault

    def _tell(self, run: Run, step: Step) -> None:
        serial = run.unit.serial if run.unit else None
        log.info("step", step=step.value, serial=serial)
        self._post(SlotStatus(self.slot, SlotState.RUNNING, run.id, run.order.number, serial, step))

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
