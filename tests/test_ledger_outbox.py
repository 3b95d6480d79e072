"""The outbox: what must go out of service goes, however often the cloud refuses."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from cryptography import x509
from ledgers import CA, MakeLedger, production, rows, stranger, unit, whole_run

from station.faults import Fault, FaultError
from station.ledger import Outbox, SqliteLedger, outbox, store

Retire = Callable[[x509.Certificate, str], None]
MakeOutbox = Callable[..., Outbox]


class Registry:
    """What is retired, and what refuses: each fault is raised once, in order."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.authorities: list[str] = []
        self.at: list[float] = []
        self.troubles: dict[int, list[Exception]] = {}
        self.told: list[int] = []
        self._changed = threading.Condition()

    def retire(self, leaf: x509.Certificate, authority: str) -> None:
        with self._changed:
            self.asked.append(leaf.serial_number)
            self.authorities.append(authority)
            self.at.append(time.monotonic())
            self._changed.notify_all()
        if troubles := self.troubles.get(leaf.serial_number):
            raise troubles.pop(0)

    def tell(self, waiting: int) -> None:
        with self._changed:
            self.told.append(waiting)
            self._changed.notify_all()

    def wait(self, reason: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(reason, 10), (self.asked, self.told)

    def drained(self) -> None:
        self.wait(lambda: self.told[-1:] == [0])


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(autouse=True)
def order(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")


@pytest.fixture
def make_outbox(ledger: SqliteLedger, registry: Registry) -> Iterator[MakeOutbox]:
    with ExitStack() as parts:

        def make(of: SqliteLedger = ledger, retire: Retire = registry.retire) -> Outbox:
            made = Outbox(of, retire, registry.tell)
            made.start()
            parts.callback(made.stop)
            return made

        yield make


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_FIRST_S", 0.02)
    monkeypatch.setattr(outbox, "_LONGEST_S", 0.08)


def orphan(ledger: SqliteLedger, serial: str) -> int:
    """The number of a certificate whose run did not pass."""
    number = whole_run(ledger, unit(serial), fault=Fault.CLOUD_SILENT).number
    assert number
    return number


def attempts(ledger: SqliteLedger) -> list[tuple[Any, ...]]:
    return rows(ledger.store.path, "SELECT number, fault FROM outbox_attempts ORDER BY id")


def test_an_orphan_is_taken_out_of_service_once(
    ledger: SqliteLedger, make_outbox: MakeOutbox, registry: Registry
) -> None:
    number = orphan(ledger, "SN-1")
    made = make_outbox()
    registry.drained()
    assert registry.told[0] == 1
    made.wake()
    registry.wait(lambda: len(registry.told) >= 4)
    assert registry.asked == [number]
    assert rows(ledger.store.path, "SELECT number FROM outbox_done") == [(f"{number:x}",)]


def test_what_waits_goes_oldest_first(ledger: SqliteLedger, make_outbox: MakeOutbox, registry: Registry) -> None:
    numbers = [orphan(ledger, f"SN-{i}") for i in (3, 1, 2)]
    make_outbox()
    registry.drained()
    assert registry.asked == numbers


def test_a_new_orphan_is_taken_at_once_when_woken(
    ledger: SqliteLedger, make_outbox: MakeOutbox, registry: Registry
) -> None:
    made = make_outbox()
    registry.drained()
    number = orphan(ledger, "SN-1")
    made.wake()
    registry.wait(lambda: registry.asked == [number])


def test_a_passed_units_certificate_is_left_alone(
    ledger: SqliteLedger, make_outbox: MakeOutbox, registry: Registry
) -> None:
    whole_run(ledger, unit())
    make_outbox()
    registry.drained()
    assert registry.asked == []


@pytest.mark.usefixtures("impatient")
def test_a_refused_one_is_tried_until_it_is_done(
    ledger: SqliteLedger, make_outbox: MakeOutbox, registry: Registry
) -> None:
    number = orphan(ledger, "SN-1")
    registry.troubles[number] = [FaultError(Fault.THROTTLED) for _ in range(4)]
    make_outbox()
    registry.drained()
    assert registry.asked == [number] * 5
    gaps = [after - before for before, after in zip(registry.at, registry.at[1:], strict=False)]
    assert all(gap >= least for gap, least in zip(gaps, (0.02, 0.04, 0.08, 0.08), strict=True)), gaps


@pytest.mark.usefixtures("impatient")
def test_one_refused_is_not_in_the_way_of_the_others(
    ledger: SqliteLedger, make_outbox: MakeOutbox, registry: Registry
) -> None:
    stuck, *others = [orphan(ledger, f"SN-{i}") for i in range(3)]
    registry.troubles[stuck] = [FaultError(Fault.AWS_DENIED) for _ in range(1000)]
    make_outbox()
    registry.wait(lambda: Counter(registry.asked) >= Counter([*others, stuck, stuck, stuck]))
    assert registry.asked[:3] == [stuck, *others]
    assert registry.told[-1] == 1


@pytest.mark.usefixtures("impatient")
def test_each_new_fault_of_one_is_on_record(ledger: SqliteLedger, make_outbox: MakeOutbox, registry: Registry) -> None:
    number = orphan(ledger, "SN-1")
    faults = [Fault.THROTTLED, Fault.THROTTLED, Fault.AWS_DENIED, Fault.AWS_DENIED, Fault.THROTTLED]
    registry.troubles[number] = [FaultError(fault, "because") for fault in faults]
    make_outbox()
    registry.drained()
    name = f"{number:x}"
    assert attempts(ledger) == [(name, "N420"), (name, "N421"), (name, "N420")]


@pytest.mark.usefixtures("impatient")
def test_what_is_out_of_service_is_retired_once_more_later_and_after_a_restart(
    ledger: SqliteLedger, make_outbox: MakeOutbox, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An activator that asked before the run ended may have said ACTIVE after it, and died."""
    monkeypatch.setattr(outbox, "_CONFIRM_S", 0.3)
    number = orphan(ledger, "SN-1")
    registry.troubles[number] = [FaultError(Fault.THROTTLED) for _ in range(2)]
    first = make_outbox()
    registry.drained()
    assert registry.asked == [number] * 3
    registry.troubles[number] = [FaultError(Fault.CLOUD_UNREACHABLE)]
    registry.wait(lambda: len(registry.asked) == 5)  # the first time nobody answered
    first.stop()
    make_outbox()
    registry.wait(lambda: len(registry.asked) == 6)
    assert set(registry.asked) == {number}
    assert set(registry.authorities) == {CA}
    assert registry.told[-1] == 0


@pytest.mark.usefixtures("impatient")
def test_a_mistake_in_our_own_code_does_not_end_the_outbox(
    ledger: SqliteLedger, make_outbox: MakeOutbox, registry: Registry
) -> None:
    number = orphan(ledger, "SN-1")
    registry.troubles[number] = [ZeroDivisionError()]
    make_outbox()
    registry.drained()
    assert attempts(ledger) == [(f"{number:x}", Fault.UNEXPECTED.code)]
    assert registry.asked == [number] * 2


def test_what_waits_is_tried_again_at_the_next_start(
    ledger: SqliteLedger,
    make_ledger: MakeLedger,
    make_outbox: MakeOutbox,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "_FIRST_S", 60.0)
    number = orphan(ledger, "SN-1")
    registry.troubles[number] = [FaultError(Fault.CLOUD_UNREACHABLE)]
    first = make_outbox()
    registry.wait(lambda: len(registry.told) >= 2)
    began = time.monotonic()
    first.stop()
    assert time.monotonic() - began < 10  # the pause before the next try is longer
    assert registry.asked == [number]
    make_outbox(make_ledger())
    registry.drained()
    assert registry.asked == [number] * 2


def test_stopping_ends_after_the_certificate_at_hand(
    ledger: SqliteLedger, make_outbox: MakeOutbox, registry: Registry
) -> None:
    numbers = [orphan(ledger, f"SN-{i}") for i in range(2)]
    go_on = threading.Event()

    def slow(leaf: x509.Certificate, authority: str) -> None:
        registry.retire(leaf, authority)
        assert go_on.wait(10)

    made = make_outbox(retire=slow)
    registry.wait(lambda: len(registry.asked) == 1)
    stopper = threading.Thread(target=made.stop)
    stopper.start()
    assert made._over.wait(10)
    go_on.set()
    stopper.join(10)
    assert registry.asked == numbers[:1]
    assert rows(ledger.store.path, "SELECT count(*) FROM outbox_done") == [(1,)]


@pytest.mark.usefixtures("impatient")
def test_a_ledger_that_is_away_for_a_while_does_not_end_the_outbox(
    make_ledger: MakeLedger, make_outbox: MakeOutbox, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_BUSY_S", 0.05)
    ledger = make_ledger()
    number = orphan(ledger, "SN-1")
    with stranger(ledger.store.path) as other:
        other.execute("BEGIN IMMEDIATE")
        make_outbox(ledger)
        registry.wait(lambda: len(registry.asked) >= 2)
        other.execute("ROLLBACK")
    registry.drained()
    assert set(registry.asked) == {number}
    assert rows(ledger.store.path, "SELECT count(*) FROM outbox_done") == [(1,)]
