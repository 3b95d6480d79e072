"""The family `console`: any firmware that speaks ``docs/new-board.md`` on its serial console.

Each method is some requests over one `Link`, whose retries and bounds are there. A word of the board's is checked here
against the page's forms before anybody else sees it.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from station.boards.enrollment import EVERY_KEY, enroll_here
from station.boards.frames import FIRST_LINE, Link, Reply
from station.boards.wire import Never
from station.credentials import Credentials, Enrollment, Evidence, Held, possession_message
from station.family import Family, Limits
from station.faults import Fault, FaultError
from station.interfaces import Stop
from station.model import Call, ChainForm, Ending, FirstContact, KeyOrigin, KeyType, Product, Profile, Unit
from station.transcript import Transcript

log = structlog.get_logger()
_T = TypeVar("_T")

_SHORT_S: Final = 3.0  # hello, read, write, and the `ok` of reset
_LONG_S: Final = 10.0  # commit, csr, sign
_KEYGEN_S: Final = 60.0
_DIAL_MORE_S: Final = 5.0
_RESTART_S: Final = 10.0
_PROBE_S: Final = 0.3
# A board restarts within 0.5 s of its `ok`: one that was asked later and is the same did not.
_RESTARTED_BY_S: Final = 1.0
_ITEM_S: Final = 60.0  # for all pieces of one item together, beside their time on the line

_LINE_USED: Final = 4_096
_BOOT_MAX: Final = 9_999_999_999
_CSR_MAX: Final = 4_096
_ITEM_MAX: Final = 16_384
_SIGNATURE_MAX: Final = 512  # RSA-4096


class ConsoleBoard:
    """One unit on ``port``, for one run. Satisfies `interfaces.Board`.

    Raises:
        FaultError: `Fault.LIFTED` where there is no such port; `Fault.PORT_DENIED` where it cannot be opened. Every
            method: `Fault.UNIT_SILENT`, `Fault.UNIT_GARBLED`, `Fault.UNIT_REFUSED`, `Fault.UNIT_RESET`,
            `Fault.LIFTED`, and what ``stop`` raises.
    """

    def __init__(self, port: str, product: Product, stop: Stop, transcript: Transcript) -> None:
        self._product, self._stop = product, stop
        self._link = Link(port, product.baud, stop, transcript)
        self._boot: int | None = None
        self._restarted = False

    @classmethod
    def probe(cls, port: str, product: Product) -> bool:
        """Whether anything answers `hello` at ``port`` within a moment; whatever it says. For `Family.probe`."""
        try:
            link = Link(port, product.baud, Never(), Transcript())
        except FaultError:
            return False
        try:
            link.knock(_PROBE_S)
        except FaultError as error:
            return error.fault is Fault.UNIT_GARBLED
        finally:
            link.close()
        return True

    def identify(self) -> Unit:
        """Ask `hello`. Raises also `Fault.UNIT_IDENTITY`, and `Fault.UNIT_FIRMWARE` for another protocol version."""
        return self._introduced(self._link.ask("hello", _SHORT_S))

    def flash(self) -> None:
        """Refused: this protocol carries no firmware."""
        raise FaultError(Fault.CONFIG, "the family console flashes no firmware")

    def enroll(self, subject: str) -> Enrollment:
        """Have the unit make its key and CSR; or make both here, and tell the unit nothing of it yet."""
        if self._product.key_origin is KeyOrigin.STATION:
            return enroll_here(subject, self._product.key_type)
        self._accepted(self._link.ask("keygen", _KEYGEN_S, type=str(self._product.key_type)), "keygen")
        self._restarted = False
        told = self._kept(self._link.ask("csr", _LONG_S, cn=subject), "csr")
        size, digest = told.number("size", 1, _CSR_MAX), told.word("sha256")
        csr = self._read("csr", _CSR_MAX)
        if len(csr) != size or hashlib.sha256(csr).hexdigest() != digest:
            raise FaultError(
                Fault.UNIT_GARBLED, f"the CSR that was read ({len(csr)} bytes) is not what csr told ({size})"
            )
        return Enrollment(csr)

    def install(self, credentials: Credentials) -> None:
        """Write and commit roots, key (where the station made it) and chain: the chain last, it makes the unit whole.

        Raises also `Fault.INSTALL_REFUSED`.
        """
        self._store("roots", credentials.server_roots)
        if credentials.private_key is not None:
            with self._link.private("the unit's private key"):
                self._store("key", credentials.key_text())
        self._store("chain", credentials.chain_pem)

    def reset(self) -> None:
        """Restart the unit, through a vanishing port if need be, and wait for a `hello` with another `boot`."""
        self.identify()
        before, restarted = self._boot, self._restarted
        try:
            self._accepted(self._link.ask("reset", _SHORT_S), "reset")
        except FaultError as error:
            if error.fault is not Fault.LIFTED:
                raise
        asked, end = time.monotonic(), time.monotonic() + _RESTART_S
        while True:
            began = time.monotonic()
            self._introduced(self._knock(end))
            if self._boot != before:
                self._restarted = restarted
                return
            if began - asked > _RESTARTED_BY_S:
                raise FaultError(
                    Fault.UNIT_RESET, f"boot={before} before and after the reset: the unit did not restart"
                )
            self._stop.wait(0.05)

    def inspect(self, nonce: bytes) -> Evidence:
        """Read back the chain, and the roots where no dial of the board's shows them; have ``nonce`` signed."""
        chain = self._read("chain", _ITEM_MAX)
        if not chain:
            return Evidence((), None)
        dials = self._product.first_contact is FirstContact.BOARD
        roots = None if dials else Held(self._read("roots", _ITEM_MAX))
        return Evidence((Held(chain),), self.prove(nonce), roots)

    def prove(self, nonce: bytes) -> bytes:
        """The unit's signature over `possession_message` of ``nonce`` (32 bytes)."""
        signed = self._kept(self._link.ask("sign", _LONG_S, nonce=_base64(nonce)), "sign")
        return signed.data("sig", _SIGNATURE_MAX)

    def dial(self, call: Call) -> Ending:
        """Have the unit connect with what it stored. Raises also `Fault.UNIT_CANNOT_DIAL`."""
        reply = self._link.ask(
            "dial",
            call.timeout_s + call.hold_s + _DIAL_MORE_S,
            host=call.endpoint,
            port=call.port,
            client=call.client_id,
            topic=call.topic,
            payload=_base64(call.payload),
            timeout=round(call.timeout_s * 1000),
            hold=round(call.hold_s * 1000),
        )
        if reply.code in {"unsupported", "failed"}:
            raise FaultError(Fault.UNIT_CANNOT_DIAL, f"dial: code={reply.code} {reply.text}")
        word = self._accepted(reply, "dial").word("ending")
        if word not in set(Ending):
            raise FaultError(Fault.UNIT_GARBLED, f"ending={word[:40]} is none")
        log.info("the unit dialled", ending=word, text=reply.text)
        return Ending(word)

    def close(self) -> None:
        """Give the port back. Never raises."""
        self._link.close()

    def _introduced(self, reply: Reply) -> Unit:
        """The unit that a `hello` names. Takes note of its line, and of a restart since the last one."""
        hello = self._accepted(reply, "hello")
        if hello.word("proto") != "1":
            raise FaultError(Fault.UNIT_FIRMWARE, f"the unit speaks protocol {hello.word('proto')[:40]}, the station 1")
        unit = Unit(hello.word("serial"), hello.word("chip"), hello.word("model"), hello.word("fw"))
        self._link.line = min(hello.number("line", FIRST_LINE, _BOOT_MAX), _LINE_USED)
        boot = hello.number("boot", 0, _BOOT_MAX)
        self._restarted |= self._boot not in {None, boot}
        self._boot = boot
        return unit

    def _store(self, item: str, content: bytes) -> None:
        """Write and commit one item; once more, from where the unit says, if it lost its staging or got it damaged."""
        total, digest = len(content), hashlib.sha256(content).hexdigest()
        room = self._link.room("write", item=item, offset=total, total=total)
        offset, began_again, boot, end = 0, False, self._boot, self._item_end(total)
        while True:
            self._in_time(end, item)
            piece = content[offset : offset + room]
            if piece:
                told: dict[str, str | int] = {"item": item, "offset": offset, "total": total, "data": _base64(piece)}
                reply = self._link.ask("write", _SHORT_S, **told)
            else:
                reply = self._link.ask("commit", _LONG_S, item=item, total=total, sha256=digest)
            if reply.code in {"range", "hash"}:
                self.identify()
                if began_again:
                    fault = Fault.INSTALL_REFUSED if self._boot == boot else Fault.UNIT_RESET
                    raise FaultError(fault, f"{item} at {offset} of {total}: twice out of step, code={reply.code}")
                offset = reply.number("next", 0, total) if "next" in reply.values else 0
                began_again, boot = True, self._boot
                continue
            self._kept(reply, f"{item} at {offset} of {total}", Fault.INSTALL_REFUSED)
            if not piece:
                return
            offset += len(piece)
            reply.number("next", offset, offset)

    def _read(self, item: str, most: int) -> bytes:
        """An item as the unit holds it, at most ``most`` bytes; empty where it holds none (a lost CSR is a fault)."""
        content, end = bytearray(), self._item_end(most)
        while True:
            self._in_time(end, item)
            reply = self._link.ask("read", _SHORT_S, item=item, offset=len(content))
            if reply.code == "none" and item != "csr" and not content:
                return b""
            told = self._kept(reply, f"reading {item} at {len(content)}")
            total = told.number("total", 0, most)
            told.number("offset", len(content), len(content))
            piece = told.data("data", total - len(content)) if "data" in told.values else b""
            content += piece
            if len(content) == total:
                return bytes(content)
            most = total
            if not piece:
                raise FaultError(Fault.UNIT_GARBLED, f"{item} ends at {len(content)} of {total}")

    def _knock(self, end: float) -> Reply:
        """The first good `hello` of a unit that restarts; its port may vanish and come back meanwhile."""
        while True:
            try:
                return self._link.knock(end - time.monotonic())
            except FaultError as error:
                if error.fault is not Fault.LIFTED:
                    raise
            self._link.reopen(end - time.monotonic())

    def _kept(self, reply: Reply, what: str, fault: Fault = Fault.UNIT_REFUSED) -> Reply:
        """As `_accepted`, for what stands on a key that a restart may have lost."""
        if reply.code == "none":
            self.identify()
            if self._restarted:
                raise FaultError(Fault.UNIT_RESET, f"{what}: nothing there; the unit restarted by itself after keygen")
        return self._accepted(reply, what, fault)

    def _accepted(self, reply: Reply, what: str, fault: Fault = Fault.UNIT_REFUSED) -> Reply:
        if reply.status != "ok":
            raise FaultError(fault, f"{what}: code={reply.code[:40]} {reply.text}")
        return reply

    def _item_end(self, size: int) -> float:
        """When the patience with one item of ``size`` bytes ends: four times its bytes cover base64 and frames."""
        return time.monotonic() + _ITEM_S + 4 * size * 10 / self._product.baud

    def _in_time(self, end: float, item: str) -> None:
        if time.monotonic() > end:
            raise FaultError(Fault.UNIT_SILENT, f"the pieces of {item} take too long")


FAMILY: Final = Family(
    title="any firmware that speaks docs/new-board.md on its serial console",
    driver=ConsoleBoard,
    limits=lambda _: Limits(
        forms=frozenset({ChainForm.LEAF_CA}),
        board_keys=EVERY_KEY,
        station_keys=EVERY_KEY,
        dials=True,
        place_bytes=_ITEM_MAX,
        lifted_by="nothing: the protocol's staging buffer has 16384 bytes",
    ),
    probe=ConsoleBoard.probe,
)


def try_board(port: str, baud: int) -> Iterator[str]:
    """Speak the protocol to one board, as far as that leaves no certificate behind; yield a line for each answer.

    It makes the board a new P-256 key, over whatever key a former attempt left.

    Raises:
        FaultError: the first thing that was not as ``docs/new-board.md`` says.
    """
    product = Product("try", "console", "any", KeyType.P256, KeyOrigin.BOARD, Profile(1, 0), baud=baud)
    board = ConsoleBoard(port, product, Never(), Transcript())
    try:
        unit, took = _timed(board.identify)
        yield f"hello    {took:6.0f} ms  {unit.model} {unit.serial}, chip {unit.chip_id}, firmware {unit.firmware}"
        for _ in range(2):
            again, took = _timed(board.identify)
            if again != unit:
                raise FaultError(Fault.UNIT_IDENTITY, f"the unit was {unit}, now it is {again}")
            yield f"hello    {took:6.0f} ms  the same"
        enrollment, took = _timed(lambda: board.enroll(unit.serial))
        key = _requested(enrollment.csr, unit.serial)
        yield f"csr      {took:6.0f} ms  {len(enrollment.csr)} bytes, good for CN={unit.serial}; keygen included"
        nonce = secrets.token_bytes(32)
        proof, took = _timed(lambda: board.prove(nonce))
        _proven(key, nonce, proof)
        yield f"sign     {took:6.0f} ms  by the key of the CSR"
        _, took = _timed(board.reset)
        yield f"reset    {took:6.0f} ms  restarted, and answers"
        if board.identify() != unit:
            raise FaultError(Fault.UNIT_IDENTITY, f"the unit was {unit} before the reset")
        yield "this board speaks the console protocol; its key is new, nothing else was changed"
    finally:
        board.close()


def _timed(act: Callable[[], _T]) -> tuple[_T, float]:
    began = time.perf_counter()
    return act(), (time.perf_counter() - began) * 1000


def _requested(csr: bytes, subject: str) -> ec.EllipticCurvePublicKey:
    """The P-256 key that a good CSR asks for."""
    try:
        request = x509.load_der_x509_csr(csr)
        good, key = request.is_signature_valid, request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FaultError(Fault.CSR_INVALID, str(error)) from error
    if not good:
        raise FaultError(Fault.CSR_INVALID, "its signature is not by its own key")
    if request.subject != x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]):
        raise FaultError(Fault.CSR_SUBJECT, f"its subject is {request.subject.rfc4514_string()}, not CN={subject}")
    if not isinstance(key, ec.EllipticCurvePublicKey) or KeyType.of(key) is not KeyType.P256:
        raise FaultError(Fault.KEY_TYPE, "its key is not P-256")
    return key


def _proven(key: ec.EllipticCurvePublicKey, nonce: bytes, proof: bytes) -> None:
    try:
        key.verify(proof, possession_message(nonce), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise FaultError(Fault.KEY_UNPROVEN, "the signature over the nonce is not by the CSR's key") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
