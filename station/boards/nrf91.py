"""The family `nrf91`: Nordic's cellular modems, whose credential store takes AT commands. See docs/boards/nrf91.md.

The commands are those of Nordic's AT command reference (+CFUN, +CGSN, %CMNG, %KEYGEN); ``AT host`` and ``AT shell`` are
the two libraries of the nRF Connect SDK that hand them to the modem.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, field_validator

from station.boards.attestation import Attestation, identity_keys
from station.boards.command_line import CommandLine, LostError
from station.boards.csr import mended
from station.boards.enrollment import enroll_here
from station.config.loader import FilePath
from station.credentials import Credentials, Enrollment, Evidence, Held
from station.family import Family, Limits
from station.faults import Fault, FaultError
from station.interfaces import Stop
from station.model import ChainForm, KeyOrigin, KeyType, Product, Unit
from station.transcript import Transcript

_ROOTS, _CHAIN, _KEY = 0, 1, 2  # the types of %CMNG
_TAG_MAX: Final = 2_147_483_647
_DEVELOPMENT_TAGS: Final = range(2_147_483_648, 2_147_483_668)

_OFFLINE: Final = "4"  # of +CFUN: the modem takes credentials
_NOT_FOUND: Final = 513
_REFUSALS: Final = {
    514: "the modem does not allow it",
    515: "the modem's credential store is full",
    518: "the modem is active: AT+CFUN=4 did not hold",
    519: "such a credential exists already",
    523: "the modem could not make a key",
    527: "the modem does not accept the text of the credential",
    528: "the modem warns of power loss",
}

_FINAL: Final = re.compile(rb"(?:^|[\r\n])(OK|ERROR|\+CME ERROR: \d{1,5})\r{0,4}\n")
_IMEI: Final = re.compile(rb"(?:^|[\r\n])(\d{15})\r{0,4}\n")
_WORD: Final = re.compile(rb"(?:^|[\r\n])([A-Za-z0-9][A-Za-z0-9._-]{0,63})\r{0,4}\n")
_FUNCTIONS: Final = re.compile(rb"\+CFUN: (\d{1,2})\r{0,4}\n")
_UUID: Final = re.compile(rb"%DEVICEUUID: ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\r{0,4}\n")
_LISTED: Final = re.compile(rb'%CMNG: (\d{1,10}),(\d{1,2}),"([0-9A-Fa-f]{64})"')
_MADE: Final = re.compile(rb'%KEYGEN: "([A-Za-z0-9_-]{1,8192})(?:\.([A-Za-z0-9_-]{1,4096}))?"')


class Options(BaseModel):
    """The options of an `nrf91` product."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    sec_tag: Annotated[int, Field(ge=1)] = 201  # what the nRF Connect SDK's aws_iot sample looks for
    host: Literal["at", "shell"] = "at"
    reset: Literal["cfun", "xreset", "kernel"] = "cfun"
    line_bytes: Annotated[int, Field(ge=256, le=65_536)] = 4_096
    identity_keys: FilePath | None = None

    @field_validator("sec_tag")
    @classmethod
    def _a_safe_tag(cls, tag: int) -> int:
        if tag in _DEVELOPMENT_TAGS:
            raise ValueError("is a tag for development: Nordic's tools can decrypt its TLS; take one up to 2147483647")
        if tag > _TAG_MAX:
            raise ValueError(f"should be at most {_TAG_MAX}")
        return tag

    @field_validator("identity_keys")
    @classmethod
    def _readable(cls, file: FilePath | None) -> FilePath | None:
        if file is not None:
            identity_keys(file)
        return file

    @cached_property
    def keys(self) -> tuple[ec.EllipticCurvePublicKey, ...]:
        """The public identity keys of the modems that may be attested; none where they are not asked for."""
        return identity_keys(self.identity_keys) if self.identity_keys is not None else ()

    @property
    def room(self) -> int:
        """The bytes of PEM that one write can carry: the line less the command around it."""
        around = len(self.write(_CHAIN, ""))
        if self.host == "at":
            return self.line_bytes - around
        # Each line end (one in 65 bytes) takes two characters there, and the whole stands in quotes.
        return (self.line_bytes - around - len("at ''")) * 64 // 66

    def write(self, kind: int, text: str) -> str:
        """The command that writes one credential."""
        return f'AT%CMNG=0,{self.sec_tag},{kind},"{text}"'


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a command printed, and the number of its error (0 for a plain ERROR, None for OK)."""

    text: bytes
    error: int | None


class Nrf91Board(CommandLine):
    """One unit on ``port``, for one run. Satisfies `interfaces.Board`."""

    def __init__(self, port: str, product: Product, stop: Stop, transcript: Transcript) -> None:
        super().__init__(port, product, stop, transcript)
        self._options: Options = product.options or Options()
        self._about: tuple[str, str] | None = None

    def identify(self) -> Unit:
        """IMEI (the serial), device UUID (the chip id; before modem firmware 1.3 the IMEI again), model, firmware."""
        imei = self._query("AT+CGSN", _IMEI)
        if self._about is None:
            self._about = (self._query("AT+CGMM", _WORD), self._query("AT+CGMR", _WORD))
        return Unit(imei, self._device() or imei, *self._about)

    def enroll(self, subject: str) -> Enrollment:
        """Have the modem make its key and CSR (%KEYGEN); or make both here, and tell the modem nothing of it yet.

        Raises also `Fault.UNATTESTED`.
        """
        if self._product.key_origin is KeyOrigin.STATION:
            self._stop.check()
            return enroll_here(subject, self._product.key_type)
        return Enrollment(self._again(lambda: self._keygen(subject)))

    def install(self, credentials: Credentials) -> None:
        """Write roots, key (where the station made it) and chain, each over what was there.

        Raises also `Fault.PRODUCT_UNFIT`, before anything is sent, and `Fault.INSTALL_REFUSED`.
        """
        (chain,) = credentials.texts()
        for what, text in (("the chain", chain), ("the server roots", credentials.server_roots)):
            if len(text) > self._options.room:
                raise FaultError(
                    Fault.PRODUCT_UNFIT,
                    f"{what} of {len(text)} bytes do not fit the {self._options.room} that one AT command can carry;"
                    f" lifted by {_lifted(self._options)}",
                )
        self._store(_ROOTS, credentials.server_roots)
        if credentials.private_key is not None:
            with self._wire.private("the unit's private key"):
                self._store(_KEY, credentials.key_text())
        self._store(_CHAIN, chain)

    def reset(self) -> None:
        """Stop the modem (+CFUN=0), or restart the whole chip where the firmware has a command for that.

        Raises also `Fault.UNIT_RESET`, where what the board then says shows that it did not.
        """
        match self._options.reset:
            case "cfun":
                self._again(self._halt)
                self._come_back()
            case "xreset":
                self._again(self._offline)
                self._xreset()
                self._come_back()
                # The mode that was set before does not outlast a restart.
                if self._query("AT+CFUN?", _FUNCTIONS) == _OFFLINE:
                    raise FaultError(Fault.UNIT_RESET, "AT+CFUN? is still 4 after AT#XRESET: it did not restart")
            case "kernel":
                self._restart(b"kernel reboot cold\r\n")

    def inspect(self, _nonce: bytes) -> Evidence:
        """The SHA-256 of what the modem holds under the tag. A key that it made itself shows nothing of itself."""
        held = self._again(self._listed)
        if _CHAIN not in held:
            return Evidence((), None, held.get(_ROOTS))
        by_station = self._product.key_origin is KeyOrigin.STATION
        return Evidence((held[_CHAIN],), held.get(_KEY) if by_station else None, held.get(_ROOTS, Held(b"")))

    def _halt(self) -> None:
        self._accepted(self._ask("AT+CFUN=0", self.SHORT_S), "AT+CFUN=0", Fault.UNIT_RESET)
        mode = self._answered("AT+CFUN?", _FUNCTIONS)
        if mode != "0":
            raise FaultError(Fault.UNIT_RESET, f"AT+CFUN? is {mode} after AT+CFUN=0: the modem did not stop")

    def _xreset(self) -> None:
        """Its OK may be lost with the port of a USB board; the stop tells a board that was lifted."""
        try:
            self._accepted(self._ask("AT#XRESET", self.SHORT_S), "AT#XRESET", Fault.UNIT_RESET)
        except FaultError as error:
            if error.fault is not Fault.LIFTED:
                raise

    def _device(self) -> str | None:
        """The modem's UUID; None where its firmware cannot tell it."""
        try:
            return self._query("AT%DEVICEUUID", _UUID)
        except FaultError as error:
            if error.fault is not Fault.UNIT_REFUSED:
                raise
            return None

    def _keygen(self, subject: str) -> bytes:
        for kind in (_CHAIN, _KEY):
            self._delete(kind)
        tag = self._options.sec_tag
        answer = self._ask(f'AT%KEYGEN={tag},2,0,"CN={subject}"', self.KEYGEN_S)
        found = _MADE.search(self._accepted(answer, "AT%KEYGEN", Fault.UNIT_REFUSED).text)
        if found is None:
            raise LostError("AT%KEYGEN gave no CSR")
        csr = _base64url(found[1])
        keys = self._options.keys
        if found[2] is not None:
            Attestation.read(_base64url(found[2])).check(csr, tag, self._device(), keys)
        elif keys:
            raise FaultError(Fault.UNATTESTED, "the modem attests nothing of its CSR")
        return mended(csr)

    def _store(self, kind: int, text: bytes) -> None:
        def write() -> None:
            self._delete(kind)
            answer = self._ask(self._options.write(kind, text.decode("ascii")), self.STORE_S)
            self._accepted(answer, f"AT%CMNG=0 of type {kind}", Fault.INSTALL_REFUSED)

        self._again(write)

    def _delete(self, kind: int) -> None:
        """Clear a place of the tag; one that is empty is as good."""
        self._offline()
        answer = self._ask(f"AT%CMNG=3,{self._options.sec_tag},{kind}", self.STORE_S)
        if answer.error != _NOT_FOUND:
            self._accepted(answer, f"AT%CMNG=3 of type {kind}", Fault.INSTALL_REFUSED)

    def _listed(self) -> dict[int, Held]:
        answer = self._ask(f"AT%CMNG=1,{self._options.sec_tag}", self.SHORT_S)
        text = self._accepted(answer, "AT%CMNG=1", Fault.UNIT_REFUSED).text
        lines = _LISTED.findall(text)
        if len(lines) != text.count(b"%CMNG: "):
            raise LostError("a line of AT%CMNG=1 is not in its form")
        # The AT shell makes CR LF of the line ends before the modem sees them (at_shell.c).
        line_end = b"\r\n" if self._options.host == "shell" else b"\n"
        return {
            int(kind): Held(bytes.fromhex(digest.decode("ascii")), digest=True, line_end=line_end)
            for tag, kind, digest in lines
            if int(tag) == self._options.sec_tag
        }

    def _query(self, command: str, form: re.Pattern[bytes]) -> str:
        return self._again(lambda: self._answered(command, form))

    def _answered(self, command: str, form: re.Pattern[bytes]) -> str:
        answer = self._accepted(self._ask(command, self.SHORT_S), command, Fault.UNIT_REFUSED)
        found = form.search(answer.text)
        if found is None:
            raise LostError(f"{command} is not answered in its form")
        return found[1].decode("ascii")

    def _lost(self, error: FaultError) -> bool:
        """A board that restarted by itself answers without numbers, as before AT+CMEE=1; or not at all."""
        return super()._lost(error) or error.detail.endswith(_PLAIN)

    def _knock(self, total_s: float) -> None:
        self._ask("AT", total_s)

    def _wake(self) -> None:
        """End a half line, have the modem answer, and number its errors."""
        for command in ("AT", "AT+CMEE=1"):
            if self._ask(command, self.SYNC_S).error is not None:
                raise LostError(f"{command} is answered with ERROR")

    def _uptime(self) -> int:
        return int(self._wire.ask(b"kernel uptime\r\n", _UPTIME, self.SHORT_S)[1])

    def _offline(self) -> None:
        """The modem takes no credentials while it is online."""
        self._accepted(self._ask(f"AT+CFUN={_OFFLINE}", self.STORE_S), f"AT+CFUN={_OFFLINE}", Fault.UNIT_REFUSED)

    def _ask(self, command: str, total_s: float) -> _Answer:
        line = command
        if self._options.host == "shell":
            line = "at '" + command.replace("\n", "\\n") + "'"
        found = self._wire.ask(line.encode("ascii") + b"\r\n", _FINAL, total_s)
        text = found.string[: found.start()] + b"\r\n"
        if found[1] == b"OK":
            return _Answer(text, None)
        return _Answer(text, int(found[1].rpartition(b" ")[2]) if b" " in found[1] else 0)

    def _accepted(self, answer: _Answer, what: str, fault: Fault) -> _Answer:
        if answer.error is None:
            return answer
        why = f"+CME ERROR: {answer.error} {_REFUSALS.get(answer.error, '')}" if answer.error else _PLAIN
        raise FaultError(fault, f"{what}: {why.strip()}")


_PLAIN: Final = "ERROR"
_UPTIME: Final = re.compile(rb"Uptime: (\d{1,12}) ms")


def _base64url(text: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error as error:
        raise LostError(f"AT%KEYGEN gave no base64: {error}") from error


def _lifted(options: Options) -> str:
    if options.host == "at":
        return "CONFIG_AT_HOST_CMD_MAX_LEN in the firmware, and `line_bytes` in the product's options"
    return "CONFIG_SHELL_CMD_BUFF_SIZE in the firmware, and `line_bytes` in the product's options"


def _limits(options: Options) -> Limits:
    return Limits(
        forms=frozenset({ChainForm.LEAF, ChainForm.LEAF_CA}),
        board_keys=frozenset({KeyType.P256}),
        station_keys=frozenset({KeyType.P256, KeyType.P384, KeyType.RSA2048}),
        place_bytes=options.room,
        roots_bytes=options.room,
        lifted_by=_lifted(options),
    )


FAMILY: Final = Family(
    title="Nordic nRF91 modems, through the AT host or AT shell of the nRF Connect SDK",
    driver=Nrf91Board,
    limits=_limits,
    options=Options,
    probe=Nrf91Board.probe,
)
