"""The firmware of a simulated board: its flash, its RAM and its commands, after docs/new-board.md section 4.

It shares no code with the driver ``station.boards.console``: where the two agree, that page is enough.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from station.sim.board_faults import Faults
from station.sim.board_frames import LINE, Fields, RefusalError, Request, b64, room_for

STAGING = 16_384
_SERIAL = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
_HOST = r"(?=.{1,253}\Z)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*"
_SHA256 = r"[0-9a-f]{64}"
_POSSESSION = b"station possession v1\n"
_KEY_TYPES = ("p256", "p384", "rsa2048", "rsa3072", "rsa4096")
_MAX_MS = 600_000


class Flash:
    """What survives a restart: one file an item in a folder, each written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def read(self, item: str) -> bytes | None:
        """What was stored last; None where there is nothing."""
        try:
            return self._file(item).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, item: str, data: bytes) -> None:
        """Store an item, in a file that only its owner may read."""
        new = self._folder / f".#{item}"
        descriptor = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - opened by its descriptor, for its mode
            file.write(data)
        new.replace(self._file(item))

    def next_boot(self) -> int:
        """Count one more start."""
        boot = int(self.read("boot") or b"0") + 1
        self.write("boot", str(boot).encode())
        return boot

    def forget(self) -> None:
        """Lose what was committed; the counter of starts stays."""
        for item in ("chain", "roots", "key"):
            self._file(item).unlink(missing_ok=True)

    def _file(self, item: str) -> Path:
        return self._folder / (item if item == "boot" else f"{item}.pem")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the board says it is, and how its network is wired."""

    serial: str
    chip: str
    model: str
    firmware: str
    server_address: tuple[str, int] | None = None
    alpn_port: int = 443


@dataclass(slots=True)
class _Staging:
    item: str = ""
    total: int = 0
    piece_at: int = 0
    data: bytearray = field(default_factory=bytearray)


class Firmware:
    """One boot of the board: made anew at each restart, so that RAM is lost and flash is not."""

    def __init__(self, identity: Identity, flash: Flash, faults: Faults) -> None:
        self._identity, self._flash, self._faults = identity, flash, faults
        self.boot = flash.next_boot()
        self._staging = _Staging()
        self._new_key: bytes | None = None  # made, but no chain was committed for it yet
        self._csr: bytes | None = None
        self._commands: Mapping[str, Callable[[Request], Fields]] = {
            "hello": self._hello,
            "keygen": self._keygen,
            "csr": self._make_csr,
            "write": self._write,
            "commit": self._commit,
            "read": self._read,
            "sign": self._sign,
            "dial": self._dial,
            "reset": lambda _: {},  # the console restarts the board once the reply is out
        }

    def obey(self, request: Request) -> Fields:
        """Carry a request out and return the fields of its ``ok``; a `RefusalError` is its ``err``."""
        if self._faults.at("refuse", request.command):
            raise RefusalError(self._faults.rest("refuse"))
        command = self._commands.get(request.command)
        if not command:
            raise RefusalError("unknown")
        return command(request)

    def _hello(self, _: Request) -> Fields:
        return {
            "proto": 1,
            "model": self._identity.model,
            "serial": self._faults.text("bad-serial", self._identity.serial),
            "chip": self._identity.chip,
            "fw": self._identity.firmware,
            "line": LINE,
            "boot": self.boot,
        }

    def _keygen(self, request: Request) -> Fields:
        from station.sim import board_crypto

        kind = request.text("type", "[a-z0-9]+")
        if kind not in _KEY_TYPES:
            raise RefusalError("unsupported")
        given = self._faults.text("key-file")
        if given:
            self._new_key = Path(given).read_bytes()
        else:
            self._new_key = board_crypto.make_key("rsa1024" if "weak-rsa" in self._faults else kind)
        self._csr = None
        return {}

    def _make_csr(self, request: Request) -> Fields:
        from station.sim import board_crypto

        name = request.text("cn", _SERIAL)
        if self._new_key is None:
            raise RefusalError("none")
        csr = board_crypto.make_csr(self._new_key, self._faults.text("csr-subject", name))
        if "bad-csr-signature" in self._faults:
            csr = csr[:-1] + bytes([csr[-1] ^ 1])
        self._csr = csr
        return {"size": len(csr), "sha256": hashlib.sha256(csr).hexdigest()}

    def _write(self, request: Request) -> Fields:
        item = request.text("item", "chain|roots|key")
        offset = request.number("offset", 0, 10**9)
        total = request.number("total", 1, 10**9)
        data = request.blob("data")
        if "full" in self._faults or total > STAGING:
            raise RefusalError("full")
        staging = self._staging
        if offset == 0:
            staging = self._staging = _Staging(item, total)
        elif (staging.item, staging.total) != (item, total):
            raise RefusalError("range", next=0)
        elif offset == staging.piece_at:
            del staging.data[offset:]
        elif offset != len(staging.data):
            raise RefusalError("range", next=len(staging.data))
        if offset + len(data) > total:
            raise RefusalError("args", text=b64(b"data"))
        staging.piece_at = offset
        staging.data += data
        return {"next": len(staging.data)}

    def _commit(self, request: Request) -> Fields:
        item = request.text("item", "chain|roots|key")
        wanted = (request.number("total", 1, 10**9), request.text("sha256", _SHA256))
        staging = self._staging
        if "commit-hash" in self._faults:
            raise RefusalError("hash")
        if staging.item == item and _digest(bytes(staging.data)) == wanted:
            self._store(item, bytes(staging.data))
        elif _digest(self._flash.read(item) or b"") != wanted:
            raise RefusalError("hash")
        return {}

    def _store(self, item: str, data: bytes) -> None:
        if item == "key":
            self._new_key = None  # the unit's key is the one that came last
        elif item == "chain" and self._new_key is not None:
            self._flash.write("key", self._new_key)
        self._flash.write(item, data)

    def _read(self, request: Request) -> Fields:
        item = request.text("item", "csr|chain|roots|key")
        offset = request.number("offset", 0, 10**9)
        if item == "key":
            raise RefusalError("denied")
        data = self._csr if item == "csr" else self._flash.read(item)
        if data is None:
            raise RefusalError("none")
        if item == "chain" and "flip" in self._faults:
            data = _flipped(data, self._faults.number("flip"))
        if offset > len(data):
            raise RefusalError("range", next=len(data))
        fields: Fields = {"total": len(data), "offset": offset}
        piece = data[offset : offset + room_for(fields)]
        return {**fields, "data": b64(piece)} if piece else fields

    def _sign(self, request: Request) -> Fields:
        from station.sim import board_crypto

        nonce = request.blob("nonce")
        if len(nonce) != 32:
            raise RefusalError("args", text=b64(b"nonce"))
        key = self._new_key or self._flash.read("key")
        if key is None:
            raise RefusalError("none")
        try:
            if "wrong-key" in self._faults:
                key = board_crypto.make_key(board_crypto.kind_of(key))
            return {"sig": b64(board_crypto.sign(key, _POSSESSION + nonce))}
        except board_crypto.CryptoError as error:
            raise _failed(error) from error

    def _dial(self, request: Request) -> Fields:
        host, port = request.text("host", _HOST), request.number("port", 1, 65_535)
        client, topic = request.text("client", ".{1,128}"), request.text("topic", ".{1,256}")
        payload = request.blob("payload")
        timeout_ms, hold_ms = request.number("timeout", 1, _MAX_MS), request.number("hold", 0, _MAX_MS)
        ending = "unreachable" if "no-net" in self._faults else self._faults.text("dial-ending")
        if ending:
            return {"ending": ending}
        from station.sim import board_dial

        chain, key, roots = (self._flash.read(item) for item in ("chain", "key", "roots"))
        if chain is None or key is None or roots is None:
            raise RefusalError("none")
        alpn = port == self._identity.alpn_port
        address = self._identity.server_address or (host, port)
        times = (timeout_ms / 1000, hold_ms / 1000)
        try:
            context = board_dial.tls_context(chain, key, roots, alpn=alpn)
        except board_dial.StoredError as error:
            raise _failed(error) from error
        ending, text = board_dial.dial(context, board_dial.Line(host, address, client, topic, payload, *times))
        return {"ending": ending, **({"text": b64(text.encode()[:96])} if text else {})}


def _digest(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()


def _flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position % len(changed)] ^= 1
    return bytes(changed)


def _failed(error: Exception) -> RefusalError:
    return RefusalError("failed", text=b64(str(error).encode()[:96]))
