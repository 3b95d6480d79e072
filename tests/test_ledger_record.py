"""The record of a run: number before certificate, one live certificate a unit, and what a run leaves behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from ledgers import (
    CA,
    PRODUCT,
    Clock,
    MakeLedger,
    admitted,
    certificate,
    certify,
    end,
    golden,
    key,
    note,
    production,
    rework,
    rows,
    started,
    unit,
    whole_run,
)

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger
from station.model import Outcome, Product, Profile, Run, Step, StepRecord, certificate_id, serial_text


@pytest.fixture(autouse=True)
def order(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")


def waiting(ledger: SqliteLedger) -> list[int]:
    return [int(number, 16) for (number,) in rows(ledger.store.path, "SELECT number FROM outbox ORDER BY at")]


def live(ledger: SqliteLedger) -> dict[str, int]:
    found = rows(ledger.store.path, "SELECT serial, number FROM live_certificates")
    return {serial: int(number, 16) for serial, number in found}


# Before a certificate.


def test_the_number_is_on_record_before_the_certificate(ledger: SqliteLedger) -> None:
    run = admitted(ledger, unit())
    ledger.certifying(run, key("a"), CA, 0xABC)
    found = rows(ledger.store.path, "SELECT number, run, serial, key_id, authority, profile_hash FROM certificates")
    assert found == [("abc", run.id, "SN-1", key("a"), CA, PRODUCT.profile.hash)]
    assert rows(ledger.store.path, "SELECT * FROM issued") == []


def test_a_certificate_whose_number_is_not_on_record_is_refused(ledger: SqliteLedger) -> None:
    run = admitted(ledger, unit())
    run.number = 0xABC
    with pytest.raises(FaultError, match="mistake in the software") as error:
        ledger.certified(run, certificate(0xABC, "a"))
    assert error.value.fault is Fault.LEDGER_DOWN


def test_a_certificate_with_another_number_than_its_run_is_refused(ledger: SqliteLedger) -> None:
    run = admitted(ledger, unit())
    run.number = 0xABC
    ledger.certifying(run, key("a"), CA, 0xABC)
    with pytest.raises(FaultError, match="abd") as error:
        ledger.certified(run, certificate(0xABD, "a"))
    assert error.value.fault is Fault.CA_OUTPUT
    assert rows(ledger.store.path, "SELECT * FROM issued") == []


def test_a_number_is_never_given_twice(ledger: SqliteLedger) -> None:
    first, second = admitted(ledger, unit("SN-1")), admitted(ledger, unit("SN-2"))
    ledger.certifying(first, key("a"), CA, 0xABC)
    with pytest.raises(FaultError) as error:
        ledger.certifying(second, key("b"), CA, 0xABC)
    assert error.value.fault is Fault.LEDGER_DOWN
    assert live(ledger) == {"SN-1": 0xABC}


def test_a_run_that_does_not_hold_its_unit_gets_no_number(ledger: SqliteLedger) -> None:
    run = started(ledger, unit())
    with pytest.raises(FaultError) as error:
        ledger.certifying(run, key("a"), CA, 1)
    assert error.value.fault is Fault.UNIT_BUSY
    assert rows(ledger.store.path, "SELECT * FROM certificates") == []


def test_a_run_that_has_ended_gets_no_number(ledger: SqliteLedger) -> None:
    run = admitted(ledger, unit())
    end(ledger, run, Fault.UNIT_SILENT)
    admitted(ledger, unit())
    with pytest.raises(FaultError) as error:
        ledger.certifying(run, key("a"), CA, 1)
    assert error.value.fault is Fault.UNIT_BUSY


def test_serial_and_chip_are_bound_again_when_a_certificate_is_made(ledger: SqliteLedger) -> None:
    run = admitted(ledger, unit("SN-1", "CHIP-1"))
    certify(ledger, run, "a")
    end(ledger, run, Fault.UNIT_SILENT)
    run = admitted(ledger, unit("SN-1", "CHIP-1"))
    run.unit = unit("SN-1", "CHIP-2")
    with pytest.raises(FaultError) as error:
        ledger.certifying(run, key("b"), CA, 2)
    assert error.value.fault is Fault.IDENTITY_CLASH


def test_a_run_that_knows_no_unit_is_not_admitted(ledger: SqliteLedger) -> None:
    run = Run("1", "linh", production(), PRODUCT)
    ledger.open(run)
    with pytest.raises(FaultError) as error:
        ledger.admit(run)
    assert error.value.fault is Fault.UNEXPECTED


# Keys.


def test_the_key_of_another_live_unit_is_a_clone(ledger: SqliteLedger) -> None:
    whole_run(ledger, unit("SN-1"), "same")
    run = admitted(ledger, unit("SN-2"))
    with pytest.raises(FaultError, match=r"SN-2.*SN-1") as error:
        ledger.certifying(run, key("same"), CA, 2)
    assert error.value.fault is Fault.KEY_CLONED
    end(ledger, run, Fault.KEY_CLONED)
    assert set(live(ledger)) == {"SN-1"}
    assert waiting(ledger) == []


def test_the_key_of_a_unit_that_runs_now_is_a_clone_too(ledger: SqliteLedger) -> None:
    first, second = admitted(ledger, unit("SN-1")), admitted(ledger, unit("SN-2"))
    ledger.certifying(first, key("same"), CA, 1)
    with pytest.raises(FaultError) as error:
        ledger.certifying(second, key("same"), CA, 2)
    assert error.value.fault is Fault.KEY_CLONED


def test_a_key_is_free_once_its_unit_holds_no_live_certificate(ledger: SqliteLedger) -> None:
    whole_run(ledger, unit("SN-1"), "same", Fault.NOT_PERSISTENT)
    assert whole_run(ledger, unit("SN-2"), "same").outcome is Outcome.PASS


# Using a certificate again.


def reusable(ledger: SqliteLedger, serial: str = "SN-1", name: str = "a", **changes: Any) -> int | None:
    """The number that a new run of the unit may use again."""
    run = started(ledger, unit(serial), product=changes.get("product", PRODUCT))
    leaf = ledger.reusable(run, key(name), changes.get("authority", CA))
    return leaf.serial_number if leaf else None


def test_a_passed_units_certificate_may_be_used_again_with_the_same_key(ledger: SqliteLedger) -> None:
    number = whole_run(ledger, unit(), "a").number
    assert reusable(ledger) == number


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "b"},
        {"serial": "SN-2"},
        {"authority": "another"},
        {
            "product": Product(
                PRODUCT.name, "console", PRODUCT.model, PRODUCT.key_type, PRODUCT.key_origin, Profile(10, 60)
            )
        },
    ],
    ids=["key", "unit", "CA", "profile"],
)
def test_a_certificate_of_another_one_may_not_be_used_again(ledger: SqliteLedger, changes: dict[str, Any]) -> None:
    whole_run(ledger, unit(), "a")
    assert reusable(ledger, **changes) is None


def test_an_expired_certificate_may_not_be_used_again(ledger: SqliteLedger, clock: Clock) -> None:
    expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    run = admitted(ledger, unit())
    certify(ledger, run, "a", not_after=expiry)
    end(ledger, run)
    clock.now = expiry - timedelta(seconds=1)
    assert reusable(ledger) == run.number
    clock.now = expiry
    assert reusable(ledger) is None


def test_a_certificate_of_a_run_that_did_not_pass_may_not_be_used_again(ledger: SqliteLedger) -> None:
    whole_run(ledger, unit(), "a", Fault.CLOUD_SILENT)
    assert reusable(ledger) is None


def test_a_number_that_was_never_signed_may_not_be_used_again(ledger: SqliteLedger) -> None:
    ledger.certifying(admitted(ledger, unit()), key("a"), CA, 1)
    assert ledger.reusable(Run("1", "linh", production(), PRODUCT, unit=unit()), key("a"), CA) is None


def test_a_retest_with_the_same_key_uses_its_certificate_again(ledger: SqliteLedger) -> None:
    first = whole_run(ledger, unit(), "a")
    ledger.add_order(rework("RW-1", "SN-1"), "linh")
    second = whole_run(ledger, unit(), "a")
    assert second.number is None
    assert waiting(ledger) == []
    one, two = ledger.unit_history("SN-1")
    assert one.certificates == two.certificates
    assert int(two.certificates[0].number, 16) == first.number


def test_a_retest_with_another_key_supersedes_the_old_certificate_at_once(ledger: SqliteLedger) -> None:
    first = whole_run(ledger, unit(), "a")
    ledger.add_order(rework("RW-1", "SN-1"), "linh")
    second = admitted(ledger, unit())
    certify(ledger, second, "b")
    assert waiting(ledger) == [first.number]
    assert live(ledger) == {"SN-1": second.number}
    end(ledger, second)
    assert waiting(ledger) == [first.number]


def test_a_certificate_used_again_in_a_run_that_fails_goes_out_of_service(ledger: SqliteLedger) -> None:
    first = whole_run(ledger, unit(), "a")
    ledger.add_order(golden("GO-1", "SN-1"), "linh")
    whole_run(ledger, unit(), "a", Fault.UNIT_CANNOT_DIAL)
    assert waiting(ledger) == [first.number]
    assert live(ledger) == {}


def test_a_certificate_goes_to_the_outbox_once_whatever_its_run_does(ledger: SqliteLedger) -> None:
    first = whole_run(ledger, unit(), "a")
    ledger.add_order(rework("RW-1", "SN-1"), "linh")
    run = admitted(ledger, unit())
    certify(ledger, run, "a")
    certify(ledger, run, "b")
    end(ledger, run, Fault.UNIT_SILENT)
    assert waiting(ledger) == [first.number, run.number]


# The end of a run.


@pytest.mark.parametrize("fault", [Fault.UNIT_SILENT, Fault.CLOUD_SILENT, Fault.LIFTED, Fault.STOPPED])
def test_what_did_not_pass_leaves_its_certificate_in_the_outbox(ledger: SqliteLedger, fault: Fault) -> None:
    run = whole_run(ledger, unit(), fault=fault)
    assert waiting(ledger) == [run.number]
    assert rows(ledger.store.path, "SELECT run, reason FROM outbox") == [(run.id, Outcome.of(fault).value)]


def test_what_passed_stays_in_service(ledger: SqliteLedger) -> None:
    run = whole_run(ledger, unit())
    assert waiting(ledger) == []
    assert live(ledger) == {"SN-1": run.number}


def test_a_number_that_was_never_signed_needs_no_outbox(ledger: SqliteLedger) -> None:
    run = admitted(ledger, unit())
    ledger.certifying(run, key("a"), CA, 1)
    end(ledger, run, Fault.HSM_DOWN)
    assert (waiting(ledger), live(ledger)) == ([], {})


def test_a_second_close_changes_nothing(ledger: SqliteLedger) -> None:
    run = whole_run(ledger, unit(), fault=Fault.LIFTED)
    before = ledger.unit_history("SN-1")
    ledger.close(run)
    assert ledger.unit_history("SN-1") == before
    assert waiting(ledger) == [run.number]


def test_a_run_on_record_as_cut_short_can_no_longer_pass(ledger: SqliteLedger) -> None:
    run = admitted(ledger, unit())
    ledger.recover()
    with pytest.raises(FaultError, match="ERROR, not as PASS") as error:
        ledger.close(run)
    assert error.value.fault is Fault.LEDGER_DOWN


def test_steps_that_could_not_be_noted_are_written_at_the_end(ledger: SqliteLedger) -> None:
    run = started(ledger, unit())
    note(ledger, run, Step.IDENTIFY)
    run.steps.append(StepRecord(Step.ADMIT, datetime.now(UTC), 2.5, Fault.LEDGER_DOWN))
    ledger.admit(run)
    end(ledger, run, Fault.LEDGER_DOWN)
    (found,) = ledger.unit_history("SN-1")
    assert [(step.step, step.duration_ms, step.fault) for step in found.steps] == [
        ("identify", 1.5, None),
        ("admit", 2.5, "S601"),
    ]


# Cut short.


def test_a_run_cut_short_is_closed_at_the_next_start(make_ledger: MakeLedger, ledger: SqliteLedger) -> None:
    passed = whole_run(ledger, unit("SN-0"))
    unknown = Run("1", "linh", production(), PRODUCT)
    ledger.open(unknown)
    reserved, issued = admitted(ledger, unit("SN-1")), admitted(ledger, unit("SN-2"))
    ledger.certifying(reserved, key("SN-1"), CA, 1)
    certify(ledger, issued, "SN-2")
    again = make_ledger()
    assert [(cut.run, cut.serial) for cut in again.recover()] == [
        (unknown.id, None),
        (reserved.id, "SN-1"),
        (issued.id, "SN-2"),
    ]
    for serial in ("SN-1", "SN-2"):
        (found,) = again.unit_history(serial)
        assert (found.outcome, found.fault) == ("ERROR", Fault.CUT_SHORT.code)
    assert waiting(again) == [issued.number]
    assert live(again) == {"SN-0": passed.number}
    assert again.recover() == []
    for serial in ("SN-1", "SN-2"):
        assert whole_run(again, unit(serial)).outcome is Outcome.PASS


# What people ask.


def test_everything_about_a_run_is_on_record(ledger: SqliteLedger, clock: Clock) -> None:
    run = admitted(ledger, unit())
    note(ledger, run, Step.IDENTIFY)
    leaf = certify(ledger, run, "a")
    end(ledger, run, Fault.READBACK_DIFFERS, "they differ from byte 12 on")
    (found,) = ledger.unit_history("SN-1")
    assert (found.run, found.outcome, found.fault) == (run.id, "FAIL", "U121")
    assert found.detail == "they differ from byte 12 on"
    assert (found.order, found.product, found.operator, found.slot) == ("WO-1", "sensor-b", "linh", "1")
    assert (found.serial, found.chip_id, found.model, found.firmware) == ("SN-1", "CHIP-SN-1", "demo-board", "1.0")
    assert (found.station, found.software, found.config_hash) == ("s1", "0.1.0", "c0ffee")
    assert (found.profile_hash, found.token, found.simulated) == (PRODUCT.profile.hash, "pkcs11:token=t", False)
    assert (found.started_at, found.ended_at) == (run.started_at, clock.now)
    (made,) = found.certificates
    assert (made.number, made.authority) == (serial_text(leaf.serial_number), CA)
    assert (made.certificate_id, made.not_after) == (certificate_id(leaf), leaf.not_valid_after_utc)
    assert rows(ledger.store.path, "SELECT der FROM issued") == [(leaf.public_bytes(Encoding.DER),)]


def test_a_run_that_runs_has_no_outcome_yet(ledger: SqliteLedger) -> None:
    run = admitted(ledger, unit())
    ledger.certifying(run, key("a"), CA, 0xABC)
    (found,) = ledger.unit_history("SN-1")
    assert (found.outcome, found.fault, found.detail, found.ended_at) == (None, None, None, None)
    assert [(one.number, one.certificate_id) for one in found.certificates] == [("abc", None)]


def test_a_units_runs_are_told_oldest_first_and_no_one_elses(ledger: SqliteLedger) -> None:
    ids = [whole_run(ledger, unit(), fault=fault).id for fault in (Fault.LIFTED, Fault.UNIT_SILENT, None)]
    whole_run(ledger, unit("SN-2"))
    assert [run.run for run in ledger.unit_history("SN-1")] == ids
