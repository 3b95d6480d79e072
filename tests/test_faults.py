"""Every fault of the catalogue is raised by some test: a fault that nothing raises is a promise that nobody keeps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from station.faults import Blame, Fault

TESTS = Path(__file__).parent
# These look at the catalogue as a whole.
NOT_HERE = {"test_faults.py", "test_messages.py", "test_model.py", "test_lamps.py", "test_views.py"}


def sources() -> str:
    return "\n".join(file.read_text() for file in TESTS.rglob("*.py") if file.name not in NOT_HERE)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_each_fault_is_raised_by_some_test(fault: Fault) -> None:
    assert re.search(rf'\bFault\.{fault.name}\b|"{fault.code}"|\'{fault.code}\'', sources()), fault


def test_each_fault_is_raised_by_the_station_itself() -> None:
    station = "\n".join(
        file.read_text() for file in (TESTS.parent / "station").rglob("*.py") if file.name != "faults.py"
    )
    assert [fault for fault in Fault if not re.search(rf"\bFault\.{fault.name}\b", station)] == []


def test_the_first_letter_says_whose_move_it_is() -> None:
    assert {fault.code[0]: fault.blame for fault in Fault} == {
        "U": Blame.UNIT,
        "J": Blame.JIG,
        "C": Blame.CA,
        "N": Blame.CLOUD,
        "O": Blame.ORDER,
        "S": Blame.STATION,
    }
