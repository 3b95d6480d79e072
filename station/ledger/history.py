"""What is on record about one unit, for people who ask."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from station.ledger.schema import (
    admissions,
    certificates,
    closures,
    identified,
    issued,
    proofs,
    runs,
    steps,
    transcripts,
    uses,
)
from station.transcript import Entry, unpacked


@dataclass(frozen=True, slots=True)
class StepHistory:
    """One ended step."""

    step: str
    started_at: datetime
    duration_ms: float
    fault: str | None


@dataclass(frozen=True, slots=True)
class CertificateHistory:
    """A certificate that a run made or used again. ``certificate_id`` is None where it was never signed."""

    number: str
    certificate_id: str | None
    not_after: datetime | None
    authority: str


@dataclass(frozen=True, slots=True)
class RunHistory:
    """One run, as it is on record; ``outcome`` is None while it runs."""

    run: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    fault: str | None
    detail: str | None
    order: str | None
    product: str
    operator: str
    slot: str
    station: str
    serial: str
    chip_id: str
    model: str
    firmware: str
    software: str
    config_hash: str
    profile_hash: str
    token: str
    simulated: bool
    key_proof: str | None
    steps: tuple[StepHistory, ...]
    certificates: tuple[CertificateHistory, ...]


def of_unit(connection: sa.Connection, serial: str) -> list[RunHistory]:
    """Every run that identified ``serial``, oldest first."""
    query = (
        sa.select(
            runs.c.id.label("run"),
            runs.c.started_at,
            closures.c.at.label("ended_at"),
            closures.c.outcome,
            closures.c.fault,
            closures.c.detail,
            admissions.c.order_number.label("order"),
            *(runs.c[name] for name in ("product", "operator", "slot", "station")),
            *(identified.c[name] for name in ("serial", "chip_id", "model", "firmware")),
            *(runs.c[name] for name in ("software", "config_hash", "profile_hash", "token", "simulated")),
            proofs.c.key.label("key_proof"),
        )
        .join(identified, identified.c.run == runs.c.id)
        .outerjoin(admissions, admissions.c.run == runs.c.id)
        .outerjoin(closures, closures.c.run == runs.c.id)
        .outerjoin(proofs, proofs.c.run == runs.c.id)
        .where(identified.c.serial == serial)
        .order_by(runs.c.started_at, runs.c.id)
    )
    return [
        RunHistory(**row, steps=_steps(connection, row["run"]), certificates=_certificates(connection, row["run"]))
        for row in connection.execute(query).mappings()
    ]


def transcript(connection: sa.Connection, serial: str, run: str | None) -> tuple[str, list[Entry]] | None:
    """A run's id and its exchange with the board; the last closed run of ``serial`` where none is named."""
    query = (
        sa.select(transcripts.c.run, transcripts.c.packed)
        .join(identified, identified.c.run == transcripts.c.run)
        .where(identified.c.serial == serial)
        .order_by(identified.c.at.desc())
    )
    found = connection.execute(query if run is None else query.where(transcripts.c.run == run)).first()
    return None if found is None else (found.run, unpacked(found.packed))


def _steps(connection: sa.Connection, run: str) -> tuple[StepHistory, ...]:
    query = sa.select(steps.c.step, steps.c.started_at, steps.c.duration_ms, steps.c.fault)
    rows = connection.execute(query.where(steps.c.run == run).order_by(steps.c.position))
    return tuple(StepHistory(*row) for row in rows)


def _certificates(connection: sa.Connection, run: str) -> tuple[CertificateHistory, ...]:
    query = (
        sa.select(uses.c.number, issued.c.certificate_id, issued.c.not_after, certificates.c.authority)
        .join(certificates, certificates.c.number == uses.c.number)
        .outerjoin(issued, issued.c.number == uses.c.number)
        .where(uses.c.run == run)
        .order_by(uses.c.at)
    )
    return tuple(CertificateHistory(*row) for row in connection.execute(query))
