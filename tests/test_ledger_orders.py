"""Work orders: which unit may be built under which, and when that is over."""

from __future__ import annotations

import pytest
from ledgers import (
    PRODUCT,
    admitted,
    certify,
    end,
    golden,
    production,
    rework,
    rows,
    started,
    unit,
    whole_run,
)

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger
from station.model import Product, WorkOrder


def refused(ledger: SqliteLedger, fault: Fault, serial: str = "SN-1", order: WorkOrder | None = None) -> str:
    """Admission of the unit is refused with ``fault``; its detail."""
    run = started(ledger, unit(serial), order)
    before = run.order
    with pytest.raises(FaultError) as error:
        ledger.admit(run)
    assert error.value.fault is fault
    assert run.order is before
    end(ledger, run, fault)
    return error.value.detail


# Opening and closing.


def test_an_order_number_is_used_once(ledger: SqliteLedger) -> None:
    ledger.add_order(production("WO-1"), "linh")
    ledger.close_order("WO-1", "linh")
    with pytest.raises(FaultError, match="already") as error:
        ledger.add_order(production("WO-1", 3), "linh")
    assert error.value.fault is Fault.ORDER_INVALID
    assert [found.order.quantity for found in ledger.orders()] == [10]


def test_an_order_that_names_a_serial_twice_is_refused_whole(ledger: SqliteLedger) -> None:
    with pytest.raises(FaultError, match="twice") as error:
        ledger.add_order(rework("RW-1", "SN-1", "SN-1"), "linh")
    assert error.value.fault is Fault.ORDER_INVALID
    assert ledger.orders() == []


def test_an_order_that_is_not_there_cannot_be_closed(ledger: SqliteLedger) -> None:
    with pytest.raises(FaultError) as error:
        ledger.close_order("WO-9", "linh")
    assert error.value.fault is Fault.NO_ORDER


def test_an_order_is_closed_once(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    ledger.close_order("WO-1", "linh")
    with pytest.raises(FaultError) as error:
        ledger.close_order("WO-1", "linh")
    assert error.value.fault is Fault.ORDER_INVALID


def test_orders_are_listed_oldest_first_with_their_progress(ledger: SqliteLedger) -> None:
    ledger.add_order(production("WO-2", 2), "linh")
    whole_run(ledger, unit("SN-1"))
    ledger.add_order(rework("RW-1", "SN-9", "SN-1"), "minh")
    ledger.close_order("WO-2", "linh")
    first, second = ledger.orders()
    assert (first.order, first.passed, first.left, first.opened_by) == (production("WO-2", 2), 1, 1, "linh")
    assert first.closed_at is not None
    assert first.closed_at >= first.opened_at
    assert (second.order.serials, second.order.reason) == (("SN-1", "SN-9"), "returned by the customer")
    assert (second.passed, second.opened_by, second.closed_at) == (0, "minh", None)


# What the slot works by.


def test_without_an_order_there_is_nothing_to_work_by(ledger: SqliteLedger) -> None:
    assert ledger.next_order() is None


def test_the_oldest_open_order_comes_first_until_its_units_have_passed(ledger: SqliteLedger) -> None:
    ledger.add_order(production("WO-2", 1), "linh")
    ledger.add_order(production("WO-1", 1), "linh")
    assert ledger.next_order() == production("WO-2", 1)
    whole_run(ledger, unit("SN-1"), fault=Fault.UNIT_SILENT)
    assert ledger.next_order() == production("WO-2", 1)
    whole_run(ledger, unit("SN-1"))
    assert ledger.next_order() == production("WO-1", 1)
    whole_run(ledger, unit("SN-2"))
    assert ledger.next_order() is None


def test_a_closed_order_is_not_worked(ledger: SqliteLedger) -> None:
    ledger.add_order(production("WO-1"), "linh")
    ledger.add_order(production("WO-2"), "linh")
    ledger.close_order("WO-1", "linh")
    assert ledger.next_order() == production("WO-2")


def test_a_golden_order_waits_until_there_is_no_other_work(ledger: SqliteLedger) -> None:
    ledger.add_order(golden("GO-1", "SN-7"), "linh")
    ledger.add_order(production("WO-1", 1), "linh")
    assert ledger.next_order() == production("WO-1", 1)
    whole_run(ledger, unit("SN-1"))
    assert ledger.next_order() == golden("GO-1", "SN-7")
    whole_run(ledger, unit("SN-7"))
    assert ledger.next_order() == golden("GO-1", "SN-7")


def test_a_rework_order_is_worked_until_each_named_unit_has_passed_under_it(ledger: SqliteLedger) -> None:
    ledger.add_order(production("WO-1", 2), "linh")
    for serial in ("SN-1", "SN-2"):
        whole_run(ledger, unit(serial))
    ledger.add_order(rework("RW-1", "SN-1", "SN-2"), "linh")
    whole_run(ledger, unit("SN-1"))
    assert ledger.next_order() == rework("RW-1", "SN-1", "SN-2")
    assert whole_run(ledger, unit("SN-2")).order.number == "RW-1"
    assert ledger.next_order() is None


# Which unit may be built.


def test_a_unit_without_an_open_order_is_refused(ledger: SqliteLedger) -> None:
    ledger.add_order(production("WO-1"), "linh")
    ledger.close_order("WO-1", "linh")
    assert "SN-1" in refused(ledger, Fault.NO_ORDER, order=production("WO-1"))


def test_an_order_of_another_product_does_not_admit(ledger: SqliteLedger) -> None:
    other = production("WO-1", product="gateway")
    ledger.add_order(other, "linh")
    refused(ledger, Fault.NO_ORDER, order=other)


def test_a_board_of_another_model_is_refused(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    run = started(ledger, unit(model="other-board"))
    with pytest.raises(FaultError, match=r"other-board.*demo-board") as error:
        ledger.admit(run)
    assert error.value.fault is Fault.WRONG_PRODUCT


def test_a_unit_with_other_firmware_than_its_product_is_refused(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    wanted = Product(
        PRODUCT.name,
        PRODUCT.driver,
        PRODUCT.model,
        PRODUCT.key_type,
        PRODUCT.key_origin,
        PRODUCT.profile,
        firmware="2.0",
    )
    with pytest.raises(FaultError, match=r"1\.0.*2\.0") as error:
        admitted(ledger, unit(firmware="1.0"), product=wanted)
    assert error.value.fault is Fault.UNIT_FIRMWARE
    assert admitted(ledger, unit(firmware="2.0"), product=wanted).order.number == "WO-1"


def test_a_unit_that_passed_is_not_built_again(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit())
    refused(ledger, Fault.ALREADY_PASSED)


def test_a_unit_that_failed_may_be_tried_again(ledger: SqliteLedger) -> None:
    ledger.add_order(production(quantity=1), "linh")
    whole_run(ledger, unit(), fault=Fault.UNIT_SILENT)
    assert whole_run(ledger, unit()).order.number == "WO-1"


def test_an_order_is_full_while_its_last_unit_runs(ledger: SqliteLedger) -> None:
    ledger.add_order(production(quantity=1), "linh")
    run = admitted(ledger, unit("SN-1"))
    assert "WO-1" in refused(ledger, Fault.ORDER_FULL, "SN-2")
    end(ledger, run, Fault.UNIT_SILENT)
    assert admitted(ledger, unit("SN-2")).order.number == "WO-1"


def test_an_order_is_full_once_its_units_have_passed(ledger: SqliteLedger) -> None:
    ledger.add_order(production(quantity=1), "linh")
    whole_run(ledger, unit("SN-1"))
    refused(ledger, Fault.ORDER_FULL, "SN-2", production(quantity=1))


def test_a_full_order_gives_way_to_the_next_of_the_same_product(ledger: SqliteLedger) -> None:
    ledger.add_order(production("WO-1", 1), "linh")
    ledger.add_order(production("WO-2", 1, "gateway"), "linh")
    ledger.add_order(production("WO-3", 1), "linh")
    admitted(ledger, unit("SN-1"))
    assert admitted(ledger, unit("SN-2")).order.number == "WO-3"


def test_the_order_that_the_slot_saw_is_preferred(ledger: SqliteLedger) -> None:
    ledger.add_order(production("WO-1"), "linh")
    ledger.add_order(production("WO-2"), "linh")
    assert admitted(ledger, unit(), order=production("WO-2")).order.number == "WO-2"


def test_a_run_that_saw_a_closed_order_moves_to_an_open_one(ledger: SqliteLedger) -> None:
    ledger.add_order(production("WO-1"), "linh")
    ledger.add_order(production("WO-2"), "linh")
    run = started(ledger, unit())
    ledger.close_order("WO-1", "linh")
    ledger.admit(run)
    assert run.order == production("WO-2")


def test_rework_is_for_units_that_have_passed(ledger: SqliteLedger) -> None:
    ledger.add_order(rework("RW-1", "SN-1"), "linh")
    ledger.add_order(production(), "linh")
    assert "RW-1" in refused(ledger, Fault.NEVER_PASSED)


def test_a_named_unit_comes_under_its_rework_order_whatever_the_slot_saw(ledger: SqliteLedger) -> None:
    ledger.add_order(production("WO-1"), "linh")
    whole_run(ledger, unit())
    ledger.add_order(rework("RW-1", "SN-1"), "linh")
    assert whole_run(ledger, unit()).order.number == "RW-1"
    refused(ledger, Fault.ALREADY_PASSED)


def test_a_rework_order_admits_only_the_units_it_names(ledger: SqliteLedger) -> None:
    ledger.add_order(production(quantity=2), "linh")
    for serial in ("SN-1", "SN-2"):
        whole_run(ledger, unit(serial))
    ledger.close_order("WO-1", "linh")
    ledger.add_order(rework("RW-1", "SN-1"), "linh")
    refused(ledger, Fault.NO_ORDER, "SN-2")


def test_rework_may_be_tried_until_it_passes(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit())
    ledger.add_order(rework("RW-1", "SN-1"), "linh")
    assert whole_run(ledger, unit(), fault=Fault.NOT_PERSISTENT).order.number == "RW-1"
    assert whole_run(ledger, unit()).order.number == "RW-1"


def test_a_golden_unit_passes_as_often_as_it_likes_and_uses_no_quota(ledger: SqliteLedger) -> None:
    ledger.add_order(golden("GO-1", "SN-1"), "linh")
    ledger.add_order(production("WO-1", 1), "linh")
    for _ in range(3):
        assert whole_run(ledger, unit("SN-1")).order.number == "GO-1"
    assert whole_run(ledger, unit("SN-2")).order.number == "WO-1"


def test_a_golden_pass_is_no_pass_for_production_or_rework(ledger: SqliteLedger) -> None:
    ledger.add_order(golden("GO-1", "SN-1"), "linh")
    whole_run(ledger, unit("SN-1"))
    ledger.close_order("GO-1", "linh")
    ledger.add_order(rework("RW-1", "SN-1"), "linh")
    refused(ledger, Fault.NEVER_PASSED)
    ledger.close_order("RW-1", "linh")
    ledger.add_order(production(), "linh")
    assert whole_run(ledger, unit("SN-1")).order.number == "WO-1"


def test_two_passes_of_one_unit_are_one_unit(ledger: SqliteLedger) -> None:
    ledger.add_order(golden("GO-1", "SN-1"), "linh")
    for _ in range(2):
        whole_run(ledger, unit("SN-1"))
    (found,) = ledger.orders()
    assert found.passed == 1


# Who is who.


def test_a_serial_on_another_chip_is_a_clash(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit("SN-1", "CHIP-1"), fault=Fault.UNIT_SILENT)
    run = started(ledger, unit("SN-1", "CHIP-2"))
    with pytest.raises(FaultError, match=r"CHIP-2.*CHIP-1") as error:
        ledger.admit(run)
    assert error.value.fault is Fault.IDENTITY_CLASH


def test_a_chip_with_another_serial_is_a_clash(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit("SN-1", "CHIP-1"))
    with pytest.raises(FaultError) as error:
        admitted(ledger, unit("SN-2", "CHIP-1"))
    assert error.value.fault is Fault.IDENTITY_CLASH


def test_a_unit_is_bound_only_once_a_certificate_is_made_for_it(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    end(ledger, admitted(ledger, unit("SN-1", "CHIP-1")), Fault.UNIT_SILENT)
    run = admitted(ledger, unit("SN-1", "CHIP-2"))
    certify(ledger, run, "a")
    end(ledger, run, Fault.UNIT_SILENT)
    with pytest.raises(FaultError) as error:
        admitted(ledger, unit("SN-1", "CHIP-1"))
    assert error.value.fault is Fault.IDENTITY_CLASH


@pytest.mark.parametrize(("serial", "chip"), [("SN-1", "CHIP-1"), ("SN-1", "CHIP-2"), ("SN-2", "CHIP-1")])
def test_one_board_cannot_be_in_two_runs(ledger: SqliteLedger, serial: str, chip: str) -> None:
    ledger.add_order(production(), "linh")
    first = admitted(ledger, unit("SN-1", "CHIP-1"))
    run = started(ledger, unit(serial, chip))
    with pytest.raises(FaultError, match=first.id) as error:
        ledger.admit(run)
    assert error.value.fault is Fault.UNIT_BUSY
    end(ledger, run, Fault.UNIT_BUSY)
    end(ledger, first, Fault.UNIT_SILENT)
    assert admitted(ledger, unit(serial, chip)).order.number == "WO-1"


def test_the_end_of_a_refused_run_does_not_free_the_board_for_others(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    admitted(ledger, unit())
    for _ in range(2):
        refused(ledger, Fault.UNIT_BUSY)


def test_a_refused_unit_is_on_record_too(ledger: SqliteLedger) -> None:
    refused(ledger, Fault.NO_ORDER)
    (run,) = ledger.unit_history("SN-1")
    assert (run.order, run.outcome, run.fault, run.chip_id) == (None, "ERROR", "O501", "CHIP-SN-1")


def test_a_serial_is_only_ever_data(ledger: SqliteLedger) -> None:
    assert ledger.unit_history("' OR 1=1 --") == []
    assert rows(ledger.store.path, "SELECT count(*) FROM runs") == [(0,)]
