"""Which days' reports are made by night, and what of another's data may not be taken at its word."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from month import OrderFact, RunFact, put
from test_yields_files import DAY, NOON, NOW, maker, orders

from station.config.report import Report
from station.faults import Fault, FaultError
from station.ledger.record import SqliteLedger
from station.yields import delivery
from station.yields.making import Wanted
from station.yields.window import window

NIGHTLY = Wanted(formats=("json",), deliver=True)


def test_a_station_that_was_off_for_days_makes_the_report_of_each_once(ledger: SqliteLedger, tmp_path: Path) -> None:
    made_by = maker(ledger, tmp_path)
    (first,) = made_by.due(NIGHTLY, NOW)
    made_by.make(first, NOW)
    assert made_by.due(NIGHTLY, NOW) == []
    monday = NOW + timedelta(days=3)
    due = made_by.due(NIGHTLY, monday)
    assert [one.day for one in due] == [DAY + timedelta(days=back) for back in (1, 2, 3)]
    made_by.make(due[0], monday)
    assert made_by.due(NIGHTLY, monday) == due[1:], "what was cut short goes on where it was"
    asked = replace(NIGHTLY, day=DAY)
    assert made_by.due(asked, monday) == [asked], "who names a day gets it"
    assert len(made_by.due(NIGHTLY, NOW + timedelta(days=300))) == 1, "after months a new beginning is made"


def test_a_report_that_waits_for_its_delivery_is_not_made_anew(ledger: SqliteLedger, tmp_path: Path) -> None:
    s3 = {"bucket": "reports", "region": "us-east-1", "prefix": "", "simulator": "http://127.0.0.1:9"}
    settings = Report.model_validate_json(json.dumps({"timezone": "Asia/Ho_Chi_Minh", "s3": s3}))
    made_by = maker(ledger, tmp_path, settings=settings)
    made = made_by.make(replace(NIGHTLY, day=DAY), NOW)
    before = {file.name: file.read_bytes() for file in made.folder.iterdir()}
    assert made_by.due(NIGHTLY, NOW) == []
    with pytest.raises(FaultError) as error:
        made_by.make(Wanted(day=DAY), NOW + timedelta(hours=1))
    assert error.value.fault is Fault.REPORT_UNDELIVERED
    assert {file.name: file.read_bytes() for file in made.folder.iterdir()} == before
    assert [one.report for one in delivery.undelivered(tmp_path, settings)] == ["2026-11-24"]


@pytest.mark.parametrize(
    ("now", "over"),
    [
        (datetime(2026, 3, 29, 0, 59, tzinfo=UTC), date(2026, 3, 27)),
        (datetime(2026, 3, 29, 1, 10, tzinfo=UTC), date(2026, 3, 27)),
        (datetime(2026, 3, 29, 1, 30, tzinfo=UTC), date(2026, 3, 28)),
        (datetime(2026, 10, 25, 0, 29, tzinfo=UTC), date(2026, 10, 23)),
        (datetime(2026, 10, 25, 0, 31, tzinfo=UTC), date(2026, 10, 24)),
        (datetime(2026, 10, 25, 1, 15, tzinfo=UTC), date(2026, 10, 24)),
    ],
)
def test_a_day_that_begins_in_the_hour_that_clocks_change_is_over_when_it_is(now: datetime, over: date) -> None:
    berlin = Report(timezone="Europe/Berlin", day_starts="02:30")
    found = window(berlin, now)
    assert found.span.end <= now
    assert found.first == over


def test_nothing_that_a_station_told_a_line_s_server_is_a_path(ledger: SqliteLedger, tmp_path: Path) -> None:
    put(ledger, orders(), [RunFact("r1", "../../../pwned", NOON, "PASS"), RunFact("r2", ".hidden", NOON, "PASS")])
    made_by = replace(maker(ledger, tmp_path / "reports"), line=True)
    folder = made_by.make(Wanted(day=DAY, formats=("openhtf",)), NOW).folder
    assert folder.name == "2026-11-24_line", "a line's report is never taken for the station's own"
    names = [path.relative_to(folder).parts for path in folder.rglob("*.json")]
    assert len(names) == 2
    assert all(len(parts) == 2 and not parts[1].startswith(".") for parts in names)
    assert not list(tmp_path.glob("*pwned*"))


def test_a_unit_that_is_provisioned_is_done_with_its_certificate_and_fills_its_order(
    ledger: SqliteLedger, tmp_path: Path
) -> None:
    facts = [RunFact("r1", "SN-1", NOON, "PROVISIONED", certified=True)]
    put(ledger, [OrderFact("WO-1", quantity=1)], facts)
    made = maker(ledger, tmp_path).make(Wanted(day=DAY, formats=("csv",)), NOW)
    with next(made.folder.glob("*.csv")).open(newline="") as file:
        (unit,) = csv.DictReader(file)
    assert unit["certificate_id"]
    assert unit["certificate_ends"]
    (slot,) = made.figures.waiting
    assert slot.waited_s["no order"] == pytest.approx(6 * 3600, abs=1), "from its end at 12:00 to the shift's at 18:00"
