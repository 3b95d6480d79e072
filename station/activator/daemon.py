"""`station activator run`: events over MQTT, a slow poll beside them, and one thread that works off what they find."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import structlog

from station.activator.alarms import AlarmBook
from station.activator.decide import Activator
from station.activator.service import Service, poll
from station.aws.events import TOPIC, Events, Message, context, parsed
from station.aws.registry import Grant, Registry
from station.aws.shelf import S3Shelf
from station.config.activator import (
    ActivatorFile,
    EventSettings,
    FeedRegisterSettings,
    LedgerRegisterSettings,
    PostgresRegisterSettings,
)
from station.config.feed import FolderShelf, MqttShelf
from station.config.feed import S3Shelf as S3Settings
from station.faults import Fault, FaultError
from station.feed import shelf
from station.feed.lines import LONGEST
from station.feed.register import FeedRegister, load_seals
from station.interfaces import Register
from station.ledger.readers import ledger_reader, line_reader
from station.ledger.standing import LedgerRegister
from station.process import log_as_json, notify

_BEAT_S = 0.5
_TRIES = 3  # of one pass by hand: somebody waits for it

log = structlog.get_logger()


class Poller(threading.Thread):
    """Looks through AWS IoT's list: all of it now and then, else what is newer than before."""

    def __init__(self, registry: Registry, service: Service, settings: ActivatorFile) -> None:
        super().__init__(name="poll")
        self._registry, self._service, self._settings = registry, service, settings
        self._over, self._wanted = threading.Event(), threading.Event()
        self._full_since: datetime | None = None

    def soon(self) -> None:
        """Look now: some events may have been missed."""
        self._wanted.set()

    def stop(self) -> None:
        """End after the call at hand."""
        self._over.set()
        self._wanted.set()
        self.join()

    def run(self) -> None:
        """Look every ``poll_s`` until `stop`."""
        last: datetime | None = None
        while not self._over.is_set():
            self._wanted.clear()
            began = datetime.now(UTC)
            try:
                self.look(last, began)
                last = began
            except FaultError as error:
                log.warning("the poll failed", fault=error.fault.code, detail=error.detail)
            self._wanted.wait(self._settings.poll_s)

    def look(self, last: datetime | None, now: datetime) -> None:
        """One pass over the list. Raises what AWS has against it."""
        full = self._full_since is None or now - self._full_since > timedelta(hours=self._settings.full_poll_h)
        seen = poll(self._registry, self._settings.ca_certificate_id, self._service, back_to=None if full else last)
        if full:
            self._full_since = now
        log.info("polled", seen=seen, waiting=self._service.waiting(), full=full)


def run(settings: ActivatorFile) -> None:
    """Activate until SIGTERM or SIGINT.

    Raises:
        FaultError: what keeps it from starting, or the thread that died.
    """
    log_as_json(activator=settings.ca_certificate_id[:16])
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with ExitStack() as parts:
        service, poller, threads = _start(settings, parts)
        notify("READY=1")
        log.info("the activator runs", policy=settings.policy, register=settings.register_.kind)
        while not stopping.is_set():
            dead = [one.name for one in threads if not one.is_alive()]
            if dead:
                raise FaultError(Fault.UNEXPECTED, f"the thread {', '.join(dead)} is gone; see the log")
            service.step(_BEAT_S)
            notify("WATCHDOG=1")
        notify("STOPPING=1")
        poller.soon()


def once(settings: ActivatorFile) -> Service:
    """One whole pass, until nothing waits any more; returned are its counts, and its `failure` where there was one."""
    log_as_json(activator=settings.ca_certificate_id[:16])
    with ExitStack() as parts:
        registry, activator = _activator(settings, parts)
        alarms = AlarmBook(settings.state / "alarms.jsonl")
        service = Service(activator, alarms, grace_s=settings.grace_s, tries=_TRIES)
        poll(registry, settings.ca_certificate_id, service)
        while service.waiting():
            service.step(_BEAT_S)
    return service


def _start(settings: ActivatorFile, parts: ExitStack) -> tuple[Service, Poller, list[threading.Thread]]:
    registry, activator = _activator(settings, parts)
    service = Service(activator, AlarmBook(settings.state / "alarms.jsonl"), grace_s=settings.grace_s)
    poller = Poller(registry, service, settings)
    poller.start()
    parts.callback(poller.stop)
    threads: list[threading.Thread] = [poller]
    if settings.events is not None:

        def heard(payload: bytes) -> None:
            event = parsed(payload)
            if event is None or event.get("caCertificateId") != settings.ca_certificate_id:
                log.warning("an event is none of our CA's", bytes=len(payload))
                return
            service.heard(str(event.get("certificateId"))[:64], str(event.get("sourceIp"))[:45])

        topic = TOPIC.format(ca=settings.ca_certificate_id)
        listening = _listener(settings.events, topic, heard, poller.soon)
        listening.start()
        parts.callback(listening.stop)
        threads.append(listening)
    return service, poller, threads


def _listener(
    events: EventSettings, topic: str, heard: Message, connected: Callable[[], None], *, lasting: bool = False
) -> Events:
    return Events(
        endpoint=events.endpoint,
        port=events.port,
        tls=context(events.certificate, events.key_file, events.server_roots, alpn=events.port == 443),
        client_id=events.client_id,
        topic=topic,
        heard=heard,
        connected=connected,
        lasting=lasting,
    )


def _activator(settings: ActivatorFile, parts: ExitStack) -> tuple[Registry, Activator]:
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FaultError(Fault.CONFIG, f"the state folder {settings.state}: {error.strerror}") from error
    api_url = settings.simulator.api_url if settings.simulator else None
    registry = Registry(settings.region, api_url=api_url, per_s=settings.calls_per_s)
    grant = Grant(settings.policy, settings.thing_type)
    activator = Activator(registry, _register(settings, parts, api_url), settings.ca_certificate_id, grant)
    registry.policy_document(settings.policy)  # what is missing would be found with the first unit
    if settings.thing_type:
        registry.thing_type(settings.thing_type)
    return registry, activator


def _register(settings: ActivatorFile, parts: ExitStack, api_url: str | None) -> Register:
    match settings.register_:
        case LedgerRegisterSettings(path=path):
            return LedgerRegister(parts.enter_context(ledger_reader(path)))
        case PostgresRegisterSettings(url_file=file):
            return LedgerRegister(parts.enter_context(line_reader(file)))
        case FeedRegisterSettings(at=at, seals=files):
            return _feed(settings, at, load_seals(files), parts, api_url)


def _feed(
    settings: ActivatorFile,
    at: FolderShelf | S3Settings | MqttShelf,
    seals: dict[str, bytes],
    parts: ExitStack,
    api_url: str | None,
) -> FeedRegister:
    match at:
        case FolderShelf(folder=folder):
            return FeedRegister(shelf.FolderShelf(folder), seals)
        case S3Settings(bucket=bucket, prefix=prefix):
            return FeedRegister(S3Shelf(bucket, prefix, settings.region, api_url=api_url), seals)
        case MqttShelf(topic=topic):
            return _subscribed(settings, topic, seals, parts)


def _subscribed(settings: ActivatorFile, topic: str, seals: dict[str, bytes], parts: ExitStack) -> FeedRegister:
    """A shelf of our own that holds what comes by MQTT, each line once its seal is verified."""
    if settings.events is None:
        raise FaultError(Fault.CONFIG, "a feed by MQTT needs `events`: the connection that it comes by")
    folder = settings.state / "feed"
    folder.mkdir(exist_ok=True)
    lines = shelf.FolderShelf(folder)
    lines.forget(time.time() - LONGEST.total_seconds())
    register = FeedRegister(lines, seals)

    def came(payload: bytes) -> None:
        if not payload:
            return  # a station's doctor saw that it may publish
        try:
            line = register.taken(payload)
        except FaultError as error:
            log.warning("a line of the feed is refused", fault=error.fault.code, detail=error.detail)
            return
        if line.standing.authority != settings.ca_certificate_id:
            log.info("a line is about another CA's certificate", certificate=line.standing.certificate_id)
            return
        lines.put(line.standing.certificate_id, payload)

    events = settings.events.model_copy(update={"client_id": f"{settings.events.client_id}-feed"})
    listening = _listener(events, f"{topic}/+", came, lambda: None, lasting=True)
    listening.start()
    parts.callback(listening.stop)
    return register
