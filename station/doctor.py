"""Asks every part whether it could work now: side by side, each within a deadline, and changing nothing.

Each answers with one green line, or with a fault whose remedy says what to do. The daemon asks the same of those parts
whose no would cost a board each time (`refuse_waste`), and refuses to start with the same sentence.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from station.aws.policies import Judgement, judge
from station.aws.probe import greet, server_clock
from station.aws.registry import RegisteredCa, Registry
from station.ca import CertificateAuthority, load_ca_certificate
from station.config import Config
from station.control import Control
from station.faults import Fault, FaultError
from station.feed.build import shelf_of
from station.hsm.keys import token_key
from station.hsm.pin import PinSource
from station.hsm.signers import Signers
from station.hsm.uri import KeyUri
from station.jig.survey import slots_now
from station.ledger import health
from station.seal import Seal

LIMIT_S: Final = 4.5  # for all parts together
_PATIENCE_S: Final = 3.0  # for what passes, within one part
_LINE_S: Final = 2.0  # of the line's server; what is left of the patience is for the ledger and the daemon
_SKEW_S: Final = 30.0
_LEAST_FREE: Final = 256 * 1024 * 1024  # bytes; SQLite's log and a day's records are a tenth of it
_LOW_FREE: Final = 2 * 1024 * 1024 * 1024
_CA_SOON: Final = timedelta(days=90)
_EXAMPLE: Final = "DOCTOR-0"  # a serial that no unit has

# These may be otherwise in a moment: they are told, but a station that starts may wait for them to pass.
_PASSING: Final = frozenset(
    {Fault.CLOUD_UNREACHABLE, Fault.CLOUD_SILENT, Fault.THROTTLED, Fault.AWS_ERROR, Fault.CHECK_LATE}
)


class Level(StrEnum):
    """How a part is."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one part answered; ``fault`` names the remedy where there is one."""

    part: str
    level: Level
    text: str
    fault: Fault | None
    ms: int


class _Warning(Exception):  # noqa: N818 - it warns
    """It works, and still somebody should do something."""

    def __init__(self, text: str, fault: Fault | None = None) -> None:
        super().__init__(text)
        self.text, self.fault = text, fault


class Doctor:
    """The parts of one station, each as a method that returns its green line or raises."""

    def __init__(
        self,
        config: Config,
        registry: Registry | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._config, self._clock = config, clock
        self._registry, self._once = registry, threading.Lock()

    def registry(self) -> Registry:
        """The registry, made by whoever asks first: loading boto3 takes longer than most answers."""
        with self._once:
            if self._registry is None:
                simulator = self._config.aws.simulator
                self._registry = Registry(self._config.aws.region, api_url=simulator.api_url if simulator else None)
            return self._registry.during(time.monotonic() + _PATIENCE_S, time.sleep)

    def token(self) -> str:
        """The token is there, its PIN is right, the CA key is protected, and it and the seal's sign what verifies."""
        hsm = self._config.hsm
        key, certificate = KeyUri.parse(hsm.key), load_ca_certificate(self._config.ca.certificate)
        pin = PinSource(credential=hsm.pin.credential, file=hsm.pin.file)
        latch = self._config.state / "pin-latch"
        began = time.monotonic()
        with Signers(key, pin, latch, processes=1, timeout_s=min(hsm.timeout_s, _PATIENCE_S)) as signers:
            found = signers.describe()
            CertificateAuthority(certificate, token_key(certificate.public_key(), signers), self._clock).prove()
        signed = "for the CA certificate"
        if self._config.seal is not None:  # after it, not beside it: a wrong PIN is one try
            with Seal.from_settings(self._config.seal, hsm, latch) as seal:
                seal.sign(b"doctor")
            signed += " and with the seal"
        took = (time.monotonic() - began) * 1000
        if found["wrong_pin_before"]:
            raise _Warning(f"token {found['token']}: a wrong PIN was tried before this right one", Fault.WRONG_PIN_SEEN)
        return f"token {found['token']} ({found['serial']}) signed {signed} within {took:.0f} ms"

    def ca_certificate(self) -> str:
        """The CA certificate outlives what it would sign today, for every product."""
        certificate = load_ca_certificate(self._config.ca.certificate)
        end, now = certificate.not_valid_after_utc, self._clock()
        for product in self._config.products.values():
            if now + timedelta(days=product.profile.validity_days) > end:
                text = f"{product.profile.validity_days} days for {product.name} would outlive the CA: {end:%Y-%m-%d}"
                raise FaultError(Fault.CA_EXPIRES, text)
        longest = max((product.profile.validity_days for product in self._config.products.values()), default=0)
        if end - now - timedelta(days=longest) < _CA_SOON:
            left = (end - now).days - longest
            raise _Warning(f"in {left} days the CA is too old for {longest}-day certificates", Fault.CA_EXPIRES)
        return f"the CA certificate is valid until {end:%Y-%m-%d}, the longest product needs {longest} days"

    def ca_registered(self) -> str:
        """The account and region know the CA: ACTIVE, auto-registration on."""
        return str(self._ca())

    def _ca(self) -> RegisteredCa:
        name = self._config.aws.ca_certificate_id
        own = CertificateAuthority.identity_of(load_ca_certificate(self._config.ca.certificate))
        if own != name:
            raise FaultError(Fault.CA_MISMATCH, f"aws.ca_certificate_id is {name}; the CA certificate's is {own}")
        found = self.registry().find_ca(name)
        if found is None:
            text = f"CA {name} is not registered in this account and region"
            raise FaultError(Fault.CA_UNKNOWN_HERE, text)
        if not found.accepting:
            raise FaultError(Fault.CA_NOT_ACCEPTING, str(found))
        return found

    def endpoint(self) -> str:
        """The endpoint answers by its name, with a chain that the server roots verify."""
        aws = self._config.aws
        alpn = aws.port == 443 or (aws.simulator is not None and aws.simulator.alpn)
        spoken = greet(
            aws.endpoint, aws.port, aws.server_roots.read_bytes(), alpn=alpn, timeout_s=min(aws.dial_timeout_s, 3.0)
        )
        return f"{aws.endpoint}:{aws.port} answers with {spoken}, its chain is trusted"

    def policy(self) -> str:
        """The policy lets each product's units connect and publish as they will."""
        activation = self._config.aws.activation
        if activation.by != "station":
            return "the provider attaches its own policy: not this station's to read"
        document = self.registry().policy_document(activation.policy)
        prefix = self._ca().arn.partition(":cacert/")[0]
        for product in self._config.products.values():
            client = product.client_id.format(serial=_EXAMPLE)
            for action, resource in (
                ("iot:Connect", f"{prefix}:client/{client}"),
                ("iot:Publish", f"{prefix}:topic/{product.topic.format(serial=_EXAMPLE)}"),
            ):
                match judge(document, action, resource, client):
                    case Judgement.DENIED:
                        text = f"policy {activation.policy} does not allow {action} on {resource} ({product.name})"
                        raise FaultError(Fault.POLICY_NARROW, text)
                    case Judgement.UNCLEAR:
                        raise _Warning(f"policy {activation.policy}: only AWS can tell if it allows {action} here")
        return f"policy {activation.policy} allows client id and topic of {len(self._config.products)} product(s)"

    def thing_type(self) -> str:
        """Things can be made of the type that the settings name."""
        activation = self._config.aws.activation
        if activation.by != "station" or activation.thing_type is None:
            return "the settings name no thing type"
        self.registry().thing_type(activation.thing_type)
        return f"things can be made of the type {activation.thing_type}"

    def feed(self) -> str:
        """The provider's feed takes lines."""
        activation = self._config.aws.activation
        if activation.by != "provider" or activation.feed is None:
            return "the settings name no feed"
        return shelf_of(activation.feed, self._config.aws, self._config.station).prove()

    def rights(self) -> str:
        """The station's credentials may do what a run and the outbox need."""
        activation = self._config.aws.activation
        target = self._ca().arn.partition(":cacert/")[0] + ":cert/" + "0" * 64
        allowed = self.registry().rights(target, activation.policy if activation.by == "station" else None)
        return f"AWS would allow {', '.join(allowed)}"

    def clock(self) -> str:
        """The clock is that of the cloud: signatures of requests and validity of certificates depend on it."""
        aws = self._config.aws
        dns = "amazonaws.com.cn" if aws.region.startswith("cn-") else "amazonaws.com"
        url = aws.simulator.api_url if aws.simulator else f"https://iot.{aws.region}.{dns}"
        there, took = server_clock(url, _PATIENCE_S)
        off = (self._clock() - there).total_seconds()
        if abs(off) > _SKEW_S + took:
            raise FaultError(Fault.CLOCK_WRONG, f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} {url}")
        return f"the clock agrees with the cloud's within {max(1.0, abs(off)):.0f} s"

    def disk(self) -> str:
        """The ledger's disk has room."""
        state = self._config.state
        try:
            free = shutil.disk_usage(state).free
            nodes = os.statvfs(state)
        except OSError as error:
            raise FaultError(Fault.CONFIG, f"the state folder {state}: {error.strerror}") from error
        text = f"{free / 2**30:.1f} GiB free for {state}"
        if free < _LEAST_FREE or (nodes.f_files and not nodes.f_favail):
            raise FaultError(Fault.DISK_LOW, f"{text}, {nodes.f_favail} files may still be made")
        if free < _LOW_FREE:
            raise _Warning(text, Fault.DISK_LOW)
        return text

    def ledger(self) -> str:
        """The ledger is whole, and of this kind of station."""
        found = self._health()
        if found is None:
            return "no ledger yet: the first start makes it"
        read = "whole" if found.whole else "as far as time allowed to read it, whole"
        if found.outbox:
            raise _Warning(f"the ledger is {read}; {found.outbox} certificate(s) wait to be taken out of service")
        return f"the ledger is {read}: {found.bytes / 2**20:.1f} MiB, nothing waits in the outbox"

    def quota(self) -> str:
        """There is an order with units left to build."""
        found = self._health(limit_s=0.0)
        left = [f"{number}: {units} left" for number, units in (found.left if found else ()) if units]
        if not left:
            raise _Warning("no open work order has units left to build", Fault.NO_ORDER)
        return ", ".join(left)

    def line(self) -> str:
        """The line's server answers and takes this station; away, what may still be built without it."""
        from station.ledger.line import standing  # noqa: PLC0415 - most stations stand alone

        settings, ledger = self._config.line, self._config.state / "ledger.sqlite"
        if settings is None:
            raise FaultError(Fault.CONFIG, "the settings have no section `line`: this station stands alone")
        left = standing.left_here(ledger)
        here = "may still be built without it: " + (
            ", ".join(f"{number}: {units}" for number, units in left) or "nothing"
        )
        try:
            said = self._daemons_word()
            if said is None:
                found = standing.ask(
                    settings, ledger, self._config.station, simulated=self._config.simulate, limit_s=_LINE_S
                )
                seen = f"{found.seen_at:%Y-%m-%d %H:%M:%S %Z}" if found.seen_at else "never"
                said = f"the line's server takes this station; last sync {seen}, {found.backlog} records not there yet"
        except FaultError as error:
            if error.fault is not Fault.LINE_AWAY:
                raise
            text = f"{error.detail}; {here}"
            if left and not any(units for _, units in left):
                raise FaultError(Fault.LEASE_SPENT, text) from error
            raise _Warning(text, Fault.LINE_AWAY) from error
        return f"{said}; {here}"

    def _daemons_word(self) -> str | None:
        """What the daemon says, who asks the server all the time; None where it does not run or knows nothing yet."""
        try:
            link = Control(self._config.runtime / "control.sock").status()["line"]
        except FaultError:
            return None
        synced = f"{link['synced_at'][:19]} UTC" if link["synced_at"] else "never"
        if link["fault"]:
            text = f"{link['detail']}, unreachable since {link['since'][:19]} UTC, last sync {synced}"
            raise FaultError(Fault(link["fault"]), f"{text}, {link['backlog']} records kept here for it")
        if not link["synced_at"]:
            return None
        return f"in touch with the line; last sync {synced}, {link['backlog']} records not there yet"

    def _health(self, limit_s: float = _PATIENCE_S) -> health.Health | None:
        path = self._config.state / "ledger.sqlite"
        return health.examine(path, simulated=self._config.simulate, limit_s=limit_s)

    def slots(self) -> str:
        """Each slot's port may be opened, as far as that can be seen without a board in it."""
        views = slots_now(self._config.slots)
        for view in views:
            for port in view.ports:
                if not os.access(port.port, os.R_OK | os.W_OK):
                    text = f"slot {view.name}: {port.port} may not be opened; is the user in its group (dialout)?"
                    raise FaultError(Fault.PORT_DENIED, text)
            if len(view.ports) > 1:
                raise FaultError(
                    Fault.PORT_AMBIGUOUS, f"slot {view.name}: {len(view.ports)} ports at {view.place}; name one"
                )
        return f"{len(views)} slot(s), {sum(bool(view.ports) for view in views)} with a board in"

    def lamps(self) -> str:
        """Each light is there and may be switched."""
        lamps = [(f"slot {slot.name}", slot.lamp) for slot in self._config.slots]
        if self._config.line_lamp is not None:
            lamps.append(("the line's lamp", self._config.line_lamp))
        for whose, lamp in lamps:
            for file in lamp.files():
                if not os.access(file, os.W_OK):
                    found = "may not be written" if file.exists() else "is not there"
                    raise FaultError(Fault.PORT_DENIED, f"{whose}: the light {file} {found}")
        return f"{len(lamps)} lamp(s): {', '.join(sorted({lamp.kind for _, lamp in lamps}))}"

    def parts(self) -> dict[str, Callable[[], str]]:
        """Every part by the name it is shown under, in the order to be read."""
        in_line = {"line": self.line} if self._config.line is not None else {}
        return {
            "token": self.token,
            "ca certificate": self.ca_certificate,
            "ca registered": self.ca_registered,
            "endpoint": self.endpoint,
            "policy": self.policy,
            "thing type": self.thing_type,
            "rights": self.rights,
            "feed": self.feed,
            "clock": self.clock,
            "disk": self.disk,
            "ledger": self.ledger,
            "slots": self.slots,
            "lamps": self.lamps,
            "orders": self.quota,
            **in_line,
        }


def examine(parts: Mapping[str, Callable[[], str]], limit_s: float = LIMIT_S) -> list[Finding]:
    """Ask all parts at the same time; who has not answered after ``limit_s`` is left behind, and said to be late."""
    answers: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    began = time.monotonic()
    for name, ask in parts.items():
        threading.Thread(target=lambda n=name, a=ask: answers.put(_asked(n, a)), daemon=True).start()
    found: dict[str, Finding] = {}
    while len(found) < len(parts):
        try:
            answer = answers.get(timeout=max(0.0, began + limit_s - time.monotonic()))
        except queue.Empty:
            break
        found[answer.part] = answer
    late = f"no answer within {limit_s:.1f} s"
    return [
        found.get(name) or Finding(name, Level.BAD, late, Fault.CHECK_LATE, round(limit_s * 1000)) for name in parts
    ]


def _asked(part: str, ask: Callable[[], str]) -> Finding:
    began = time.monotonic()

    def finding(level: Level, text: str, fault: Fault | None = None) -> Finding:
        return Finding(part, level, text, fault, round((time.monotonic() - began) * 1000))

    try:
        return finding(Level.GOOD, ask())
    except _Warning as warning:
        return finding(Level.WARN, warning.text, warning.fault)
    except FaultError as error:
        return finding(Level.BAD, error.detail, error.fault)
    except Exception as error:  # noqa: BLE001 - a thread's top: one part's surprise must not hide the others
        return finding(Level.BAD, f"{type(error).__name__}: {error}", Fault.UNEXPECTED)


def refuse_waste(doctor: Doctor, limit_s: float = LIMIT_S) -> Iterable[Finding]:
    """Ask the parts that every board needs; what only passes is returned, for the log.

    Raises:
        FaultError: the first certain no: every run would end there, after a certificate was signed for it.
    """
    every = doctor.parts()
    asked = ("ca certificate", "ca registered", "endpoint", "policy", "thing type", "rights", "feed", "clock", "disk")
    doubts = [one for one in examine({name: every[name] for name in asked}, limit_s) if one.level is not Level.GOOD]
    for one in doubts:
        if one.level is Level.BAD and one.fault is not None and one.fault not in _PASSING:
            raise FaultError(one.fault, one.text)
    return doubts
