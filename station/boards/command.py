"""The family `command`: any flasher (OpenOCD, J-Link, a vendor's tool) behind a command for each step.

A command reads one JSON object on stdin and writes one on stdout (``docs/boards/command.md``); its exit code says
whether it succeeded, and else whose move it is. What it says on stderr is its log, and goes into the transcript.
"""

from __future__ import annotations

import base64
import binascii
import json
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from station.boards.child import Ended, work
from station.boards.claim import Claim
from station.boards.enrollment import enroll_here
from station.boards.images import reviewed
from station.credentials import Credentials, Enrollment, Evidence, Held
from station.family import Family, Limits
from station.faults import Fault, FaultError
from station.interfaces import Stop
from station.model import Call, ChainForm, Ending, KeyOrigin, KeyType, Product, Unit
from station.transcript import Transcript

_VERSION: Final = 1
_WORD: Final = 256  # characters of one word of an answer, which is then checked against its alphabet
_ENDING_MAX: Final = 16
_SAID: Final = 300  # of a log's last line in a fault's detail
_LOGGED: Final = 4_096  # bytes of the log in which that line is looked for

# What an exit code other than 0 says. Any other one, and a signal, is the flasher's own trouble.
_CODES: Final = {
    10: Fault.UNIT_SILENT,
    11: Fault.UNIT_GARBLED,
    12: Fault.UNIT_REFUSED,
    13: Fault.UNIT_RESET,
    14: Fault.INSTALL_REFUSED,
    15: Fault.UNIT_CANNOT_DIAL,
    20: Fault.LIFTED,
    21: Fault.PORT_DENIED,
}


def _decoded(text: object) -> bytes:
    """Base64 (RFC 4648 section 4), and nothing that only looks like it."""
    if not isinstance(text, str):
        raise ValueError("should be base64")  # noqa: TRY004 - what a validator raises
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("should be base64") from None


_Base64 = Annotated[bytes, BeforeValidator(_decoded)]
_Word = Annotated[str, Field(max_length=_WORD)]


class _Exact(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Command(_Exact):
    """One command: the program's absolute path and its arguments (``{port}`` is the slot's port), and its seconds."""

    run: Annotated[tuple[Annotated[str, Field(pattern=r"^[^\x00]{1,1000}$")], ...], Field(min_length=1, max_length=64)]
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0

    @model_validator(mode="after")
    def _by_its_path(self) -> Command:
        if not self.run[0].startswith("/"):
            raise ValueError("run: the program should be named by its absolute path; no shell and no PATH look for it")
        return self


class Holds(_Exact):
    """What the boards can hold, as their firmware says."""

    forms: Annotated[tuple[ChainForm, ...], Field(min_length=1)] = tuple(ChainForm)
    keys: Annotated[tuple[KeyType, ...], Field(min_length=1)] = tuple(KeyType)
    der: bool = False
    place_bytes: Annotated[int, Field(ge=1)] | None = None
    certificate_bytes: Annotated[int, Field(ge=1)] | None = None
    roots_bytes: Annotated[int, Field(ge=1)] | None = None
    lifted_by: Annotated[str, Field(max_length=200)] = ""


class Options(_Exact):
    """`options` of a product of this family.

    `identify`, `install`, `reset` and `inspect` must be there; `flash` where the product has images, `enroll` where the
    board makes the key, `dial` where it makes first contact. ``environment`` is all that a command finds set, beside
    PATH and LANG.
    """

    identify: Command | None = None
    flash: Command | None = None
    enroll: Command | None = None
    install: Command | None = None
    reset: Command | None = None
    inspect: Command | None = None
    dial: Command | None = None
    holds: Holds = Holds()
    environment: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")],
            Annotated[str, Field(pattern=r"^[^\x00]{0,1000}$")],
        ],
        Field(max_length=32),
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Options:
        missing = [name for name in ("identify", "install", "reset", "inspect") if getattr(self, name) is None]
        if missing:
            raise ValueError(f"no command is given for {', '.join(missing)}")
        return self


class _Nothing(_Exact):
    pass


class _Identity(_Exact):
    serial: _Word
    chip: _Word
    model: _Word
    firmware: _Word


class _Request(_Exact):
    csr: _Base64


class _Shown(_Exact):
    """One thing as the board shows it: its bytes, or their SHA-256."""

    data: _Base64 | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> _Shown:
        if (self.data is None) is (self.sha256 is None):
            raise ValueError("should have either data or sha256")
        return self

    def held(self, *, der: bool) -> Held:
        if self.data is not None:
            return Held(self.data, der=der)
        return Held(bytes.fromhex(self.sha256 or ""), digest=True, der=der)


class _Proof(_Exact):
    """How the key is shown: a signature, or the SHA-256 of the key that was installed."""

    signature: _Base64 | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> _Proof:
        if (self.signature is None) is (self.sha256 is None):
            raise ValueError("should have either signature or sha256")
        return self

    def shown(self, *, der: bool) -> bytes | Held:
        if self.signature is not None:
            return self.signature
        return Held(bytes.fromhex(self.sha256 or ""), digest=True, der=der)


class _Inspected(_Exact):
    chain: Annotated[tuple[_Shown, ...], Field(max_length=2)]
    key: _Proof | None = None
    roots: _Shown | None = None


class _Dialled(_Exact):
    ending: Annotated[str, Field(max_length=_ENDING_MAX)]


_Answer = TypeVar("_Answer", bound=_Exact)


class CommandBoard:
    """One unit behind its product's commands, for one run. Satisfies `interfaces.Board`.

    Raises:
        FaultError: `Fault.LIFTED` where there is no such port, `Fault.PORT_DENIED` where another run holds it. Every
            method: what the exit code says, `Fault.FLASHER_FAILED`, `Fault.FLASHER_LATE`, and what ``stop`` raises.
    """

    def __init__(self, port: str, product: Product, stop: Stop, transcript: Transcript) -> None:
        self._port, self._product, self._stop, self._transcript = port, product, stop, transcript
        self._options: Options = product.options
        self._claim = Claim(port)

    def identify(self) -> Unit:
        """Who the board is. Raises also `Fault.UNIT_IDENTITY`."""
        said = self._ask("identify", _Identity)
        return Unit(said.serial, said.chip, said.model, said.firmware)

    def flash(self) -> None:
        """Have the images written and verified, once each file is what was reviewed. Raises also `IMAGE_WRONG`."""
        images = []
        for image in self._product.images:
            reviewed(image)
            images.append({"file": str(image.file.absolute()), "offset": image.offset, "sha256": image.sha256})
        self._ask("flash", _Nothing, images=images)

    def enroll(self, subject: str) -> Enrollment:
        """Have the board make its key and CSR; or make both here, and tell the board nothing of it yet."""
        if self._product.key_origin is KeyOrigin.STATION:
            self._stop.check()
            return enroll_here(subject, self._product.key_type)
        return Enrollment(self._ask("enroll", _Request, subject=subject, key_type=self._product.key_type).csr)

    def install(self, credentials: Credentials) -> None:
        """Have chain, roots and (where the station made it) key stored. Raises also `Fault.INSTALL_REFUSED`."""
        der = self._options.holds.der
        told: dict[str, Any] = {
            "chain": [_base64(text) for text in credentials.texts(der=der)],
            "roots": _base64(credentials.server_roots),
        }
        if credentials.private_key is None:
            self._ask("install", _Nothing, **told, key=None)
            return
        key = _base64(credentials.key_text(der=der))
        self._ask("install", _Nothing, private="the unit's private key", **told, key=key)

    def reset(self) -> None:
        """Have the unit restarted; the command ends when it answers again."""
        self._ask("reset", _Nothing)

    def inspect(self, nonce: bytes) -> Evidence:
        """What the command read back, and how it shows the key."""
        der = self._options.holds.der
        said = self._ask("inspect", _Inspected, nonce=_base64(nonce))
        key = None if said.key is None else said.key.shown(der=der)
        roots = None if said.roots is None else said.roots.held(der=False)
        return Evidence(tuple(shown.held(der=der) for shown in said.chain), key, roots)

    def dial(self, call: Call) -> Ending:
        """Have the unit connect with what it stored. Raises also `Fault.UNIT_CANNOT_DIAL`."""
        said = self._ask(
            "dial",
            _Dialled,
            endpoint=call.endpoint,
            tcp_port=call.port,
            client_id=call.client_id,
            topic=call.topic,
            payload=_base64(call.payload),
            dial_timeout_s=call.timeout_s,
            hold_s=call.hold_s,
        )
        if said.ending not in set(Ending):
            raise FaultError(Fault.FLASHER_FAILED, f"dial: the ending {said.ending!r} is none")
        return Ending(said.ending)

    def close(self) -> None:
        """Give the port back. Never raises."""
        self._claim.release()

    def _ask(self, step: str, answer: type[_Answer], *, private: str | None = None, **told: Any) -> _Answer:
        """Run one step's command. With ``private`` nothing of what passes is kept or quoted."""
        command: Command | None = getattr(self._options, step)
        if command is None:
            raise FaultError(Fault.CONFIG, f"the product {self._product.name} names no command for {step}")
        last = bytearray()

        def log(chunk: bytes) -> None:
            self._transcript.received(chunk)
            last.extend(chunk)
            del last[:-_LOGGED]

        self._transcript.note(f"{step}: {command.run[0]}")
        with self._kept_private(private):
            question = self._question(step, command, told)
            self._transcript.sent(question)
            ended = work(
                [part.replace("{port}", self._port) for part in command.run],
                question,
                timeout_s=command.timeout_s,
                stop=self._stop,
                log=log,
                environment=self._options.environment,
            )
            self._transcript.received(ended.out)
        self._transcript.note(f"{step}: exit code {ended.code}")
        _succeeded(step, ended, "" if private else _last_line(bytes(last)))
        return _parsed(step, ended.out, answer, private=private is not None)

    def _kept_private(self, private: str | None) -> AbstractContextManager[None]:
        return nullcontext() if private is None else self._transcript.private(private)

    def _question(self, step: str, command: Command, told: dict[str, Any]) -> bytes:
        product = {"name": self._product.name, "model": self._product.model, "firmware": self._product.firmware}
        where = {"port": self._port, "baud": self._product.baud, "timeout_s": command.timeout_s}
        return json.dumps({"version": _VERSION, "step": step, **where, "product": product, **told}).encode() + b"\n"


def _succeeded(step: str, ended: Ended, said: str) -> None:
    if ended.code:
        how = f"exit code {ended.code}" if ended.code > 0 else f"ended by signal {-ended.code}"
        fault = _CODES.get(ended.code, Fault.FLASHER_FAILED)
        raise FaultError(fault, f"{step}: {how}{': ' if said else ''}{said}")


def _parsed(step: str, out: bytes, answer: type[_Answer], *, private: bool) -> _Answer:
    try:
        return answer.model_validate_json(out or b"{}")
    except ValidationError as error:
        # The names of keys that should not be there are the program's words, too.
        why = "" if private else f": {_why(error)}"
        raise FaultError(
            Fault.FLASHER_FAILED, f"{step}: its answer is not as docs/boards/command.md says{why}"
        ) from None


def _why(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return ": ".join([*(str(part) for part in first["loc"]), first["msg"]])


def _last_line(log: bytes) -> str:
    lines = log.decode("latin-1").split("\n")
    return next((line.strip()[:_SAID] for line in reversed(lines) if line.strip()), "")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _limits(options: Options) -> Limits:
    holds = options.holds
    keys = frozenset(holds.keys)
    return Limits(
        # A place that holds DER holds one certificate.
        forms=frozenset(holds.forms) - ({ChainForm.LEAF_CA} if holds.der else set()),
        board_keys=keys if options.enroll else frozenset(),
        station_keys=keys,
        dials=options.dial is not None,
        flashes=options.flash is not None,
        der=holds.der,
        place_bytes=holds.place_bytes,
        certificate_bytes=holds.certificate_bytes,
        roots_bytes=holds.roots_bytes,
        lifted_by=holds.lifted_by,
        fixed_by="the product's options `holds`, `enroll`, `dial` and `flash` say what its boards can do",
    )


FAMILY: Final = Family(
    title="any other flasher (OpenOCD, J-Link, a vendor's tool): a command a step; limits by its options",
    driver=CommandBoard,
    limits=_limits,
    options=Options,
)
