"""The family `freertos`: the command line of FreeRTOS' STM32U5 reference integration. See docs/boards/freertos.md.

Its rules are those of ``cli_uart_drv.c``, ``cli_conf.c`` and ``cli_pki.c`` of ``iot-reference-stm32u5``. A command that
failed may print nothing at all, so that the prompt behind it is the only end of every answer.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from functools import partial
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel, ConfigDict, Field

from station.boards.command_line import CommandLine, LostError
from station.credentials import Credentials, Enrollment, Evidence, Held
from station.family import Family, Limits
from station.faults import Fault, FaultError
from station.interfaces import Stop
from station.model import SERIAL, ChainForm, KeyType, Product, Unit
from station.transcript import Transcript

_DER_MOST: Final = 1_983  # an import stops where a line more would not fit its 2,048 bytes (xReadPemFromCliAsDer)
_ROOT_LABEL: Final = "root_ca_cert"

_CANCEL: Final = b"\x03"  # Ctrl-C: an empty line and a new prompt
_DASHES: Final = b"-" * 80
_PROMPT: Final = re.compile(rb"(?:^|[\r\n])> ")
# Said of such a line, whether a PEM was to come or a command.
_TOO_LONG: Final = re.compile(rb"Error: Current line exceeds maximum|Command not recognized")
_LOG_LINE: Final = re.compile(rb"^(?:> )?<(?:INF|ERR|WRN|DBG|SYS)> ")
_CONF: Final = re.compile(rb'[a-z_]{1,32}="?([^"\r\n]{0,256})"?')
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]{1,64}={0,2}")
_UPTIME: Final = re.compile(rb"up (\d{1,6}) day\(s\) (\d\d):(\d\d):(\d\d)\.(\d{3})")
_LIFTED: Final = "PEM_CERT_MAX_LEN in the firmware's Common/cli/cli_pki.c"


class Options(BaseModel):
    """The options of a `freertos` product."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    new_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")] | None = None
    endpoint: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,100}$")] | None = None


class FreertosBoard(CommandLine):
    """One unit on ``port``, for one run. Satisfies `interfaces.Board`."""

    def __init__(self, port: str, product: Product, stop: Stop, transcript: Transcript) -> None:
        super().__init__(port, product, stop, transcript)
        self._options: Options = product.options or Options()
        self._echoes = True
        self._renamed: dict[str, str] = {}  # thing names that this run gave, with the serial behind each
        self._root: bytes | None = None
        self._settings: dict[str, str] = {}

    def identify(self) -> Unit:
        """The thing name, as serial and as chip id: the command line tells nothing else of the board.

        Where there is none yet, and the product has a `new_name`, one is made and committed first. Raises also
        `Fault.UNIT_IDENTITY`.
        """
        name = self._again(lambda: self._configured("thing_name"))
        if not name:
            name = self._again(self._baptise)
        serial = self._renamed.get(name) or self._serial_in(name)
        return Unit(serial, serial, self._product.model, "iot-reference-stm32u5")

    def enroll(self, subject: str) -> Enrollment:
        """Set thing name (the CSR's common name) and endpoint, then have the board make its key and CSR."""
        serial = self.identify().serial
        self._again(lambda: self._configure(subject))
        self._renamed[subject] = serial
        return Enrollment(self._again(self._keygen))

    def install(self, credentials: Credentials) -> None:
        """Import one server root and the leaf, each to its label, which holds one certificate.

        Raises also `Fault.PRODUCT_UNFIT`, before anything is sent, and `Fault.INSTALL_REFUSED`.
        """
        roots = x509.load_pem_x509_certificates(credentials.server_roots)
        ((leaf,),) = credentials.pieces
        if len(roots) != 1:
            raise FaultError(Fault.PRODUCT_UNFIT, f"the label {_ROOT_LABEL} holds one root, not {len(roots)}")
        for one in (leaf, *roots):
            if len(one.public_bytes(Encoding.DER)) > _DER_MOST:
                raise FaultError(
                    Fault.PRODUCT_UNFIT,
                    f"{one.subject.rfc4514_string()} is over {_DER_MOST} bytes of DER; lifted by {_LIFTED}",
                )
        self._root = roots[0].public_bytes(Encoding.DER)
        self._again(lambda: self._import(roots[0], f" {_ROOT_LABEL}"))
        self._again(lambda: self._import(leaf, ""))

    def reset(self) -> None:
        """Restart (``reset``), and wait for the prompt.

        Raises also `Fault.UNIT_RESET`.
        """
        self._restart(b"reset\r\n")

    def inspect(self, _nonce: bytes) -> Evidence:
        """Read the leaf back; see that the settings stayed, and that the public key that the board shows is the leaf's.

        The root is compared here: the sequence would compare all of the station's with the one that a label holds.

        Raises also `Fault.READBACK_DIFFERS`, `Fault.NOT_PERSISTENT`, `Fault.KEY_UNPROVEN`.
        """
        leaf = self._again(lambda: self._pem("pki export cert", "CERTIFICATE"))
        if leaf is None:
            return Evidence((), None)
        if self._root is not None:
            root = self._again(lambda: self._pem(f"pki export cert {_ROOT_LABEL}", "CERTIFICATE"))
            if root != self._root:
                fault = Fault.NOT_PERSISTENT if root is None else Fault.READBACK_DIFFERS
                raise FaultError(fault, "the server root is not what was installed")
        for key, value in self._settings.items():
            if self._again(partial(self._configured, key)) != value:
                raise FaultError(Fault.READBACK_DIFFERS, f"{key} is not what was committed")
        if self._again(lambda: self._pem("pki export key", "PUBLIC KEY")) != _key_of(leaf):
            raise FaultError(Fault.KEY_UNPROVEN, "the public key that the board shows is not that of its certificate")
        return Evidence((Held(leaf, der=True),), None)

    def _serial_in(self, name: str) -> str:
        """The serial in a thing name that an earlier run may have set by the product's `client_id`."""
        head, _, tail = self._product.client_id.partition("{serial}")
        inner = name.removeprefix(head).removesuffix(tail) if name.startswith(head) and name.endswith(tail) else ""
        return inner if SERIAL.fullmatch(inner) else name

    def _baptise(self) -> str:
        prefix = self._options.new_name
        if prefix is None:
            raise FaultError(
                Fault.UNIT_IDENTITY,
                "the board has no thing_name: set one before, or let the station make them by the option `new_name`",
            )
        name = f"{prefix}{secrets.token_hex(6)}"
        self._set("thing_name", name)
        self._commit()
        return name

    def _configure(self, subject: str) -> None:
        wanted = {"thing_name": subject}
        if self._options.endpoint is not None:
            wanted["mqtt_endpoint"] = self._options.endpoint
        self._settings = wanted
        changed = {key: value for key, value in wanted.items() if self._configured(key) != value}
        for key, value in changed.items():
            self._set(key, value)
        if changed:
            self._commit()

    def _configured(self, key: str) -> str:
        for line in self._ask(f"conf get {key}", self.SHORT_S):
            if line.startswith(f"{key}=".encode()) and (found := _CONF.fullmatch(line)):
                return found[1].decode("latin-1")
        raise LostError(f"conf get {key} is not answered in its form")

    def _set(self, key: str, value: str) -> None:
        lines = self._ask(f"conf set {key} {value}", self.SHORT_S)
        if f'{key}="{value}"'.encode() not in lines:
            raise LostError(f"conf set {key} is not answered in its form")

    def _commit(self) -> None:
        lines = self._ask("conf commit", self.STORE_S)
        if any(line.startswith(b"Error: Could not save") for line in lines):
            raise FaultError(Fault.UNIT_REFUSED, "conf commit: the configuration could not be saved")
        if b"Configuration saved to NVM." not in lines:
            raise LostError("conf commit is not answered in its form")

    def _keygen(self) -> bytes:
        lines = self._ask("pki generate key", self.KEYGEN_S)
        if not any(line.startswith(b"SUCCESS") for line in lines):
            raise FaultError(Fault.UNIT_REFUSED, "pki generate key: no SUCCESS was printed")
        csr = self._pem("pki generate csr", "CERTIFICATE REQUEST", self.KEYGEN_S)
        if csr is None:
            raise FaultError(Fault.UNIT_REFUSED, "pki generate csr: nothing was printed")
        return csr

    def _import(self, certificate: x509.Certificate, label: str) -> None:
        """One certificate. Each line waits for the prompt behind its echo: there is no flow control."""
        self._ask(f"pki import cert{label}", self.SHORT_S)
        lines: list[bytes] = []
        for line in certificate.public_bytes(Encoding.PEM).splitlines():
            lines += self._ask(line.decode("ascii"), self.STORE_S)
        if any(line.startswith(b"Success: Certificate loaded to label:") for line in lines):
            return
        why = next((line for line in lines if line.startswith(b"Error")), b"")
        if not why and any(line.startswith(b"Command not recognized") for line in lines):
            # The import ended before its PEM did: at a line that came damaged, or by a restart.
            raise LostError("pki import cert: its PEM was taken for commands")
        why = why or b"nothing was printed"
        raise FaultError(Fault.INSTALL_REFUSED, f"pki import cert{label}: {why.decode('latin-1')}")

    def _pem(self, command: str, name: str, total_s: float = CommandLine.SHORT_S) -> bytes | None:
        """The DER of what a command prints as PEM; None where it prints none. Log lines may stand in the middle."""
        lines = self._ask(command, total_s)
        head, end = f"-----BEGIN {name}-----".encode(), f"-----END {name}-----".encode()
        if head not in lines:
            return None
        if end not in lines:
            raise LostError(f"{command}: the PEM does not end")
        inner = lines[lines.index(head) + 1 : lines.index(end)]
        try:
            return base64.b64decode(b"".join(line for line in inner if _BASE64.fullmatch(line)), validate=True)
        except binascii.Error as error:
            raise LostError(f"{command}: no base64: {error}") from error

    def _ask(self, line: str, total_s: float) -> list[bytes]:
        """What is printed from a line's echo to the next prompt, without log lines.

        The firmware prompts only where it waits for a line; a log line meanwhile repeats prompt and half line
        (vTxThread). An adapter or a build may leave the echo out: then the next prompt is the answer's.
        """
        raw = line.encode("ascii")
        self._wire.write(raw + b"\r\n")
        if self._echoes:
            self._wire.until(re.compile(re.escape(raw) + rb"\r{0,4}\n"), self.SHORT_S + len(raw) * 20 / self._wire.baud)
        found = self._wire.until(_PROMPT, total_s)
        lines = [one.strip() for one in found.string[: found.start()].splitlines()]
        return [one for one in lines if one and not _LOG_LINE.match(one)]

    def _uptime(self) -> int:
        """Milliseconds since the board started."""
        for line in self._ask("uptime", self.SHORT_S):
            if found := _UPTIME.fullmatch(line):
                days, hours, minutes, seconds, rest = (int(part) for part in found.groups())
                return (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000 + rest
        raise LostError("uptime is not answered in its form")

    def _knock(self, total_s: float) -> None:
        self._wire.ask(_CANCEL, _PROMPT, total_s)

    def _wake(self) -> None:
        """Drop a half line by Ctrl-C, end a half PEM by a line that is too long for one, and wait for quiet."""
        found = self._wire.ask(_CANCEL + _DASHES + b"\r\n", _TOO_LONG, self.SYNC_S)
        self._echoes = _DASHES in found.string
        self._wire.until(_PROMPT, self.SYNC_S)
        self._wire.drain(self.QUIET_S, self.SYNC_S)


def _key_of(leaf: bytes) -> bytes | None:
    """The public key (SubjectPublicKeyInfo, DER) of a certificate; None where it is none."""
    try:
        public = x509.load_der_x509_certificate(leaf).public_key()
    except ValueError:
        return None
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


FAMILY: Final = Family(
    title="FreeRTOS' STM32U5 reference integration, by its command line",
    driver=FreertosBoard,
    limits=lambda _: Limits(
        forms=frozenset({ChainForm.LEAF}),
        board_keys=frozenset({KeyType.P256}),
        certificate_bytes=_DER_MOST,
        root_count=1,
        lifted_by=_LIFTED,
    ),
    options=Options,
    probe=FreertosBoard.probe,
)
