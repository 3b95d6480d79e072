"""Runs as OpenHTF records them, so that tools which read OpenHTF's JSON (TofuPilot's importers) read ours.

The form is that of openhtf 1.6's ``output.callbacks.json_factory.OutputToJSON``: an object a run, a phase a step.
`tests/test_yields_files.py` holds a record that openhtf itself wrote, and compares the keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from station.faults import Blame, Fault
from station.ledger.schema import closures, identified, runs, steps, tally
from station.model import OrderKind
from station.yields.scope import Scope

# OpenHTF knows no PROVISIONED: it is done, and nothing was wrong.
_OUTCOMES = {"PROVISIONED": "PASS"}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_NO_CODE = {"name": "", "docstring": None, "sourcecode": ""}


def records(connection: sa.Connection, scope: Scope) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each run of production and rework with a file name for it, oldest first: golden samples are in no yield."""
    query = (
        sa.select(
            *(tally.c[name] for name in tally.c.keys()),  # noqa: SIM118 - a collection of columns, not a dict
            closures.c.detail,
            identified.c.chip_id,
            identified.c.firmware,
            runs.c.software,
            runs.c.config_hash,
            steps.c.step,
            steps.c.started_at.label("step_started_at"),
            steps.c.duration_ms.label("step_ms"),
            steps.c.fault.label("step_fault"),
        )
        .join(runs, runs.c.id == tally.c.run)
        .join(closures, closures.c.run == tally.c.run)
        .outerjoin(identified, identified.c.run == tally.c.run)
        .outerjoin(steps, steps.c.run == tally.c.run)
        .where(*scope.real(OrderKind.PRODUCTION, OrderKind.REWORK))
        .order_by(tally.c.at, tally.c.run, steps.c.position)
    )
    rows = connection.execute(query, execution_options={"yield_per": 2000}).mappings()
    for _, mine in groupby(rows, key=lambda row: row["run"]):
        of_run = list(mine)
        yield _name(of_run[0]), _record(of_run)


def _name(run: Any) -> str:
    name = f"{run['serial'] or 'UNKNOWN'}.{run['product']}.{run['at']:%Y-%m-%d_%H-%M-%S}.{run['run'][-8:]}.json"
    # A line's server holds what its stations told it; none of that is a path.
    return _UNSAFE.sub("_", name).lstrip(".")


def _record(rows: list[Any]) -> dict[str, Any]:
    run = rows[0]
    names = ("run", "operator", "slot", "order_number", "kind", "outcome", "chip_id", "firmware", "config_hash")
    return {
        "dut_id": run["serial"] or "UNKNOWN_DUT",
        "start_time_millis": _millis(run["started_at"]),
        "end_time_millis": _millis(run["at"]),
        "outcome": _OUTCOMES.get(run["outcome"], run["outcome"]),
        "outcome_details": [{"code": run["fault"], "description": run["detail"]}] if run["fault"] else [],
        "marginal": None,
        "metadata": {
            "test_name": run["product"],
            "part_number": run["product"],
            "test_version": run["software"],
            "config": {},
            "station": {name: run[name] for name in names},
        },
        "phases": [_phase(index, row) for index, row in enumerate(rows) if row["step"] is not None],
        "subtests": [],
        "branches": [],
        "diagnosers": [],
        "diagnoses": [],
        "log_records": [],
        "station_id": run["station"],
        "code_info": _NO_CODE,
    }


def _phase(index: int, row: Any) -> dict[str, Any]:
    start, seconds = _millis(row["step_started_at"]), row["step_ms"] / 1000
    outcome = _phase_outcome(row["step_fault"])
    duration = {
        "name": "duration",
        "outcome": "PASS",
        "validators": [],
        "units": {"name": "second [unit of time]", "code": "SEC", "suffix": "s"},
        "measured_value": seconds,
    }
    return {
        "measurements": {"duration": duration},
        "options": {"name": None, "timeout_s": None, "run_if": None, "requires_state": False},
        "diagnosers": [],
        "subtest_name": None,
        "start_time_millis": start,
        "end_time_millis": start + round(row["step_ms"]),
        "attachments": {},
        "diagnosis_results": [],
        "failure_diagnosis_results": [],
        "result": {"phase_result": "CONTINUE" if outcome == "PASS" else "STOP"},
        "outcome": outcome,
        "marginal": None,
        "descriptor_id": index,
        "name": row["step"],
        "codeinfo": _NO_CODE,
    }


def _phase_outcome(code: str | None) -> str:
    if code is None:
        return "PASS"
    try:
        return "FAIL" if Fault(code).blame is Blame.UNIT else "ERROR"
    except ValueError:  # of a newer software's catalogue
        return "ERROR"


def _millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
