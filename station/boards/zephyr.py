"""The family `zephyr`: Zephyr's shell with its TLS credentials commands (``cred``). See docs/boards/zephyr.md.

The words looked for are those of ``tls_credentials_shell.c``, ``hwinfo_shell.c`` and ``kernel_shell.c``, for a key on
the board those of ``nrf_cloud_cred_shell.c`` of the nRF Connect SDK.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from station.boards.command_line import CommandLine, LostError
from station.boards.csr import mended
from station.boards.enrollment import EVERY_KEY, enroll_here
from station.credentials import Credentials, Enrollment, Evidence, Held, longest_key
from station.family import Family, Limits
from station.faults import Fault, FaultError
from station.interfaces import Stop
from station.model import ChainForm, KeyOrigin, KeyType, Product, Unit
from station.transcript import Transcript

_CHUNK_LEAST: Final = 12
_BUFFER_KCONFIG: Final = "CONFIG_TLS_CREDENTIALS_SHELL_CRED_BUF_SIZE"

_ROOTS, _CHAIN, _KEY = "CA", "SERV", "PK"  # the types of `cred`, as `cred list` prints them
_CANCEL: Final = b"\x03"  # Ctrl-C: ends a half line, and `cred buf load`

_PROMPT: Final = re.compile(rb"[\w.-]{1,32}:~[$#] ")
_VERSION: Final = re.compile(rb"Zephyr version ([A-Za-z0-9._-]{1,64})\r{0,4}\n")
_DEVICE: Final = re.compile(rb"ID: 0x([0-9a-f]{4,64})\r{0,4}\n")
_UPTIME: Final = re.compile(rb"Uptime: (\d{1,12}) ms")
_HELP: Final = re.compile(rb"(?:clear\s{1,16}:|Stored \d{1,6} bytes|wrong parameter).{0,1024}?:~[$#] ", re.DOTALL)
_INPUT: Final = re.compile(rb"Input credential, finish with CTRL\+C\.")
_CLEARED: Final = re.compile(rb"Credential buffer cleared\.")
_STORED: Final = re.compile(rb"Stored (\d{1,6}) bytes\.|(RX ring buffer full)|(Not enough room in credential buffer)")
_ADDED: Final = re.compile(
    rb"Added TLS credential of type \w+, sectag \d+, and length (\d{1,6}) bytes\."
    rb"|(already exists\.|Could not decode|Failed to add TLS credential.{0,80}?Error: -?\d{1,6}|Not enough"
    rb"|No reference slot|Please provide|is not a valid|RX ring buffer full)"
)
_DELETED: Final = re.compile(
    rb"Deleted TLS credential with|There is no TLS credential with|(failed with error: -?\d{1,6})"
)
_FOUND: Final = re.compile(rb"(\d{1,4}) credentials found\.")
_LISTED: Final = re.compile(rb"(?:^|[\r\n])(\d{1,10}),(\w{1,10}),([A-Za-z0-9+/=]{1,64}),(-?\d{1,6})(?=\r{0,4}\n)")
_SHOWN: Final = re.compile(
    rb"Credential buffer cleared\.|(There is no TLS credential|Not enough room|Could not retrieve)"
)
_LINE: Final = re.compile(rb"[A-Za-z0-9+/]{1,256}={0,2}")
_KEY_GONE: Final = re.compile(rb"Deleted device key in sec tag|(Key deletion failed: -?\d{1,6}|command not found)")
_KEY_MADE: Final = re.compile(rb"Generated device key in sec tag|(Key already exists|Key generation failed: -?\d{1,6})")
_CSR: Final = re.compile(
    rb"CSR: ([A-Za-z0-9+/=]{1,8192})\r{0,4}\n.{0,1024}?CSR generation complete|(CSR generation failed: -?\d{1,6})",
    re.DOTALL,
)


class Options(BaseModel):
    """The options of a `zephyr` product."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    sec_tag: Annotated[int, Field(ge=1, le=2_147_483_647)] = 42
    buffer_bytes: Annotated[int, Field(ge=64, le=65_536)] = 1_024
    chunk: Annotated[int, Field(ge=_CHUNK_LEAST, le=1_024, multiple_of=4)] = 48

    @property
    def room(self) -> int:
        """The bytes of PEM that fit the buffer: it holds base64, and one byte less than its size."""
        return (self.buffer_bytes - 1) // 4 * 3


class _OverrunError(Exception):
    """The shell's receive buffer was too small for what came at once."""


class ZephyrBoard(CommandLine):
    """One unit on ``port``, for one run. Satisfies `interfaces.Board`."""

    def __init__(self, port: str, product: Product, stop: Stop, transcript: Transcript) -> None:
        super().__init__(port, product, stop, transcript)
        self._options: Options = product.options or Options()
        self._chunk = self._options.chunk
        self._loads: bool | None = None  # whether the firmware has `cred buf load`
        self._version: str | None = None

    def identify(self) -> Unit:
        """The chip's id (``hwinfo devid``), which is the serial too; Zephyr's version; the model is the product's."""
        chip = self._again(lambda: self._told("hwinfo devid", _DEVICE, "Not supported by hardware"))
        if self._version is None:
            self._version = self._again(lambda: self._told("kernel version", _VERSION, ""))
        return Unit(chip, chip, self._product.model, self._version)

    def enroll(self, subject: str) -> Enrollment:
        """Have the board make its key (``nrf_cloud_cred``); or make it here, and tell the board nothing of it yet."""
        if self._product.key_origin is KeyOrigin.STATION:
            self._stop.check()
            return enroll_here(subject, self._product.key_type)
        return Enrollment(self._again(lambda: self._keygen(subject)))

    def install(self, credentials: Credentials) -> None:
        """Store roots, key (where the station made it) and chain, each over what was there.

        The roots go first: a firmware that only keeps credentials in RAM shows it there, before it sees a key.

        Raises also `Fault.PRODUCT_UNFIT`, before anything is sent, `Fault.INSTALL_REFUSED`, `Fault.NOT_PERSISTENT`.
        """
        (chain,) = credentials.texts()
        lengths = {"the chain": len(chain), "the server roots": len(credentials.server_roots)}
        if credentials.private_key is not None:
            lengths["a key"] = longest_key(self._product.key_type, der=False)
        for what, length in lengths.items():
            if length > self._options.room:
                raise FaultError(
                    Fault.PRODUCT_UNFIT,
                    f"{what} of {length} bytes is {-(-length // 3) * 4} of base64, and the buffer holds"
                    f" {self._options.buffer_bytes - 1}; lifted by {_LIFTED}",
                )
        self._store(_ROOTS, credentials.server_roots)
        if credentials.private_key is not None:
            with self._wire.private("the unit's private key"):
                self._store(_KEY, credentials.key_text())
        self._store(_CHAIN, chain)

    def reset(self) -> None:
        """Restart (``kernel reboot cold``), and see by its uptime that it did.

        Raises also `Fault.UNIT_RESET`.
        """
        self._restart(b"kernel reboot cold\r")

    def inspect(self, _nonce: bytes) -> Evidence:
        """The digests of ``cred list``; where the firmware gives none, what ``cred get`` shows (but never a key)."""
        held = self._again(self._listed)
        if _CHAIN not in held:
            return Evidence((), None, held.get(_ROOTS))
        shown = held.get(_KEY) if self._product.key_origin is KeyOrigin.STATION else None
        return Evidence((held[_CHAIN],), shown, held.get(_ROOTS, Held(b"")))

    def _keygen(self, subject: str) -> bytes:
        tag = self._options.sec_tag
        self._must(f"nrf_cloud_cred delete {tag}", _KEY_GONE, self.STORE_S)
        self._delete(_CHAIN)
        self._must(f"nrf_cloud_cred keygen {tag}", _KEY_MADE, self.KEYGEN_S)
        found = self._ask(f"nrf_cloud_cred csr {tag} CN={subject}", _CSR, self.KEYGEN_S)
        if found[1] is None:
            raise FaultError(Fault.UNIT_REFUSED, _words(found[2]))
        return mended(_decoded(found[1]))

    def _store(self, kind: str, text: bytes) -> None:
        """Store one credential, by `cred buf load` where there is one, else and where that loses bytes in pieces."""
        encoded = base64.b64encode(text)

        def put() -> None:
            self._delete(kind)
            self._ask("cred buf clear", _CLEARED, self.SHORT_S)
            if not (self._has_load() and self._loaded(encoded)):
                self._pieces(encoded)
            self._add(kind, len(text) + 1)

        self._again(put)

    def _has_load(self) -> bool:
        """Ask the help: an old firmware would take `load` for data."""
        if self._loads is None:
            found = self._ask("cred buf -h", _HELP, self.SHORT_S)
            self._loads = re.search(rb"load\s+:", found[0]) is not None
            self._ask("cred buf clear", _CLEARED, self.SHORT_S)
        return self._loads

    def _loaded(self, encoded: bytes) -> bool:
        self._ask("cred buf load", _INPUT, self.SHORT_S)
        try:
            found = self._wire.ask(encoded + _CANCEL, _STORED, self.SHORT_S)
        except FaultError as error:
            if error.fault is not Fault.UNIT_SILENT:
                raise
            self._loads = False  # what was lost may have been the Ctrl-C
            raise LostError("cred buf load did not end") from None
        if found[1] is not None and int(found[1]) == len(encoded):
            return True
        # Its receive buffer is too small for this: pieces have the prompt between them.
        self._loads = False
        self._wire.write(_CANCEL)
        self._wire.drain(self.QUIET_S, self.SYNC_S)
        self._ask("cred buf clear", _CLEARED, self.SHORT_S)
        return False

    def _pieces(self, encoded: bytes) -> None:
        while True:
            try:
                for at in range(0, len(encoded), self._chunk):
                    self._piece(encoded[at : at + self._chunk])
            except _OverrunError:
                if self._chunk < 2 * _CHUNK_LEAST:
                    raise FaultError(
                        Fault.INSTALL_REFUSED, f"RX ring buffer full even at {self._chunk} characters a line"
                    ) from None
                self._chunk = self._chunk // 8 * 4
                self._wire.note(f"the shell lost bytes: pieces of {self._chunk} characters from now on")
                self._wire.drain(self.QUIET_S, self.SYNC_S)
                self._ask("cred buf clear", _CLEARED, self.SHORT_S)
            else:
                return

    def _piece(self, piece: bytes) -> None:
        found = self._ask("cred buf " + piece.decode("ascii"), _STORED, self.SHORT_S)
        if found[3] is not None:
            raise FaultError(Fault.INSTALL_REFUSED, f"{_words(found[3])}; lifted by {_LIFTED}")
        if found[2] is not None or int(found[1]) != len(piece):
            raise _OverrunError

    def _add(self, kind: str, size: int) -> None:
        found = self._ask(f"cred add {self._options.sec_tag} {kind} DEFAULT bint", _ADDED, self.STORE_S)
        if b"copied to heap" in found.string[: found.end()]:
            raise FaultError(
                Fault.NOT_PERSISTENT,
                "the firmware keeps credentials in RAM (CONFIG_TLS_CREDENTIALS_BACKEND_VOLATILE): they would be gone"
                " at the first reset",
            )
        if found[1] is None:
            if found[2].startswith((b"RX ring", b"Could not decode")):
                raise LostError(_words(found[2]))
            raise FaultError(Fault.INSTALL_REFUSED, f"cred add of type {kind}: {_words(found[2])}")
        if int(found[1]) != size:
            raise LostError(f"cred add stored {int(found[1])} of {size} bytes")

    def _delete(self, kind: str) -> None:
        self._must(f"cred del {self._options.sec_tag} {kind}", _DELETED, self.STORE_S)

    def _listed(self) -> dict[str, Held]:
        found = self._ask(f"cred list {self._options.sec_tag}", _FOUND, self.SHORT_S)
        lines = _LISTED.findall(found.string[: found.start()])
        if len(lines) != int(found[1]):
            raise LostError(f"cred list tells {len(lines)} of {int(found[1])} credentials")
        held = {}
        for tag, kind, digest, error in lines:
            name = kind.decode("ascii")
            if int(tag) != self._options.sec_tag:
                continue
            if int(error) == 0:
                held[name] = Held(_decoded(digest), digest=True, ending=b"\0")
            elif name in {_ROOTS, _CHAIN}:
                held[name] = Held(self._shown(name))
        return held

    def _shown(self, kind: str) -> bytes:
        """What the board holds, without its NUL. Only lines of base64 count: logs may stand between them."""
        found = self._ask(f"cred get {self._options.sec_tag} {kind} bint", _SHOWN, self.SHORT_S)
        if found[1] is not None:
            raise FaultError(Fault.UNIT_REFUSED, f"cred get of type {kind}: {_words(found[1])}")
        lines = found.string[: found.start()].splitlines()
        return b"".join(_decoded(line) for line in lines if _LINE.fullmatch(line) and len(line) % 4 == 0)

    def _uptime(self) -> int:
        return int(self._told("kernel uptime", _UPTIME, ""))

    def _told(self, command: str, form: re.Pattern[bytes], refusal: str) -> str:
        """What a command tells, read up to the prompt behind it."""
        pattern = re.compile(b"(?:" + form.pattern + b"|(command not found|Not supported by hardware))")
        found = self._ask(command, pattern, self.SHORT_S)
        if found[1] is None:
            raise FaultError(Fault.UNIT_REFUSED, f"{command}: {refusal or _words(found[2])}")
        return found[1].decode("ascii")

    def _must(self, command: str, done: re.Pattern[bytes], total_s: float) -> None:
        """A command whose pattern has a group where it failed."""
        found = self._ask(command, done, total_s)
        if found[1] is not None:
            raise FaultError(Fault.UNIT_REFUSED, f"{command}: {_words(found[1])}")

    def _ask(self, command: str, wanted: re.Pattern[bytes], total_s: float) -> re.Match[bytes]:
        return self._wire.ask(command.encode("ascii") + b"\r", wanted, total_s)

    def _knock(self, total_s: float) -> None:
        self._wire.ask(_CANCEL + b"\r", _PROMPT, total_s)

    def _wake(self) -> None:
        """End whatever half line or load is in the shell, and wait for its prompt and for quiet."""
        self._knock(self.SYNC_S)
        self._wire.drain(self.QUIET_S, self.SYNC_S)


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise LostError(f"no base64: {error}") from error


def _words(said: bytes) -> str:
    return said.decode("latin-1")


_LIFTED: Final = f"{_BUFFER_KCONFIG} in the firmware, and `buffer_bytes` in the product's options"


def _limits(options: Options) -> Limits:
    return Limits(
        forms=frozenset({ChainForm.LEAF, ChainForm.LEAF_CA}),
        board_keys=frozenset({KeyType.P256}),
        station_keys=EVERY_KEY,
        place_bytes=options.room,
        roots_bytes=options.room,
        lifted_by=_LIFTED,
    )


FAMILY: Final = Family(
    title="Zephyr's shell with TLS credentials commands; a key on the board by nrf_cloud_cred",
    driver=ZephyrBoard,
    limits=_limits,
    options=Options,
    probe=ZephyrBoard.probe,
)
