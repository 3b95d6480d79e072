"""The words of the house as values: no I/O, and none of them can be built wrong.

Bounds and alphabets are checked where a value is made, so that what comes from a board or a file is harmless
everywhere behind. `Run` alone is mutable: it is the notebook of one attempt, owned by one slot's thread.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from station.faults import Blame, Fault, FaultError
from station.transcript import Transcript

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

# Safe in a subject, a path, an MQTT client id, a topic level and a thing name ([a-zA-Z0-9:_-]+, AWS IoT CreateThing).
# No dot: "." and ".." must not be able to name a folder.
SERIAL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
REASON_MAX: Final = 200  # characters of why a unit is made again


class KeyType(StrEnum):
    """The keys that a CA or a unit may have. AWS IoT takes all five."""

    P256 = "p256"
    P384 = "p384"
    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"

    @classmethod
    def of(cls, key: object) -> KeyType | None:
        """The type of a public or private key of ``cryptography``; None for any that the station does not take."""
        match key:
            case ec.EllipticCurvePublicKey() | ec.EllipticCurvePrivateKey():
                return {"secp256r1": cls.P256, "secp384r1": cls.P384}.get(key.curve.name)
            case rsa.RSAPublicKey() | rsa.RSAPrivateKey():
                return {2048: cls.RSA2048, 3072: cls.RSA3072, 4096: cls.RSA4096}.get(key.key_size)
            case _:
                return None


class KeyOrigin(StrEnum):
    """Who makes the unit's key pair, and so holds the private key at first contact."""

    BOARD = "board"
    STATION = "station"


class FirstContact(StrEnum):
    """Who makes the first connection. NONE: nobody on the line can (the key is on the board, and it has no network)."""

    STATION = "station"
    BOARD = "board"
    NONE = "none"


class ChainForm(StrEnum):
    """How a unit holds its chain: the leaf alone, leaf and CA in one text, or each in a place of its own."""

    LEAF = "leaf"
    LEAF_CA = "leaf+ca"
    TWO_SLOTS = "leaf,ca"


class Step(StrEnum):
    """The steps of a run, in order. FLASH only where the product ships firmware, CONNECT only where somebody can."""

    IDENTIFY = "identify"
    ADMIT = "admit"
    FLASH = "flash"
    ENROLL = "enroll"
    ISSUE = "issue"
    INSTALL = "install"
    VERIFY = "verify"
    CONNECT = "connect"


class Outcome(StrEnum):
    """How a run ended. See the glossary: blame decides."""

    PASS = "PASS"  # noqa: S105 - the outcome, not a password
    FAIL = "FAIL"
    ERROR = "ERROR"
    ABORTED = "ABORTED"
    PROVISIONED = "PROVISIONED"  # all done but first contact, where nobody on the line can make it

    @property
    def made(self) -> bool:
        """Whether the unit leaves the line with its certificate: it fills its order, and is not made again."""
        return self in {Outcome.PASS, Outcome.PROVISIONED}

    @classmethod
    def of(cls, fault: Fault) -> Outcome:
        """The outcome of a run that ended in ``fault``."""
        if fault in {Fault.LIFTED, Fault.SWAPPED, Fault.STOPPED, Fault.THERE_AT_START}:
            return cls.ABORTED
        return cls.FAIL if fault.blame is Blame.UNIT else cls.ERROR


class OrderKind(StrEnum):
    """What a work order permits. Golden orders are excluded from every yield."""

    PRODUCTION = "production"
    REWORK = "rework"
    GOLDEN = "golden"


class KeyProof(StrEnum):
    """How it is known that the unit holds the private key of its leaf; on record for each run."""

    SIGNED = "signed"  # it signed a nonce
    DIGEST = "digest"  # the key that the station made reads back by its SHA-256
    DIALLED = "dialled"  # it connected by itself
    UNPROVEN = "unproven"


class CertificateStatus(StrEnum):
    """AWS IoT's own words for a device certificate's state."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    REVOKED = "REVOKED"
    PENDING_ACTIVATION = "PENDING_ACTIVATION"
    PENDING_TRANSFER = "PENDING_TRANSFER"
    REGISTER_INACTIVE = "REGISTER_INACTIVE"


class StandingState(StrEnum):
    """What the record says of a certificate now. Only the first two may be activated."""

    CONNECTING = "connecting"  # the unit's latest run is at CONNECT, at this moment
    PROVISIONED = "provisioned"  # its latest run did all but first contact, which comes later and elsewhere
    WORKING = "working"  # its latest run is at work, and not at CONNECT yet
    PASSED = "passed"  # its latest run passed: activated before, and never again
    OUT = "out"  # an orphan, or superseded
    EXPIRED = "expired"  # what a feed permitted once and no longer does; how it ended, no line told

    @property
    def wanted(self) -> bool:
        """Whether it may be activated."""
        return self in {StandingState.CONNECTING, StandingState.PROVISIONED}


@dataclass(frozen=True, slots=True)
class Standing:
    """A certificate that the record knows: under which CA, for which thing (its client id), and how it stands."""

    certificate_id: str
    authority: str
    thing: str
    state: StandingState


class Ending(StrEnum):
    """How one dial to the cloud ended, as far as the dialling side can tell. The cause is for the registry to say."""

    ACKNOWLEDGED = "acknowledged"  # CONNACK 0, and the QoS 1 PUBACK (or, for `hold`, still connected at its end)
    DROPPED = "dropped"  # closed, reset or alerted before CONNACK, in or after the handshake
    REFUSED = "refused"  # CONNACK with a reason code
    UNACKNOWLEDGED = "unacknowledged"  # CONNACK 0, then closed or silent before PUBACK
    SILENT = "silent"  # nothing at all before the timeout
    UNREACHABLE = "unreachable"  # no name, no route, no listener
    UNTRUSTED = "untrusted"  # the server's certificate does not verify


@dataclass(frozen=True, slots=True)
class Unit:
    """One physical board, as it names itself.

    Raises:
        FaultError: `Fault.UNIT_IDENTITY` where a name is not of its alphabet.
    """

    serial: str
    chip_id: str
    model: str
    firmware: str

    def __post_init__(self) -> None:
        """Check each name against its alphabet."""
        for what, value, alphabet in (
            ("serial", self.serial, SERIAL),
            ("chip id", self.chip_id, SERIAL),
            ("model", self.model, NAME),
            ("firmware version", self.firmware, NAME),
        ):
            if not alphabet.fullmatch(value):
                raise FaultError(Fault.UNIT_IDENTITY, f"the {what} {value!r} is not of the form {alphabet.pattern}")


@dataclass(frozen=True, slots=True)
class Profile:
    """What a product's certificates look like. Its `hash` is on every certificate's row."""

    validity_days: int
    backdate_s: int
    organization: str | None = None
    organizational_unit: str | None = None

    @property
    def hash(self) -> str:
        """Lowercase hex SHA-256 over the canonical JSON of the profile."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Image:
    """One firmware image: its file, where it goes in the flash, and the lowercase hex SHA-256 that was reviewed."""

    file: Path
    offset: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Product:
    """A model of board: its driver, its key, its certificate profile, and how it meets the cloud.

    ``options`` are the family's own settings, of the type that the family named; ``server_roots`` the common names of
    the station's server roots that go into the unit, all of them where none is named.
    """

    name: str
    driver: str
    model: str
    key_type: KeyType
    key_origin: KeyOrigin
    profile: Profile
    client_id: str = "{serial}"
    topic: str = "{serial}/hello"
    baud: int = 115_200
    firmware: str | None = None
    chain_form: ChainForm = ChainForm.LEAF_CA
    first_contact: FirstContact = FirstContact.BOARD
    images: tuple[Image, ...] = ()
    server_roots: tuple[str, ...] = ()
    options: Any = field(default=None, compare=False)

    def client_id_of(self, unit: Unit) -> str:
        """The MQTT client id of ``unit``; also its thing name and its certificate's common name.

        Raises:
            FaultError: `Fault.CONFIG` where the template makes more of the serial than a common name can be.
        """
        name = self.client_id.format(serial=unit.serial)
        if not SERIAL.fullmatch(name):
            raise FaultError(Fault.CONFIG, f"the client id {name!r} is not of the form {SERIAL.pattern}")
        return name

    def topic_of(self, unit: Unit) -> str:
        """The topic of the first publish of ``unit``."""
        return self.topic.format(serial=unit.serial)


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """Permission to build ``quantity`` units of one product. Rework and golden orders name their units."""

    number: str
    product: str
    kind: OrderKind
    quantity: int
    serials: tuple[str, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        """Raise `Fault.ORDER_INVALID` for an order that nobody could work by."""
        if not NAME.fullmatch(self.number):
            raise FaultError(Fault.ORDER_INVALID, f"the order number {self.number!r} is not of the form {NAME.pattern}")
        if not 1 <= self.quantity <= 10_000_000:
            raise FaultError(Fault.ORDER_INVALID, f"the quantity {self.quantity} is not between 1 and 10000000")
        if len(self.reason) > REASON_MAX or not self.reason.isprintable():
            raise FaultError(Fault.ORDER_INVALID, f"a reason is one line of at most {REASON_MAX} printable characters")
        for serial in self.serials:
            if not SERIAL.fullmatch(serial):
                raise FaultError(Fault.ORDER_INVALID, f"the serial {serial!r} is not of the form {SERIAL.pattern}")
        if self.kind is OrderKind.PRODUCTION:
            if self.serials or self.reason:
                raise FaultError(Fault.ORDER_INVALID, "a production order names neither serials nor a reason")
        elif not self.serials or len(self.serials) != self.quantity:
            raise FaultError(Fault.ORDER_INVALID, f"a {self.kind} order names the serial of each of its units")
        if self.kind is OrderKind.REWORK and not self.reason.strip():
            raise FaultError(Fault.ORDER_INVALID, "a rework order needs a reason")


@dataclass(frozen=True, slots=True)
class Call:
    """One dial to AWS IoT. ``hold`` stays connected for ``hold_s`` instead of publishing, to see who else is there."""

    endpoint: str
    port: int
    client_id: str
    topic: str
    payload: bytes
    timeout_s: float
    hold_s: float = 0.0


@dataclass(slots=True)
class StepRecord:
    """One step of a run: when it began (UTC), how long it took, and the fault it ended in."""

    step: Step
    started_at: datetime
    duration_ms: float
    fault: Fault | None


@dataclass(slots=True)
class Run:
    """One attempt at one unit. The only mutable word: one slot's thread writes it, step by step."""

    slot: str
    operator: str
    order: WorkOrder
    product: Product
    id: str = field(default_factory=lambda: run_id(time.time_ns()))
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    unit: Unit | None = None
    number: int | None = None
    key_proof: KeyProof | None = None
    transcript: Transcript = field(default_factory=Transcript, repr=False)
    steps: list[StepRecord] = field(default_factory=list)
    fault: FaultError | None = None

    @property
    def outcome(self) -> Outcome:
        """PASS (or PROVISIONED, where the product knows no first contact) without a fault, else by its blame."""
        if self.fault is not None:
            return Outcome.of(self.fault.fault)
        return Outcome.PROVISIONED if self.product.first_contact is FirstContact.NONE else Outcome.PASS

    def known_unit(self) -> Unit:
        """The unit, for the steps that come after IDENTIFY."""
        if self.unit is None:
            raise FaultError(Fault.UNEXPECTED, f"run {self.id} has no unit yet")
        return self.unit


def run_id(now_ns: int) -> str:
    """A UUID of version 7 (RFC 9562, section 5.7), as hex.

    Its time comes first: an index of millions of runs grows at its end, and a day's runs lie side by side in it.
    """
    milliseconds = now_ns // 1_000_000
    return f"{milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62):032x}"


def certificate_id(certificate: x509.Certificate) -> str:
    """AWS IoT's ``certificateId``: lowercase hex SHA-256 of the DER (known before the first connect)."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def key_id(key: PublicKey) -> str:
    """Lowercase hex SHA-256 of the key's SubjectPublicKeyInfo: what makes a key the same key."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def serial_text(number: int) -> str:
    """A certificate's serial number as the record writes it: lowercase hex, no leading zeros."""
    return f"{number:x}"
