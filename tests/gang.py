"""Many slots in this process: real slots, jig, driver, ptys and ledger; a board is a thread on the wire's other end.

CA key and cloud are in memory (their own tests speak to the real ones): a thousand events must fit into half a minute.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from ledgers import open_ledger, production
from test_ca import make_root

from station.andon import AndonCord, Trial
from station.boards import family
from station.ca import CertificateAuthority
from station.config import SlotSettings, SlotTimes, Terminal
from station.credentials import Credentials
from station.faults import Fault, FaultError
from station.interfaces import Dial, Stop
from station.jig import build_jig
from station.ledger import Outbox
from station.model import (
    Call,
    CertificateStatus,
    Ending,
    FirstContact,
    KeyOrigin,
    KeyType,
    Outcome,
    Product,
    Profile,
    Unit,
    certificate_id,
    serial_text,
)
from station.sequence import Line
from station.service import SlotService
from station.sim.board import Board
from station.sim.board_faults import Faults
from station.sim.board_wire import PowerOffError, Wire
from station.sim.firmware import Identity
from station.sim.line import wait_for
from station.slots import Bench, Halt, Slot
from station.status import SlotState, SlotStatus, StatusBoard

PRODUCT = Product(
    *("gang", "console", "demo-board", KeyType.P256, KeyOrigin.STATION, Profile(30, 60)),
    first_contact=FirstContact.STATION,
)
DEBOUNCE_MS, LIFTED_MS = 20, 100


class ThreadBoard:
    """A simulated board in a thread: its link appears, and is gone once it is lifted."""

    def __init__(self, link: Path, store: Path, serial: str, faults: Sequence[str]) -> None:
        self.serial = serial
        store.mkdir(parents=True, exist_ok=True)
        power, self._switch = os.pipe()
        self._there = threading.Event()
        identity = Identity(serial, f"C-{serial}", "demo-board", "1.0.0")
        self._thread = threading.Thread(target=self._live, args=(link, power, identity, store, faults), daemon=True)
        self._thread.start()
        self._there.wait(10)

    def _live(self, link: Path, power: int, identity: Identity, store: Path, faults: Sequence[str]) -> None:
        try:
            with Wire(link, 0, power) as wire:
                self._there.set()
                Board(wire, identity, store, Faults(faults)).serve()
        except PowerOffError:
            pass
        finally:
            os.close(power)

    def lift(self) -> None:
        os.close(self._switch)
        self._thread.join(10)


class Cloud:
    """What `interfaces.Cloud` promises, in memory; ``down`` is a network that is away."""

    def __init__(self, server_roots: bytes) -> None:
        self.server_roots = server_roots
        self.known: dict[str, CertificateStatus] = {}
        self.names: dict[str, str] = {}
        self.down = False

    def works(self) -> None:
        if self.down:
            raise FaultError(Fault.CLOUD_UNREACHABLE, "as ordered")

    def call(self, unit: Unit, product: Product) -> Call:
        return Call("localhost", 1, product.client_id_of(unit), product.topic_of(unit), b"x", 1.0)

    def status(self, leaf: x509.Certificate) -> CertificateStatus | None:
        self.works()
        return self.known.get(certificate_id(leaf))

    def dial(self, credentials: Credentials, call: Call) -> Ending:
        self.works()
        name = certificate_id(credentials.leaf)
        self.names[name] = call.client_id
        if self.known.get(name) is CertificateStatus.ACTIVE:
            return Ending.ACKNOWLEDGED
        self.known.setdefault(name, CertificateStatus.PENDING_ACTIVATION)
        return Ending.DROPPED

    def wait_active(self, leaf: x509.Certificate, _call: Call, _dial: Dial, stop: Stop) -> None:
        self.works()
        stop.wait(0.01)
        self.known[certificate_id(leaf)] = CertificateStatus.ACTIVE

    def wait_accepted(self, leaf: x509.Certificate, call: Call, dial: Dial, stop: Stop) -> None:
        del leaf
        stop.check()
        if dial(call) is not Ending.ACKNOWLEDGED:
            raise FaultError(Fault.NOT_REGISTERED)

    def retire(self, leaf: x509.Certificate, _ca_certificate_id: str) -> None:
        self.works()
        self.known[certificate_id(leaf)] = CertificateStatus.INACTIVE


class Authority(CertificateAuthority):
    """The real CA with a key in memory. ``down`` is a token that is away; each number must be on record first."""

    down = False
    record: Path
    broken: list[str]

    def prove(self) -> None:
        if self.down:
            raise FaultError(Fault.HSM_DOWN, "as ordered")
        super().prove()

    def issue(self, csr: bytes, subject: str, product: Product, number: int) -> tuple[x509.Certificate, ...]:
        if self.down:
            raise FaultError(Fault.HSM_DOWN, "as ordered")
        if not rows(self.record, "SELECT 1 FROM certificates WHERE number = ?", serial_text(number)):
            self.broken.append(f"certificate {serial_text(number)} was made without a prior row")
        return super().issue(csr, subject, product, number)


def rows(path: Path, query: str, *values: str) -> list[Any]:
    with sqlite3.connect(path, timeout=10) as connection:
        return connection.execute(query, values).fetchall()


class Watched(StatusBoard):
    """Looks at each change of a slot as it is posted: what a slot may show next, and that green is committed."""

    record: Path
    broken: list[str]
    removals: dict[str, int]

    def watch(self, record: Path, broken: list[str], removals: dict[str, int]) -> None:
        self.record, self.broken, self.removals = record, broken, removals
        self._when_empty: dict[str, int] = {}

    def post(self, slot: SlotStatus) -> None:
        before = next(old for old in self.now().slots if old.slot == slot.slot)
        name, removals = slot.slot, self.removals.get(slot.slot, 0)
        left = before.state is SlotState.RESULT and slot.state is not SlotState.RESULT
        if left and removals == self._when_empty.get(name, 0):
            self.broken.append(f"slot {name} left its result {before.outcome} for {slot.state} without a lift")
        if slot.state is SlotState.EMPTY:
            self._when_empty[name] = removals
        if slot.outcome is Outcome.PASS:
            found = rows(self.record, "SELECT outcome FROM closures WHERE run = ?", slot.run or "")
            if found != [("PASS",)]:
                self.broken.append(f"slot {name} is green, and on record is {found}")
        super().post(slot)


class Gang:
    """Slots at work, and boards to put into them."""

    def __init__(self, folder: Path, slots: int, ledger: Any, parts: ExitStack, lifted_ms: int) -> None:
        names = tuple(str(number) for number in range(1, slots + 1))
        self.folder, self.record, self.broken = folder, folder / "ledger.sqlite", list[str]()
        self.ports = {name: folder / "jig" / f"slot{name}" for name in names}
        self.boards: dict[str, ThreadBoard] = {}
        self.removals: dict[str, int] = {}
        (folder / "jig").mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        root = make_root(key, since=datetime.now(UTC) - timedelta(days=1))
        self.cloud, self.ledger = Cloud(root.public_bytes(Encoding.PEM)), ledger
        self.authority = Authority(root, key)
        self.authority.record, self.authority.broken = self.record, self.broken
        self.status = Watched("gang", names, simulated=True)
        self.status.watch(self.record, self.broken, self.removals)
        outbox = Outbox(ledger, self.cloud.retire, self.status.post_outbox)
        outbox.start()
        parts.callback(outbox.stop)
        registry = self.cloud.works
        trials = {Trial.SIGNATURE: self.authority.prove, Trial.REGISTRY: registry, Trial.CA_REGISTERED: registry}
        andon = AndonCord(self.status, trials)
        andon.start()
        parts.callback(andon.stop)
        self.service = SlotService(folder / "out.json", names)
        halt = Halt()
        bench = Bench(
            Line(self.authority, self.cloud, ledger),
            ledger,
            ledger,
            {PRODUCT.name: PRODUCT},
            lambda name: family(name).driver,
            "gang",
            self.status,
            halt,
            outbox.wake,
            andon,
            self.service,
        )
        settings = [SlotSettings(name=n, port=p, lamp=Terminal(kind="terminal")) for n, p in self.ports.items()]
        times = SlotTimes(debounce_ms=DEBOUNCE_MS, lifted_ms=lifted_ms)
        jig = build_jig(settings, times, folder / "links", lambda _: lambda _: False)
        threads = [Slot(nest, bench) for nest in jig.nests]
        jig.look()
        jig.start()
        parts.callback(jig.stop)
        for thread in threads:
            thread.start()

        def end() -> None:
            halt.ask(0.0)
            for thread in threads:
                thread.join(20)

        parts.callback(end)
        parts.callback(self.clear)

    def plug(self, slot: str, serial: str, *faults: str) -> None:
        self.boards[slot] = ThreadBoard(self.ports[slot], self.folder / "flash" / serial, serial, faults)

    def lift(self, slot: str) -> None:
        board = self.boards.pop(slot)
        self.removals[slot] = self.removals.get(slot, 0) + 1  # first: the slot may see it before the hand is through
        board.lift()

    def clear(self) -> None:
        for slot in list(self.boards):
            self.lift(slot)

    def slot(self, name: str) -> SlotStatus:
        return next(slot for slot in self.status.now().slots if slot.slot == name)

    def settled(self, name: str) -> SlotStatus:
        """The slot once it does nothing of itself any more."""
        wanted = SlotState.RESULT if name in self.boards else SlotState.EMPTY
        resting = {wanted, SlotState.OUT, SlotState.WAITING}
        wait_for(f"slot {name} at rest", lambda: self.slot(name).state in resting)
        return self.slot(name)

    def active(self) -> dict[str, list[str]]:
        """The certificates that work, by client id."""
        found: dict[str, list[str]] = {}
        for name, status in self.cloud.known.items():
            if status is CertificateStatus.ACTIVE:
                found.setdefault(self.cloud.names[name], []).append(name)
        return found


@contextmanager
def gang(folder: Path, slots: int, ledger_file: bytes | None = None, lifted_ms: int = LIFTED_MS) -> Iterator[Gang]:
    """A gang with an open order for more units than it will see."""
    if ledger_file is not None:
        (folder / "ledger.sqlite").write_bytes(ledger_file)
    with ExitStack() as parts:
        ledger = open_ledger(folder / "ledger.sqlite")
        parts.callback(ledger.dispose)
        ledger.add_order(production("WO-1", 100_000, PRODUCT.name), "gang")
        yield Gang(folder, slots, ledger, parts, lifted_ms)
