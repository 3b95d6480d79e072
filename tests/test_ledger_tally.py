"""The tally says of each closed run what the record says, and is written with the run's end or not at all."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from ledgers import (
    Clock,
    MakeLedger,
    admitted,
    end,
    golden,
    production,
    rework,
    rows,
    started,
    taken_back,
    unit,
    whole_run,
)

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger

_ROW = "SELECT run, kind, serial, order_number, outcome, fault, duration_ms FROM tally"


def test_a_closed_run_is_tallied_once(ledger: SqliteLedger, clock: Clock) -> None:
    ledger.add_order(production(), "linh")
    run = admitted(ledger, unit())
    assert rows(ledger.store.path, _ROW) == []
    clock.now = run.started_at + timedelta(seconds=2.5)
    end(ledger, run, Fault.KEY_WEAK)
    ledger.close(run)
    assert rows(ledger.store.path, _ROW) == [(run.id, "production", "SN-1", "WO-1", "FAIL", "U113", 2500.0)]


def test_each_kind_of_order_is_told_apart(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    first = whole_run(ledger, unit())
    ledger.add_order(rework("RW-1", "SN-1"), "linh")
    ledger.add_order(golden("GO-1", "SN-9"), "linh")
    second, third = whole_run(ledger, unit()), whole_run(ledger, unit("SN-9"))
    kinds = dict(rows(ledger.store.path, "SELECT run, kind FROM tally"))
    assert kinds == {first.id: "production", second.id: "rework", third.id: "golden"}


def test_a_known_bad_sample_is_no_production_unit_even_where_it_is_not_admitted(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    ledger.add_order(golden("GO-1", "SN-BAD"), "linh")
    run = started(ledger, unit("SN-BAD", model="other-board"))
    with pytest.raises(FaultError) as error:
        ledger.admit(run)
    end(ledger, run, error.value.fault)
    silent = started(ledger, unit("SN-2"))
    end(ledger, silent, Fault.UNIT_SILENT)
    assert rows(ledger.store.path, "SELECT run, kind, serial, order_number FROM tally ORDER BY at") == [
        (run.id, "golden", "SN-BAD", None),
        (silent.id, "production", None, None),
    ]


def test_a_run_that_never_reached_its_order_is_of_the_newest_that_names_its_serial(
    ledger: SqliteLedger, clock: Clock
) -> None:
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit())
    found = []
    for kind, order in (("rework", rework("RW-1", "SN-1")), ("golden", golden("GO-1", "SN-1"))):
        ledger.add_order(order, "linh")
        run = started(ledger, unit(model="other-board"))
        with pytest.raises(FaultError) as error:
            ledger.admit(run)
        end(ledger, run, error.value.fault)
        found.append((run.id, kind))
        clock.now += timedelta(seconds=1)
    assert rows(ledger.store.path, "SELECT run, kind FROM tally WHERE order_number IS NULL ORDER BY at") == found


def test_a_counted_run_after_the_first_is_a_retest_whatever_the_clock_did(ledger: SqliteLedger, clock: Clock) -> None:
    ledger.add_order(production(), "linh")
    ledger.add_order(golden("GO-1", "SN-9"), "linh")
    first = whole_run(ledger, unit(), fault=Fault.KEY_WEAK)
    whole_run(ledger, unit(), fault=Fault.CLOUD_SILENT)  # an ERROR is nobody's retest
    clock.now -= timedelta(hours=1)
    whole_run(ledger, unit(), fault=Fault.KEY_WEAK)
    clock.now += timedelta(hours=2)
    last = whole_run(ledger, unit())
    for _ in range(2):
        whole_run(ledger, unit("SN-9"))
    assert {run for (run,) in rows(ledger.store.path, "SELECT run FROM retests")} == {first.id, last.id}


def test_what_was_cut_short_is_tallied_at_the_next_start(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    run = admitted(ledger, unit())
    ledger.recover()
    assert rows(ledger.store.path, "SELECT run, outcome, fault FROM tally") == [(run.id, "ERROR", "S603")]


def test_a_ledger_from_before_the_tally_gets_it_whole(make_ledger: MakeLedger, ledger_path: Path) -> None:
    first = make_ledger()
    first.add_order(production(), "linh")
    for number in range(5):
        whole_run(first, unit(f"SN-{number}"), fault=Fault.CLOUD_SILENT if number % 2 else None)
    for fault in (Fault.KEY_WEAK, Fault.KEY_WEAK, None):
        whole_run(first, unit("SN-7"), fault=fault)
    before = rows(ledger_path, "SELECT * FROM tally ORDER BY run")
    again = rows(ledger_path, "SELECT * FROM retests ORDER BY run")
    first.dispose()
    taken_back(ledger_path, "0001")
    make_ledger()
    assert (len(before), len(again)) == (8, 2)
    assert rows(ledger_path, "SELECT * FROM tally ORDER BY run") == before
    assert rows(ledger_path, "SELECT * FROM retests ORDER BY run") == again
