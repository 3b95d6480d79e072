"""Builds the parts from the config, starts them, watches them, stops them. The only place that knows every adapter."""

from __future__ import annotations

import ctypes
import fcntl
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import structlog

from station import fit, web
from station.andon import AndonCord, Trial
from station.aws import AwsCloud
from station.aws.bucket import Bucket
from station.boards import family
from station.ca import CertificateAuthority, load_ca_certificate
from station.config import Config
from station.config.messages import Messages
from station.diary import FILE as DIARY
from station.diary import Diary
from station.doctor import Doctor, refuse_waste
from station.faults import Fault, FaultError
from station.feed.build import shelf_of
from station.feed.writer import FeedWriter
from station.hsm.keys import token_key
from station.hsm.pin import PinSource
from station.hsm.signers import Signers
from station.hsm.uri import KeyUri
from station.jig import build_jig
from station.lamps.panel import WHOLE_LINE, Panel
from station.ledger import Outbox, SqliteLedger
from station.ledger.anchors import Anchor
from station.ledger.keeper import Keeper
from station.model import Product
from station.process import log_as_json, notify
from station.seal import Seal
from station.sequence import Line
from station.service import SlotService
from station.slots import Bench, Halt, Slot
from station.status import StatusBoard

if TYPE_CHECKING:
    from station.ledger.line import LineSync

_SLOT_SILENT_S = 60.0  # longer than any single wait in a run: a slot that has not ticked for so long is stuck
_BEAT_S = 0.5

log = structlog.get_logger()


def run(config: Config) -> None:
    """Run the station until SIGTERM or SIGINT.

    Raises:
        FaultError: what keeps the station from starting, or the slot thread that died.
    """
    locked = _keep_secrets_in_memory()
    log_as_json(station=config.station)
    if not locked:
        log.warning(
            "memory is not locked: a key made here may reach the swap", detail="LimitMEMLOCK=infinity allows it"
        )
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with ExitStack() as parts:
        parts.enter_context(_only_one(config.state))
        slots, others, halt, status = _start(config, parts)
        notify("READY=1", f"STATUS={len(slots)} slots at work")
        log.info("station runs", station=config.station, version=version("provisioning-station"))
        try:
            _watch(slots, others, stopping)
        finally:
            notify("STOPPING=1")
            log.info("station stops", grace_s=config.stop_grace_s)
            status.post_stopping()
            halt.ask(config.stop_grace_s)
            for slot in slots:
                slot.join()


def _start(config: Config, parts: ExitStack) -> tuple[list[Slot], list[Thread], Halt, StatusBoard]:
    """Build and start every part; ``parts`` stops them in the opposite order. Returns the threads to watch."""
    fit.check(config)
    key = KeyUri.parse(config.hsm.key)
    ledger = SqliteLedger(
        config.state / "ledger.sqlite",
        station=config.station,
        software=version("provisioning-station"),
        config_hash=config.hash,
        token=str(key),
        simulated=config.simulate,
        in_line=config.line is not None,
    )
    parts.callback(ledger.dispose)
    for cut in ledger.recover():
        log.warning("a run was cut short", run=cut.run, serial=cut.serial)

    signers = parts.enter_context(_signers(config, key))
    certificate = load_ca_certificate(config.ca.certificate)
    authority = CertificateAuthority(certificate, token_key(certificate.public_key(), signers))
    authority.prove()

    cloud = AwsCloud.from_settings(config.aws, config.aws.server_roots.read_bytes())
    for doubt in refuse_waste(Doctor(config, cloud.registry)):
        log.warning("a part may not work", part=doubt.part, fault=doubt.fault and doubt.fault.code, detail=doubt.text)
    names = tuple(slot.name for slot in config.slots)
    status = StatusBoard(config.station, names, simulated=config.simulate)
    outbox = Outbox(ledger, cloud.retire, status.post_outbox)
    outbox.start()
    parts.callback(outbox.stop)
    keeper = _keeper(config, ledger, status, parts)
    sync = _line(config, ledger, outbox.wake, status, parts)
    feed = _feed(config, ledger, status, parts)
    lamps = _panel(config, status)
    lamps.start()
    parts.callback(lamps.stop)

    diary = Diary(config.state / DIARY, status)
    diary.start()
    parts.callback(diary.stop)
    service = SlotService(config.state / "out-of-service.json", names)
    andon = AndonCord(
        status,
        {
            Trial.SIGNATURE: authority.prove,
            Trial.REGISTRY: lambda: cloud.prove(certificate),
            Trial.CA_REGISTERED: lambda: cloud.prove(certificate, registered=True),
        },
    )
    andon.start()
    parts.callback(andon.stop)

    control = web.ControlServer(
        web.application(status, ledger, frozenset(config.products), service), config.runtime / "control.sock"
    )
    control.start()
    parts.callback(control.stop)

    halt = Halt()
    bench = Bench(
        Line(authority, cloud, ledger),
        ledger,
        ledger,
        config.products,
        lambda name: family(name).driver,
        config.operator,
        status,
        halt,
        _all(outbox.wake, *(one.wake for one in sync)),
        andon,
        service,
    )
    jig = build_jig(
        config.slots, config.slot_times, config.runtime / "slots", lambda name: _prober(config.products[name])
    )
    slots = [Slot(nest, bench) for nest in jig.nests]
    jig.look()
    jig.start()
    parts.callback(jig.stop)
    for slot in slots:
        slot.start()
    return slots, [outbox, keeper, *sync, *feed, lamps, diary, andon, control, jig], halt, status


def _all(*calls: Callable[[], None]) -> Callable[[], None]:
    """One call for several."""

    def call() -> None:
        for one in calls:
            one()

    return call


def _keeper(config: Config, ledger: SqliteLedger, status: StatusBoard, parts: ExitStack) -> Keeper:
    """The thread that closes days; it signs where there is a seal, and anchors where the settings say."""
    seal = None
    if config.seal is not None:
        seal = parts.enter_context(Seal.from_settings(config.seal, config.hsm, config.state / "pin-latch"))
    places: dict[str, Callable[[Anchor], None]] = {}
    if (s3 := config.proof.s3) is not None:
        api_url = config.aws.simulator.api_url if config.aws.simulator else None
        bucket = Bucket(config.aws.region, s3.bucket, api_url=api_url)
        places["s3"] = lambda head: bucket.put(f"{s3.prefix}{head.station}/{head.day}.txt", head.text.encode())
    keeper = Keeper(
        ledger.store,
        config.station,
        config.proof.archives_in(config.state),
        sign=seal.sign if seal else None,
        seal=seal.id if seal else None,
        places=places,
        tell=lambda error: status.post_unclosed(error.fault, error.detail) if error else status.post_unclosed(None),
    )
    keeper.start()
    parts.callback(keeper.stop)
    return keeper


def _line(
    config: Config, ledger: SqliteLedger, settled: Callable[[], None], status: StatusBoard, parts: ExitStack
) -> list[LineSync]:
    """The thread that keeps in touch with the line, where the station is in one."""
    if config.line is None:
        return []
    from station.ledger.line import LineServer, LineSync  # noqa: PLC0415 - most stations stand alone

    sync = LineSync(
        ledger,
        LineServer(config.line, config.line.password.read()),
        station=config.station,
        software=version("provisioning-station"),
        simulated=config.simulate,
        block=config.line.block,
        every_s=config.line.sync_s,
        settled=settled,
        tell=status.post_line,
    )
    status.post_line(sync.state)
    sync.start()
    parts.callback(sync.stop)
    return [sync]


def _feed(config: Config, ledger: SqliteLedger, status: StatusBoard, parts: ExitStack) -> list[Thread]:
    """The worker that tells a provider what may be activated; none where the settings name no feed."""
    if config.aws.activation.by != "provider" or config.aws.activation.feed is None or config.seal is None:
        return []
    seal = parts.enter_context(Seal.from_settings(config.seal, config.hsm, config.state / "pin-latch"))
    writer = FeedWriter(
        config.station,
        ledger,
        shelf_of(config.aws.activation.feed, config.aws, config.station),
        seal.public_key_pem,
        seal.sign,
        status=status,
        # Both waits of CONNECT, and a minute for clocks that differ.
        connect_valid_s=2 * config.aws.connect_deadline_s + 60,
    )
    writer.start()
    parts.callback(writer.stop)
    return [writer]


def _signers(config: Config, key: KeyUri) -> Signers:
    pin = PinSource(credential=config.hsm.pin.credential, file=config.hsm.pin.file)
    return Signers(key, pin, config.state / "pin-latch", processes=config.hsm.processes, timeout_s=config.hsm.timeout_s)


def _prober(product: Product) -> Callable[[str], bool]:
    """What asks one board of a product, at a port, whether it is there."""
    probe = family(product.driver).probe
    if probe is None:
        raise FaultError(
            Fault.CONFIG, f"the family {product.driver} (product {product.name}) cannot ask whether a board is there"
        )
    return lambda port: probe(port, product)


def _panel(config: Config, status: StatusBoard) -> Panel:
    lamps = [(slot.name, slot.lamp) for slot in config.slots]
    if config.line_lamp is not None:
        lamps.append((WHOLE_LINE, config.line_lamp))
    sounds = None
    if config.sounds is not None:
        told = config.sounds.model_dump(mode="json", exclude_none=True)
        sounds = {"command": told.pop("command"), "timeout_s": told.pop("timeout_s"), "files": told}
    return Panel(
        status,
        [{"slot": name, **lamp.model_dump(mode="json")} for name, lamp in lamps],
        Messages.load(config.language),
        config.runtime / "lamps.lock",
        sounds=sounds,
    )


def _watch(slots: list[Slot], others: list[Thread], stopping: Event) -> None:
    """Feed the systemd watchdog while every slot ticks; end when asked to, or when a thread is gone."""
    while not stopping.wait(_BEAT_S):
        dead = [thread.name for thread in (*slots, *others) if not thread.is_alive()]
        if dead:
            raise FaultError(Fault.UNEXPECTED, f"the thread {', '.join(dead)} is gone; see the log")
        if all(time.monotonic() - slot.ticked < _SLOT_SILENT_S for slot in slots):
            notify("WATCHDOG=1")


@contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Hold the state folder's lock: two stations on one ledger would each believe the other's runs cut short."""
    try:
        handle = (state / "station.lock").open("a")
    except OSError as error:
        named = isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError))  # else it is the disk
        fault = Fault.CONFIG if named else Fault.LEDGER_DOWN
        raise FaultError(fault, f"the state folder {state} cannot be written: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FaultError(Fault.ALREADY_RUNNING, f"another station holds {state}") from error
        yield


def _keep_secrets_in_memory() -> bool:
    """No core dump, no ptrace by others, no swap: keys made on the station live here for the length of a run.

    Returns whether the memory could be locked (mlockall(2)); it needs the right to.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None)
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE, prctl(2)
    return bool(libc.mlockall(1 | 2 | 4) == 0)  # MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT: what is touched stays
