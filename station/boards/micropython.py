"""The family `micropython`: any board whose serial port is a MicroPython prompt, through its raw REPL.

The raw REPL is spoken as ``mpremote`` speaks it (micropython/tools/mpremote, ``transport_serial.py``): Ctrl-A enters
it, code ends with Ctrl-D, the answer is ``OK``, what was printed, Ctrl-D, the traceback, Ctrl-D, ``>``; where the
firmware offers raw paste, its window is the flow control. What the station needs is sent as three small programs
(``agents/*.upy``), which live in the board's memory until its reset. What they say stands between marks with a CRC-32,
so that whatever else prints in between (a timer, an interrupt) costs a repetition and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
import zlib
from importlib.resources import files
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from station.boards.enrollment import enroll_here
from station.boards.wire import Wire, plain
from station.credentials import Credentials, Enrollment, Evidence, Held, possession_message, root_ders
from station.family import Family, Limits
from station.faults import Fault, FaultError, printable
from station.interfaces import Stop
from station.model import Call, ChainForm, Ending, KeyOrigin, KeyType, Product, Unit
from station.transcript import Transcript

_ENTER: Final = b"\r\x03\x03\r\x01"
_PROMPT: Final = re.compile(rb"raw REPL; CTRL-B to exit\r\n>")
# The friendly prompt stands where an answer should be once a board has restarted by itself.
_FRESH: Final = rb"|(?P<fresh>>>> )$"
# Where the wire echoes what was typed, an OK in it is no answer's.
_ANSWER: Final = re.compile(rb"OK(?P<out>[^\x04]*)\x04(?!OK)(?P<error>[^\x04]*)\x04" + _FRESH, re.DOTALL)
_PASTE: Final = re.compile(rb"R(?:\x00|\x01(?P<window>..)\x01)|raw REPL; CTRL-B to exit\r\n>", re.DOTALL)
_PASTED: Final = re.compile(rb"\x04(?P<out>[^\x04]*)\x04(?P<error>[^\x04]*)\x04" + _FRESH, re.DOTALL)
_SAID: Final = re.compile(rb"=S=([A-Za-z0-9+/]*={0,2})#([0-9a-f]{8})=")

_SHORT_S: Final = 5.0
_PROMPT_S: Final = 1.5  # the prompt itself: no work is done for it
_LONG_S: Final = 30.0  # a P-256 key in pure Python: 0.1 s on a PC, some seconds on a microcontroller
_RESTART_S: Final = 15.0
_DIAL_MORE_S: Final = 10.0
_TRIES: Final = 3
_PIECE: Final = 768  # bytes of a file a call: a round trip costs 16 ms, the board's memory is small
_FILE_MAX: Final = 8_192
_ROOTS_MAX: Final = 8
_CODE_PIECE: Final = 256
_NAMES: Final = r"^\.?(/[A-Za-z0-9_-]{1,32}){0,4}/?$"


class Options(BaseModel):
    """`options` of a product of this family.

    ``identity`` says where serial and chip id come from: ``unique_id`` is ``machine.unique_id()`` for both;
    ``module`` is the board's own ``board_identity.py`` with ``serial``, ``chip``, ``model`` and ``firmware``.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    identity: Literal["unique_id", "module"] = "unique_id"
    folder: Annotated[str, Field(pattern=_NAMES)] = "/"
    certificate: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,16}\.der$")] = "cert.der"
    key: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,16}\.der$")] = "key.der"
    root: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,16}$")] = "root"


class MicroPythonBoard:
    """One unit at its prompt, for one run. Satisfies `interfaces.Board`.

    Raises:
        FaultError: each method `UNIT_SILENT`, `UNIT_GARBLED`, `UNIT_REFUSED` (a traceback; its last line is the
            detail), `LIFTED`, and what ``stop`` raises.
    """

    def __init__(self, port: str, product: Product, stop: Stop, transcript: Transcript) -> None:
        self._product, self._stop = product, stop
        self._options: Options = product.options or Options()
        self._wire = Wire(port, product.baud, stop, transcript)
        self._at_prompt = False
        self._loaded: set[str] = set()

    def identify(self) -> Unit:
        """Who the board is. Raises also `Fault.UNIT_IDENTITY`."""
        words = self._call("files", _SHORT_S, "who", self._options.identity)
        if len(words) != 4:
            raise FaultError(Fault.UNIT_GARBLED, f"{len(words)} words where serial, chip, model, firmware were asked")
        return Unit(*words)

    def flash(self) -> None:
        """Refused: a board at its prompt has its firmware."""
        raise FaultError(Fault.CONFIG, "the family micropython flashes no firmware")

    def enroll(self, subject: str) -> Enrollment:
        """Have the board make a P-256 key and its CSR; or make both here."""
        if self._product.key_origin is KeyOrigin.STATION:
            self._stop.check()
            return enroll_here(subject, self._product.key_type)
        (csr,) = self._call("keys", _LONG_S, "keygen", self._path(self._options.key), subject)
        return Enrollment(_decoded(csr))

    def install(self, credentials: Credentials) -> None:
        """Write roots, key (where the station made it) and leaf, each into a new file that is then renamed.

        The TLS of MicroPython takes DER, and of a chain it sends the leaf alone: hence chain form ``leaf``. Of roots it
        trusts whichever stand there: those that a former installation had more are removed.
        """
        roots = root_ders(credentials.server_roots)
        for index, root in enumerate(roots):
            self._put(self._path(f"{self._options.root}{index}.der"), root)
        self._call("files", _SHORT_S, "drop", self._path(self._options.root), len(roots))
        if credentials.private_key is not None:
            with self._wire.private("the unit's private key"):
                self._put(self._path(self._options.key), credentials.key_text(der=True))
        self._put(self._path(self._options.certificate), credentials.texts(der=True)[0])

    def reset(self) -> None:
        """Restart the board; what was in its memory must be gone afterwards. Raises also `Fault.UNIT_RESET`."""
        self._call("files", _SHORT_S, "mark")
        self._enter()
        self._wire.write(_RESET + b"\x04")
        self._wire.through_restart(self._restarted, _RESTART_S)

    def inspect(self, nonce: bytes) -> Evidence:
        """The SHA-256 of certificate, roots and key as the board computes them; a key of its own signs the nonce."""
        leaf = self._digest(self._path(self._options.certificate))
        if leaf is None:
            return Evidence((), None)
        chain = (Held(leaf, digest=True, der=True),)
        roots = Held(self._root_row()[1], digest=True, der=True)
        key = self._path(self._options.key)
        if self._product.key_origin is KeyOrigin.STATION:
            found = self._digest(key)
            return Evidence(chain, None if found is None else Held(found, digest=True, der=True), roots)
        message = base64.b64encode(possession_message(nonce)).decode()
        (proof,) = self._call("keys", _LONG_S, "prove", key, message)
        return Evidence(chain, _decoded(proof), roots)

    def dial(self, call: Call) -> Ending:
        """Have the board connect with what it stored. Raises also `Fault.UNIT_CANNOT_DIAL`."""
        # Counted there: a retest may dial without having installed anything.
        names = [self._path(f"{self._options.root}{index}.der") for index in range(self._root_row()[0])]
        arguments = (
            self._path(self._options.certificate),
            self._path(self._options.key),
            names,
            call.endpoint,
            call.port,
            call.client_id,
            call.topic,
            base64.b64encode(call.payload).decode(),
            call.timeout_s,
            call.hold_s,
        )
        word, text = self._call("dial", call.timeout_s * 2 + call.hold_s + _DIAL_MORE_S, "dial", *arguments)
        if word not in set(Ending):
            raise FaultError(Fault.UNIT_CANNOT_DIAL, f"dial: {word} {text}")
        return Ending(word)

    def close(self) -> None:
        """Give the port back. Never raises."""
        self._wire.close()

    def _restarted(self) -> None:
        """Wait for a prompt whose memory is empty."""
        self._at_prompt, self._loaded = False, set()
        end = time.monotonic() + _RESTART_S
        while True:
            self._wire.wait(0.1)
            try:
                (marked,) = self._call("files", _SHORT_S, "marked")
            except FaultError as error:
                if error.fault is not Fault.UNIT_SILENT or time.monotonic() > end:
                    raise
                continue
            if marked != "0":
                raise FaultError(Fault.UNIT_RESET, "the board's memory is as before: it did not restart")
            return

    def _path(self, name: str) -> str:
        return f"{self._options.folder.rstrip('/')}/{name}"

    def _root_row(self) -> tuple[int, bytes]:
        """How many roots stand there in a row, and the SHA-256 of all of them."""
        words = self._call("files", _LONG_S, "row", self._path(self._options.root), _ROOTS_MAX + 1)
        if len(words) != 2 or not re.fullmatch(r"[0-9]{1,3}", words[0]) or not re.fullmatch(r"[0-9a-f]{64}", words[1]):
            raise FaultError(Fault.UNIT_GARBLED, "the digest of the roots is none")
        return int(words[0]), bytes.fromhex(words[1])

    def _put(self, name: str, content: bytes) -> None:
        """One file in checked pieces: whole and hashed under another name first, then renamed."""
        if len(content) > _FILE_MAX:
            raise FaultError(Fault.PRODUCT_UNFIT, f"{name} has {len(content)} bytes; {_FILE_MAX} is the most")
        for offset in range(0, len(content), _PIECE):
            piece = content[offset : offset + _PIECE]
            (end,) = self._call("files", _SHORT_S, "put", name, offset, base64.b64encode(piece).decode())
            if end != str(offset + len(piece)):
                raise FaultError(Fault.INSTALL_REFUSED, f"{name}: the board stands at {end[:20]}")
        wanted = hashlib.sha256(content).hexdigest()
        found = self._call("files", _LONG_S, "keep", name, len(content), wanted)
        if found != [str(len(content)), wanted] and self._digest(name) != bytes.fromhex(wanted):
            raise FaultError(Fault.INSTALL_REFUSED, f"{name}: what the board wrote is not what it was given")

    def _digest(self, name: str) -> bytes | None:
        words = self._call("files", _LONG_S, "tell", name)
        if len(words) != 2 or (words[1] != "-" and not re.fullmatch(r"[0-9a-f]{64}", words[1])):
            raise FaultError(Fault.UNIT_GARBLED, f"the digest of {name} is none")
        return None if words[1] == "-" else bytes.fromhex(words[1])

    def _call(self, agent: str, total_s: float, function: str, *arguments: object) -> list[str]:
        """Call a function of an agent, which is sent first where the board does not have it (any more).

        Every function may be called twice: a board that restarted by itself, or was swapped, is brought to its prompt
        again and asked once more.
        """
        for last in (False, True):
            had = bool(self._loaded)
            try:
                return self._called(agent, total_s, function, *arguments)
            except FaultError as error:
                lost = error.fault is Fault.UNIT_SILENT or "NameError" in error.detail
                if last or not lost or not had:
                    raise
                self._at_prompt, self._loaded = False, set()
        raise FaultError(Fault.UNEXPECTED, "no call was made")

    def _called(self, agent: str, total_s: float, function: str, *arguments: object) -> list[str]:
        for needed in ("files", agent):
            if needed not in self._loaded:
                self._answered(files("station.boards").joinpath(f"agents/{needed}.upy").read_text("ascii"), _LONG_S)
                self._loaded.add(needed)
        # Arguments are this house's own words and base64: repr of them is Python on the board too.
        return self._answered(f"{function}({', '.join(map(repr, arguments))})", total_s)

    def _answered(self, code: str, total_s: float) -> list[str]:
        """Run code that says something between marks; again where noise cut into it. Every call may be repeated.

        By raw paste first, whose window counts each byte that comes: noise can break it. Typed code is more patient.
        """
        for attempt in range(_TRIES):
            found = _SAID.search(self._run(code, total_s, paste=not attempt).replace(b"\r\n", b""))
            if found is None:
                continue
            try:
                text = base64.b64decode(found[1], validate=True)
            except binascii.Error:
                continue
            if zlib.crc32(text) == int(found[2], 16):
                return text.decode("latin-1").split()
        raise FaultError(Fault.UNIT_GARBLED, f"{_TRIES} times no whole answer")

    def _run(self, code: str, total_s: float, *, paste: bool) -> bytes:
        """What code printed; nothing where noise cut in. Raises `Fault.UNIT_REFUSED` for a traceback."""
        window = None
        if paste:
            window = self._offer()
        else:
            self._enter()
        self._at_prompt = False
        found = self._pasted(code.encode("ascii"), window, total_s)
        if found is None:
            return b""
        if found["fresh"]:
            raise FaultError(Fault.UNIT_SILENT, "the board restarted by itself")
        error = plain(found["error"]).decode("latin-1").strip()
        if "Traceback" in error:
            self._at_prompt = True
            self._loaded.clear()
            raise FaultError(Fault.UNIT_REFUSED, printable(error.splitlines()[-1], 200))
        self._at_prompt = not error
        # Anything else there is noise that cut in: nothing was said for sure, and it is asked again.
        return b"" if error else found["out"]

    def _offer(self) -> int | None:
        """Ask for raw paste at the prompt: the bytes of its window, None where the firmware has none."""
        for tries in range(_TRIES):
            if not self._at_prompt:
                self._enter()
            self._at_prompt = False
            try:
                found = self._wire.ask(b"\x05A\x01", _PASTE, _PROMPT_S)
            except FaultError as error:
                if error.fault is not Fault.UNIT_SILENT or tries + 1 == _TRIES:
                    raise
                continue
            window = found["window"]
            if window is not None and not 16 <= int.from_bytes(window, "little") <= 65_535:
                raise FaultError(Fault.UNIT_GARBLED, f"a raw paste window of {int.from_bytes(window, 'little')} bytes")
            return None if window is None else int.from_bytes(window, "little")
        raise FaultError(Fault.UNEXPECTED, "the prompt was not asked")

    def _enter(self) -> None:
        """Interrupt what runs and come to the raw prompt; again where noise cut into what the board says of it."""
        for tries in range(_TRIES):
            try:
                self._wire.ask(_ENTER, _PROMPT, _PROMPT_S)
            except FaultError as error:
                if error.fault is not Fault.UNIT_SILENT or tries + 1 == _TRIES:
                    raise
            else:
                # An echo or a second interrupt may still be on its way.
                self._wire.drain(0.02, 0.2)
                return

    def _pasted(self, code: bytes, window: int | None, total_s: float) -> re.Match[bytes] | None:
        """Send code within the window of raw paste, or in pieces; what came of it, None where the board ended it."""
        if window is None:
            for start in range(0, len(code), _CODE_PIECE):
                self._wire.write(code[start : start + _CODE_PIECE])
                self._wire.wait(0.01)  # as mpremote: an UART without flow control loses what comes faster
            return self._wire.ask(b"\x04", _ANSWER, total_s)
        room = window
        while code:
            if not room:
                # 0x01 opens the window again; 0x04 says that the board does not want more.
                if self._wire.until(_WINDOW, _SHORT_S)[0] == b"\x04":
                    return None
                room += window
            self._wire.write(code[:room])
            code, room = code[room:], max(0, room - len(code))
        return self._wire.ask(b"\x04", _PASTED, total_s)


_WINDOW: Final = re.compile(rb"[\x01\x04]")
_RESET: Final = b'import machine\n(getattr(machine, "reset", None) or machine.soft_reset)()\n'


def _decoded(word: str) -> bytes:
    try:
        return base64.b64decode(word, validate=True)
    except binascii.Error as error:
        raise FaultError(Fault.UNIT_GARBLED, f"no base64: {error}") from None


FAMILY: Final = Family(
    title="boards at a MicroPython prompt, through its raw REPL",
    driver=MicroPythonBoard,
    options=Options,
    limits=lambda _: Limits(
        forms=frozenset({ChainForm.LEAF}),
        board_keys=frozenset({KeyType.P256}),
        station_keys=frozenset({KeyType.P256, KeyType.P384, KeyType.RSA2048}),
        dials=True,
        der=True,
        place_bytes=_FILE_MAX,
        root_count=_ROOTS_MAX,
        lifted_by="nothing: its TLS sends the leaf alone, so the cloud must know the CA by SNI",
    ),
)
