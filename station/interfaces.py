"""What the sequence asks of others. Adapters satisfy these by shape; nobody subclasses them.

Every method may raise `FaultError`, and only that. Every method that may wait looks at the run's `Stop` in its loops,
and returns or raises before its own deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from cryptography import x509

from station.credentials import Credentials, Enrollment, Evidence
from station.model import Call, CertificateStatus, Ending, Product, Run, Standing, StepRecord, Unit, WorkOrder
from station.transcript import Transcript

Dial: TypeAlias = Callable[[Call], Ending]


class Stop(Protocol):
    """The reasons to end a run early: the board was lifted, or the station stops."""

    def check(self) -> None:
        """Raise `Fault.LIFTED` or `Fault.STOPPED` once there is a reason."""

    def wait(self, seconds: float) -> None:
        """Wait, but raise as `check` does as soon as there is a reason."""


class Board(Protocol):
    """One unit on its wire. Line retries live behind this; a method that returns has succeeded."""

    def identify(self) -> Unit:
        """Ask the unit who it is. Cheap: it is asked again before INSTALL, in VERIFY and before CONNECT."""

    def flash(self) -> None:
        """Write the product's images and verify them. Asked only where the product has some."""

    def enroll(self, subject: str) -> Enrollment:
        """Make a fresh key pair (on the unit, or here where the product says so) and a CSR for CN=``subject``."""

    def install(self, credentials: Credentials) -> None:
        """Store chain, server roots and (where the station made it) key in the unit, each piece checked.

        What does not fit the unit is refused with `Fault.PRODUCT_UNFIT` before anything is sent.
        """

    def reset(self) -> None:
        """Restart the unit and wait until it answers again."""

    def inspect(self, nonce: bytes) -> Evidence:
        """Read back what the unit holds, and have it sign ``nonce`` (32 bytes) where the family can."""

    def dial(self, call: Call) -> Ending:
        """Make the unit connect by itself, and report how that ended."""

    def close(self) -> None:
        """Give the port back. Never raises."""


class BoardDriver(Protocol):
    """What opens a board of one family, for one run."""

    def __call__(self, port: str, product: Product, stop: Stop, transcript: Transcript) -> Board:
        """Open ``port``; all that passes there goes into ``transcript``, but secrets.

        Raises `Fault.PORT_DENIED` or `Fault.LIFTED`.
        """


class Authority(Protocol):
    """The CA, as the line sees it."""

    def issue(self, csr: bytes, subject: str, product: Product, number: int) -> tuple[x509.Certificate, ...]:
        """Check the CSR (DER), sign to the product's profile, check the result; return the chain, leaf first."""

    def chain(self, leaf: x509.Certificate) -> tuple[x509.Certificate, ...]:
        """The chain of a certificate that is used again."""

    @property
    def identity(self) -> str:
        """Lowercase hex SHA-256 of the CA certificate's DER."""


class Cloud(Protocol):
    """AWS IoT: the registry, and the connection that the station makes where it holds the key."""

    @property
    def server_roots(self) -> bytes:
        """The PEM roots by which a unit shall know the cloud."""

    def call(self, unit: Unit, product: Product) -> Call:
        """What ``unit`` shall dial."""

    def status(self, leaf: x509.Certificate) -> CertificateStatus | None:
        """The registry's word for a certificate; None where it does not know it."""

    def dial(self, credentials: Credentials, call: Call) -> Ending:
        """Connect as the unit would, with exactly what is installed in it."""

    def wait_active(self, leaf: x509.Certificate, call: Call, dial: Dial, stop: Stop) -> None:
        """After the first dial: wait for PENDING_ACTIVATION, activate where the station does that, wait for ACTIVE."""

    def wait_accepted(self, leaf: x509.Certificate, call: Call, dial: Dial, stop: Stop) -> None:
        """Dial until acknowledged or the deadline; then ask the registry for the cause and raise its fault."""


class Ledger(Protocol):
    """The record, as a run writes it. What returns is on disk."""

    def open(self, run: Run) -> None:
        """Put the run on record before anything is done to the unit."""

    def admit(self, run: Run) -> None:
        """Decide by the run's unit which open order it runs under, and set ``run.order``; or raise an O fault."""

    def note(self, run: Run, record: StepRecord) -> None:
        """Put one ended step on record."""

    def reusable(self, run: Run, key: str, authority: str) -> x509.Certificate | None:
        """A live, unexpired certificate of this unit, key, CA and profile, if there is one."""

    def certifying(self, run: Run, key: str, authority: str, number: int) -> None:
        """One transaction before a certificate exists: locks, bindings, key, profile and serial number."""

    def certified(self, run: Run, leaf: x509.Certificate) -> None:
        """The certificate that was made under the number, before it leaves the station."""

    def close(self, run: Run) -> None:
        """End the run with ``run.outcome``; what did not pass goes to the outbox in the same transaction.

        Steps that `note` could not write are written now. A second close of the same run changes nothing.
        """


class OrderBook(Protocol):
    """What the slot asks before there is a run."""

    def next_order(self) -> WorkOrder | None:
        """The open order to work by: the oldest with units left to build."""


class Register(Protocol):
    """What the provider's activator asks: does the line know this certificate, and how does it stand now?"""

    def standing(self, certificate_id: str) -> Standing | None:
        """None for a stranger. Raises `FaultError` where it cannot be asked; that is no answer."""
