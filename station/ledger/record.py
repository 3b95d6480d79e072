"""The record as a run writes it. What returns is on the disk; what raised has written nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from station.faults import Fault, FaultError
from station.ledger import history, orders, tally
from station.ledger.schema import (
    admissions,
    certificates,
    closures,
    identified,
    identities,
    issued,
    live_certificates,
    live_runs,
    outbox,
    passes,
    proofs,
    runs,
    steps,
    transcripts,
    uses,
)
from station.ledger.store import Store
from station.model import Outcome, Run, StepRecord, Unit, WorkOrder, certificate_id, serial_text
from station.transcript import Entry


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class CutRun:
    """A run that had no end when the station started."""

    run: str
    serial: str | None


class SqliteLedger:
    """The station's own ledger: `interfaces.Ledger` and `interfaces.OrderBook`. Safe from any thread.

    Raises (each method):
        FaultError: `Fault.LEDGER_DOWN` where the database does not take it, beside the faults named there.
    """

    def __init__(
        self,
        path: Path,
        *,
        station: str,
        software: str,
        config_hash: str,
        token: str,
        simulated: bool,
        in_line: bool = False,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.store = Store(path, simulated=simulated)
        self._facts = {
            "station": station,
            "software": software,
            "config_hash": config_hash,
            "token": token,
            "simulated": simulated,
        }
        self._in_line = in_line
        self._clock = clock

    def dispose(self) -> None:
        """Close the database."""
        self.store.dispose()

    # The order book.

    def add_order(self, order: WorkOrder, by: str) -> None:
        """Open a work order. Raises `Fault.ORDER_INVALID` where its number was used before."""
        with self.store.write() as connection:
            orders.add(connection, order, by)

    def close_order(self, number: str, by: str) -> None:
        """Close a work order. Raises `Fault.NO_ORDER` or, where it is closed, `Fault.ORDER_INVALID`."""
        with self.store.write() as connection:
            orders.close(connection, number, by)

    def orders(self) -> list[orders.OrderProgress]:
        """Every order with its progress, oldest first."""
        with self.store.read() as connection:
            return orders.progress(connection)

    def next_order(self) -> WorkOrder | None:
        """The oldest open order with units left to build."""
        with self.store.read() as connection:
            return orders.next_open(connection, in_line=self._in_line)

    # One run, from first to last.

    def open(self, run: Run) -> None:
        """Put the run on record before anything is done to the unit."""
        with self.store.write() as connection:
            connection.execute(
                sa.insert(runs).values(
                    id=run.id,
                    slot=run.slot,
                    operator=run.operator,
                    product=run.product.name,
                    profile_hash=run.product.profile.hash,
                    started_at=run.started_at,
                    **self._facts,
                )
            )

    def admit(self, run: Run) -> None:
        """Put the unit on record, lock it for this run, and set ``run.order``.

        Raises:
            FaultError: `WRONG_PRODUCT`, `UNIT_FIRMWARE`, `IDENTITY_CLASH`, `UNIT_BUSY`, `NO_ORDER`, `ORDER_FULL`,
                `ALREADY_PASSED`, `NEVER_PASSED`, in a line `LEASE_SPENT`. The unit is on record then too.
        """
        unit = run.known_unit()
        refusal: FaultError | None = None
        with self.store.write() as connection:
            connection.execute(
                sa.insert(identified).values(
                    run=run.id,
                    serial=unit.serial,
                    chip_id=unit.chip_id,
                    model=unit.model,
                    firmware=unit.firmware,
                    at=self._clock(),
                )
            )
            try:
                order = self._admitted(connection, run, unit)
            except FaultError as error:
                refusal = error
        if refusal:
            raise refusal
        run.order = order

    def _admitted(self, connection: sa.Connection, run: Run, unit: Unit) -> WorkOrder:
        _fits(run, unit)
        _bound_elsewhere(connection, unit)
        # Locked from here on, not only from ISSUE: enrolling changes the key on the board.
        busy = sa.select(live_runs.c.run).where(
            (live_runs.c.serial == unit.serial) | (live_runs.c.chip_id == unit.chip_id)
        )
        if other := connection.execute(busy).scalar():
            raise FaultError(Fault.UNIT_BUSY, f"{unit.serial} is in run {other} at this moment")
        order = orders.admitting(connection, run, unit, in_line=self._in_line)
        connection.execute(sa.insert(live_runs).values(run=run.id, serial=unit.serial, chip_id=unit.chip_id))
        connection.execute(sa.insert(admissions).values(run=run.id, order_number=order.number, at=self._clock()))
        return order

    def note(self, run: Run, record: StepRecord) -> None:
        """Put one ended step on record."""
        with self.store.write() as connection:
            _note(connection, run, run.steps.index(record))

    def reusable(self, run: Run, key: str, authority: str) -> x509.Certificate | None:
        """The unit's live certificate, where it is of this key, CA and profile and not expired."""
        query = (
            sa.select(issued.c.der)
            .select_from(live_certificates)
            .join(issued, issued.c.number == live_certificates.c.number)
            .join(certificates, certificates.c.number == live_certificates.c.number)
            .where(
                live_certificates.c.serial == run.known_unit().serial,
                certificates.c.key_id == key,
                certificates.c.authority == authority,
                certificates.c.profile_hash == run.product.profile.hash,
                issued.c.not_after > self._clock(),
            )
        )
        with self.store.read() as connection:
            der = connection.execute(query).scalar()
        return None if der is None else x509.load_der_x509_certificate(der)

    def certifying(self, run: Run, key: str, authority: str, number: int) -> None:
        """Everything that must be on record before a certificate exists, in one transaction.

        Args:
            run: the run, admitted.
            key: `model.key_id` of the public key.
            authority: the CA's identity.
            number: the serial number to be signed, or that of the unit's live certificate, which is used again.

        Raises:
            FaultError: `UNIT_BUSY`, `IDENTITY_CLASH`, `KEY_CLONED`.
        """
        unit, name = run.known_unit(), serial_text(number)
        with self.store.write() as connection:
            holder = connection.execute(sa.select(live_runs.c.run).where(live_runs.c.serial == unit.serial)).scalar()
            if holder != run.id:
                raise FaultError(Fault.UNIT_BUSY, f"{unit.serial} is not locked by run {run.id}")
            _bind(connection, run, unit, self._clock())
            owner = sa.select(live_certificates.c.serial).where(live_certificates.c.key_id == key)
            other = connection.execute(owner).scalar()
            if other not in {None, unit.serial}:
                raise FaultError(Fault.KEY_CLONED, f"the key of {unit.serial} is that of {other} too")
            _cloned_elsewhere(connection, unit, key)
            live = sa.select(live_certificates.c.number).where(live_certificates.c.serial == unit.serial)
            old = connection.execute(live).scalar()
            if old != name:
                if old is not None:
                    self._retire(connection, run.id, old, "superseded")
                connection.execute(
                    sa.insert(certificates).values(
                        number=name,
                        run=run.id,
                        serial=unit.serial,
                        key_id=key,
                        authority=authority,
                        profile_hash=run.product.profile.hash,
                        at=self._clock(),
                    )
                )
                connection.execute(sa.insert(live_certificates).values(serial=unit.serial, key_id=key, number=name))
            connection.execute(sa.insert(uses).values(run=run.id, number=name, at=self._clock()))

    def certified(self, run: Run, leaf: x509.Certificate) -> None:
        """The certificate that was made under the number."""
        if leaf.serial_number != run.number:
            raise FaultError(Fault.CA_OUTPUT, f"certificate {serial_text(leaf.serial_number)} is not run {run.id}'s")
        with self.store.write() as connection:
            connection.execute(
                sa.insert(issued).values(
                    number=serial_text(leaf.serial_number),
                    certificate_id=certificate_id(leaf),
                    der=leaf.public_bytes(Encoding.DER),
                    not_after=leaf.not_valid_after_utc,
                    at=self._clock(),
                )
            )

    def close(self, run: Run) -> None:
        """End the run; unless it passed, its certificate goes to the outbox in the same transaction.

        Steps that `note` could not write are written now. A second close of the same run changes nothing; it raises
        `Fault.LEDGER_DOWN` where another outcome is on record, or the lamp could show green for what is none.
        """
        with self.store.write() as connection:
            ended = connection.execute(sa.select(closures.c.outcome).where(closures.c.run == run.id)).scalar()
            if ended == run.outcome.value:
                return
            if ended is not None:
                raise FaultError(Fault.LEDGER_DOWN, f"run {run.id} is on record as {ended}, not as {run.outcome.value}")
            noted = set(connection.execute(sa.select(steps.c.position).where(steps.c.run == run.id)).scalars())
            for position in range(len(run.steps)):
                if position not in noted:
                    _note(connection, run, position)
            connection.execute(sa.insert(transcripts).values(run=run.id, packed=run.transcript.packed()))
            if run.key_proof is not None:
                connection.execute(sa.insert(proofs).values(run=run.id, key=run.key_proof.value))
            self._end(connection, run.id, run.outcome, run.fault)

    def recover(self) -> list[CutRun]:
        """Close every run that has no end, as `Fault.CUT_SHORT`. To be called at start, before any run."""
        fault = FaultError(Fault.CUT_SHORT, "the station started, and this run had no end on record")
        query = (
            sa.select(runs.c.id, identified.c.serial)
            .outerjoin(closures, closures.c.run == runs.c.id)
            .outerjoin(identified, identified.c.run == runs.c.id)
            .where(closures.c.run.is_(None))
            .order_by(runs.c.started_at)
        )
        with self.store.write() as connection:
            cut = [CutRun(*row) for row in connection.execute(query)]
            for one in cut:
                self._end(connection, one.run, Outcome.of(fault.fault), fault)
        return cut

    def _end(self, connection: sa.Connection, run: str, outcome: Outcome, fault: FaultError | None) -> None:
        connection.execute(
            sa.insert(closures).values(
                run=run,
                outcome=outcome.value,
                fault=fault.fault.code if fault else None,
                detail=fault.detail if fault else "",
                at=self._clock(),
            )
        )
        tally.add(connection, run)
        connection.execute(sa.delete(live_runs).where(live_runs.c.run == run))
        if outcome.made:
            return
        used = sa.select(uses.c.number).where(uses.c.run == run)
        for number in connection.execute(used).scalars().all():
            self._retire(connection, run, number, outcome.value)

    def _retire(self, connection: sa.Connection, run: str, number: str, reason: str) -> None:
        """The certificate lives no more; where it was signed, the outbox says so to AWS IoT."""
        connection.execute(sa.delete(live_certificates).where(live_certificates.c.number == number))
        signed = connection.execute(sa.select(issued.c.number).where(issued.c.number == number)).first()
        waiting = connection.execute(sa.select(outbox.c.number).where(outbox.c.number == number)).first()
        if signed and not waiting:
            connection.execute(sa.insert(outbox).values(number=number, run=run, reason=reason, at=self._clock()))

    def transcript(self, serial: str, run: str | None = None) -> tuple[str, list[Entry]] | None:
        """A run's id and its exchange with the board; the last closed run of ``serial`` where none is named."""
        with self.store.read() as connection:
            return history.transcript(connection, serial, run)

    def unit_history(self, serial: str) -> list[history.RunHistory]:
        """Every run of one unit, oldest first."""
        with self.store.read() as connection:
            return history.of_unit(connection, serial)


def _fits(run: Run, unit: Unit) -> None:
    product = run.product
    if unit.model != product.model:
        raise FaultError(Fault.WRONG_PRODUCT, f"{unit.serial} is a {unit.model}; {product.name} is a {product.model}")
    if product.firmware is not None and unit.firmware != product.firmware:
        raise FaultError(
            Fault.UNIT_FIRMWARE, f"{unit.serial} runs {unit.firmware}; {product.name} needs {product.firmware}"
        )


def _bound_elsewhere(connection: sa.Connection, unit: Unit) -> bool:
    """Whether serial and chip id are bound to each other already. Raises `Fault.IDENTITY_CLASH` for any other tie."""
    query = sa.select(identities.c.serial, identities.c.chip_id).where(
        (identities.c.serial == unit.serial) | (identities.c.chip_id == unit.chip_id)
    )
    found = connection.execute(query).all()
    elsewhere = sa.select(passes.c.serial, passes.c.chip_id).where(
        (passes.c.serial == unit.serial) | (passes.c.chip_id == unit.chip_id)
    )
    for serial, chip_id in [*found, *connection.execute(elsewhere.distinct()).all()]:
        if (serial, chip_id) != (unit.serial, unit.chip_id):
            raise FaultError(
                Fault.IDENTITY_CLASH,
                f"{unit.serial} with chip {unit.chip_id}; on record is {serial} with chip {chip_id}",
            )
    return bool(found)


def _cloned_elsewhere(connection: sa.Connection, unit: Unit, key: str) -> None:
    """Raise `Fault.KEY_CLONED` where another unit passed at another station with the same key."""
    query = sa.select(passes.c.serial, passes.c.station).where(passes.c.key_id == key, passes.c.serial != unit.serial)
    other = connection.execute(query.limit(1)).first()
    if other is not None:
        raise FaultError(Fault.KEY_CLONED, f"the key of {unit.serial} is that of {other.serial}, at {other.station}")


def _bind(connection: sa.Connection, run: Run, unit: Unit, at: datetime) -> None:
    if not _bound_elsewhere(connection, unit):
        connection.execute(sa.insert(identities).values(serial=unit.serial, chip_id=unit.chip_id, run=run.id, at=at))


def _note(connection: sa.Connection, run: Run, position: int) -> None:
    record = run.steps[position]
    connection.execute(
        sa.insert(steps).values(
            run=run.id,
            position=position,
            step=record.step.value,
            started_at=record.started_at,
            duration_ms=record.duration_ms,
            fault=record.fault.code if record.fault else None,
        )
    )
