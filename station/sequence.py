"""How one unit is provisioned. Open this first; everything else in the house is a word, a hand or the assembly."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from station.credentials import Credentials, Enrollment, chosen_roots, examine
from station.faults import Fault, FaultError
from station.interfaces import Authority, Board, Cloud, Dial, Ledger, Stop
from station.model import (
    CertificateStatus,
    Ending,
    FirstContact,
    KeyProof,
    PublicKey,
    Run,
    Step,
    StepRecord,
    key_id,
)

_USABLE = {None, CertificateStatus.ACTIVE, CertificateStatus.PENDING_ACTIVATION}


@dataclass(frozen=True, slots=True)
class Line:
    """The hands a run is made with."""

    authority: Authority
    cloud: Cloud
    ledger: Ledger


def provision(run: Run, board: Board, line: Line, stop: Stop, tell: Callable[[Run, Step], None]) -> None:
    """Take one unit from plugged in to acknowledged by AWS IoT (or to VERIFY, where nobody on the line can connect).

    Returns where the unit may be called good; the caller closes the run, and only then shows green.

    Raises:
        FaultError: the first thing that was not as it must be. It is on the step's record already.
    """

    @contextmanager
    def step(name: Step) -> Iterator[None]:
        stop.check()
        tell(run, name)
        began, ticks = datetime.now(UTC), time.perf_counter()

        def ended(fault: Fault | None) -> None:
            run.steps.append(StepRecord(name, began, (time.perf_counter() - ticks) * 1000, fault))
            line.ledger.note(run, run.steps[-1])

        try:
            yield
            stop.check()
        except Exception as error:
            # A fault found first stands, even if the ledger cannot take the step now: closing the run writes it again.
            with suppress(FaultError):
                ended(error.fault if isinstance(error, FaultError) else Fault.UNEXPECTED)
            raise
        ended(None)

    with step(Step.IDENTIFY):
        run.unit = unit = board.identify()

    with step(Step.ADMIT):
        line.ledger.admit(run)
        call = line.cloud.call(unit, run.product)

    if run.product.images:
        with step(Step.FLASH):
            board.flash()

    with step(Step.ENROLL):
        enrollment = board.enroll(call.client_id)

    with step(Step.ISSUE):
        credentials = Credentials(
            _certify(run, enrollment, call.client_id, line),
            chosen_roots(line.cloud.server_roots, run.product.server_roots),
            enrollment.private_key,
            run.product.chain_form,
        )

    with step(Step.INSTALL):
        _same_unit(run, board)
        board.install(credentials)

    with step(Step.VERIFY):
        board.reset()
        _same_unit(run, board)
        nonce = secrets.token_bytes(32)
        run.key_proof = examine(board.inspect(nonce), credentials, nonce)
        if run.key_proof is KeyProof.UNPROVEN and run.product.first_contact is FirstContact.STATION:
            raise FaultError(Fault.KEY_UNPROVEN, "the board shows nothing of the key that was installed in it")

    if run.product.first_contact is FirstContact.NONE:
        return

    with step(Step.CONNECT):
        _same_unit(run, board)
        _connect(run, board, credentials, line, stop)


def _connect(run: Run, board: Board, credentials: Credentials, line: Line, stop: Stop) -> None:
    """Make first contact: dropped, registered, activated, accepted."""
    call = line.cloud.call(run.known_unit(), run.product)
    by_board = run.product.first_contact is FirstContact.BOARD
    dial: Dial = board.dial if by_board else lambda c: line.cloud.dial(credentials, c)
    fresh = line.cloud.status(credentials.leaf) is None
    accepted = dial(call) is Ending.ACKNOWLEDGED
    if accepted and fresh:
        raise FaultError(Fault.FIRST_CONNECT_ACCEPTED, f"client id {call.client_id}")
    if not accepted:
        line.cloud.wait_active(credentials.leaf, call, dial, stop)
        line.cloud.wait_accepted(credentials.leaf, call, dial, stop)
    if by_board and run.key_proof is KeyProof.UNPROVEN:
        run.key_proof = KeyProof.DIALLED


def _certify(run: Run, enrollment: Enrollment, subject: str, line: Line) -> tuple[x509.Certificate, ...]:
    """Issue a certificate whose number is on record first; or use again what this unit and key rightly hold."""
    key = key_id(_public_key(enrollment.csr))
    leaf = line.ledger.reusable(run, key, line.authority.identity)
    if leaf is not None and line.cloud.status(leaf) in _USABLE:
        line.ledger.certifying(run, key, line.authority.identity, leaf.serial_number)
        return line.authority.chain(leaf)
    number = x509.random_serial_number()
    line.ledger.certifying(run, key, line.authority.identity, number)
    run.number = number
    chain = line.authority.issue(enrollment.csr, subject, run.product, number)
    line.ledger.certified(run, chain[0])
    return chain


def _public_key(csr: bytes) -> PublicKey:
    """The key a CSR asks for. The CA checks the CSR itself; this only names its key for the record."""
    try:
        key = x509.load_der_x509_csr(csr).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise FaultError(Fault.CSR_INVALID, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise FaultError(Fault.KEY_TYPE, f"the CSR holds a {type(key).__name__}")
    return key


def _same_unit(run: Run, board: Board) -> None:
    """An absence of under a second, or a USB reset, can hide a swap: ask again before it matters."""
    unit = board.identify()
    known = run.known_unit()
    if (unit.serial, unit.chip_id) != (known.serial, known.chip_id):
        raise FaultError(Fault.SWAPPED, f"{known.serial} was in the slot, now it is {unit.serial}")
