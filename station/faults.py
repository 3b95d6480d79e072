"""The fault catalogue, and the one exception of the station.

Adapters translate what their library raises into a `FaultError` at their own border, by table. Anything else that
reaches the top of a run is `Fault.UNEXPECTED`. Operators see code, title and remedy (``config/messages/``, one file a
language); engineers see the detail.

The first letter of a code says whose move it is: U unit, J jig, C certificate authority, N network and cloud, O work
order, S station. Numbers are never reused.
"""

from __future__ import annotations

import re
from enum import Enum, StrEnum

_MAX_DETAIL = 400
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class Blame(StrEnum):
    """Who has to move. Only `UNIT` makes a FAIL."""

    UNIT = "unit"
    JIG = "jig"
    CA = "ca"
    CLOUD = "cloud"
    ORDER = "order"
    STATION = "station"


_BLAME = {
    "U": Blame.UNIT,
    "J": Blame.JIG,
    "C": Blame.CA,
    "N": Blame.CLOUD,
    "O": Blame.ORDER,
    "S": Blame.STATION,
}


class Fault(Enum):
    """A catalogued reason why a run, a ceremony or the station did not do what it should."""

    UNIT_SILENT = "U101"
    UNIT_GARBLED = "U102"
    UNIT_IDENTITY = "U103"
    UNIT_FIRMWARE = "U104"
    UNIT_REFUSED = "U105"
    UNIT_RESET = "U106"
    CSR_INVALID = "U110"
    CSR_SUBJECT = "U111"
    KEY_TYPE = "U112"
    KEY_WEAK = "U113"
    KEY_CLONED = "U114"
    IDENTITY_CLASH = "U115"
    INSTALL_REFUSED = "U120"
    READBACK_DIFFERS = "U121"
    NOT_PERSISTENT = "U122"
    KEY_UNPROVEN = "U123"
    UNIT_CANNOT_DIAL = "U130"
    UNATTESTED = "U140"
    CHIP_STATE = "U160"

    LIFTED = "J201"
    SWAPPED = "J202"
    PORT_DENIED = "J203"
    JIG_BLIND = "J204"
    PORT_AMBIGUOUS = "J205"
    PORT_MISSING = "J206"
    POWER_STUCK = "J207"
    NO_BOARD = "J208"
    SLOT_OUT = "J210"
    THERE_AT_START = "J211"
    FLASHER_FAILED = "J222"
    FLASHER_LATE = "J223"
    IMAGE_WRONG = "J224"

    HSM_DOWN = "C301"
    HSM_HUNG = "C302"
    HSM_PIN = "C303"
    HSM_MODULE = "C304"
    HSM_KEY = "C305"
    HSM_KEY_ATTRIBUTES = "C306"
    HSM_TOKEN = "C307"  # noqa: S105 - a fault code
    CA_MISMATCH = "C310"
    CA_NOT_CA = "C311"
    CA_EXPIRES = "C312"
    CA_OUTPUT = "C313"
    SEAL_MISMATCH = "C320"
    KEY_FILE = "C321"
    CERTIFICATE_LINT = "C322"
    PIN_LOCKED = "C323"
    WRONG_PIN_SEEN = "C325"

    CLOUD_UNREACHABLE = "N401"
    CLOUD_UNTRUSTED = "N402"
    CLOUD_SILENT = "N403"
    CHAIN_INCOMPLETE = "N404"
    NOT_REGISTERED = "N405"
    CA_UNKNOWN_HERE = "N406"
    CA_NOT_ACCEPTING = "N407"
    STILL_PENDING = "N408"
    FIRST_CONNECT_ACCEPTED = "N409"
    CERTIFICATE_OUT = "N410"
    POLICY_MISSING = "N411"
    PUBLISH_REFUSED = "N412"
    CLIENT_ID_TAKEN = "N413"
    CONNECT_REFUSED = "N414"
    THROTTLED = "N420"
    AWS_DENIED = "N421"
    AWS_ERROR = "N422"
    REGISTRATION_REFUSED = "N423"
    STRANGER = "N440"
    POLICY_NARROW = "N441"
    CA_SUBJECT_FULL = "N430"
    WRONG_ACCOUNT = "N431"
    THING_TYPE = "N432"
    FEED_REFUSED = "N442"
    FEED_DOWN = "N443"

    NO_ORDER = "O501"
    ORDER_FULL = "O502"
    ALREADY_PASSED = "O503"
    NEVER_PASSED = "O504"
    WRONG_PRODUCT = "O505"
    ORDER_INVALID = "O506"
    REQUEST_INVALID = "O507"
    LEASE_SPENT = "O510"

    LEDGER_DOWN = "S601"
    UNIT_BUSY = "S602"
    CUT_SHORT = "S603"
    STOPPED = "S604"
    SIMULATION_MIXED = "S605"
    CONFIG = "S606"
    CEREMONY = "S607"
    ALREADY_RUNNING = "S608"
    NOT_RUNNING = "S609"
    NO_SLOT = "S610"
    SLOT_STATE = "S611"
    SEAL_INVALID = "S620"
    HANDOVER = "S621"
    LEDGER_CHANGED = "S630"
    ANCHOR_INVALID = "S631"
    RESTORE_REFUSED = "S632"
    CLOCK_WRONG = "S625"
    DISK_LOW = "S626"
    CHECK_LATE = "S627"
    PRODUCT_UNFIT = "S650"
    NO_TRANSCRIPT = "S651"
    LINE_AWAY = "S633"
    LINE_FORKED = "S634"
    LINE_SETUP = "S635"
    LEDGER_GONE = "S636"
    REPORT_WINDOW = "S640"
    REPORT_UNWRITTEN = "S641"
    REPORT_UNDELIVERED = "S642"
    MAIL_FAILED = "S643"
    STORE_FAILED = "S644"
    STORE_DIFFERS = "S645"
    UNEXPECTED = "S999"

    @property
    def code(self) -> str:
        """The code that operators see: one letter, three digits."""
        return str(self.value)

    @property
    def blame(self) -> Blame:
        """Whose move it is, by the code's letter."""
        return _BLAME[self.code[0]]


class FaultError(Exception):
    """A fault with the detail an engineer needs. The detail is printable ASCII of bounded length, and holds no secret.

    It is cleaned here, once, because much of it is quoted from boards and from the network.
    """

    def __init__(self, fault: Fault, detail: str = "") -> None:
        self.fault = fault
        self.detail = printable(detail, _MAX_DETAIL)
        super().__init__(f"{fault.code} {fault.name}: {self.detail}" if detail else f"{fault.code} {fault.name}")

    def unquoted(self, instead: str) -> None:
        """Put another detail in the place of this one, which may quote a secret: none of it is left in any chain."""
        FaultError.__init__(self, self.fault, instead)
        self.__cause__ = self.__context__ = None

    def __reduce__(self) -> tuple[type[FaultError], tuple[Fault, str]]:
        """Survive the pipe between the daemon and its children."""
        return (FaultError, (self.fault, self.detail))


def printable(text: str, limit: int) -> str:
    """Return ``text`` fit for a log line: everything but printable ASCII escaped, cut to ``limit`` characters."""
    clean = _UNPRINTABLE.sub(lambda m: m[0].encode("unicode_escape").decode(), text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def readable(text: str, limit: int) -> str:
    """Return what a person wrote, in any script, fit for one line: what `str.isprintable` is against is escaped.

    That is every control, format and bidirectional character, and every space but the plain one.
    """
    cut = text[: limit + 1]
    clean = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
