"""Signatures from the token's children: killable, recovered within one deadline, never a late answer for the next.

One recovery path for everything that can happen to a child (it hangs, it dies, its token says DeviceError): kill it,
start another, try once more within the same deadline.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from station.faults import Fault, FaultError
from station.hsm.frames import Broken, Late, receive, send
from station.hsm.pin import PinLatch, PinSource
from station.hsm.uri import KeyUri
from station.model import KeyType, PublicKey

_FIRST_TRY: Final = 0.6  # of the deadline: the rest is for a new child and the second try
_GENERATE_S: Final = 180.0  # RSA-4096 in a small HSM takes a minute
_SECRETS_OF_OTHERS: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


class Mechanism(StrEnum):
    """What a child signs with. Both take data that is hashed already: all modules have them (hsm.md)."""

    ECDSA = "ecdsa"  # over the digest; the signature is r || s
    RSA_PKCS = "rsa-pkcs"  # over a DigestInfo (RFC 8017, 9.2)


class _Child:
    """One process with one session. After any trouble it is killed, never asked again."""

    def __init__(self, key: KeyUri, pin: PinSource, latch_folder: Path, deadline: float, *, write: bool) -> None:
        PinLatch(latch_folder, key).check()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "station.hsm.worker", str(os.getpid())],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # modules write what they like there
                    env={name: value for name, value in os.environ.items() if name not in _SECRETS_OF_OTHERS},
                )
        except OSError as error:
            ours.close()
            raise FaultError(Fault.HSM_DOWN, f"the token's child does not start: {error.strerror}") from error
        self._channel = ours
        opening = {
            "do": "open",
            "key": str(key),
            "pin_credential": pin.credential,
            "pin_file": str(pin.file) if pin.file else None,
            "latch": str(latch_folder),
            "write": write,
        }
        with ExitStack() as unless_open:
            unless_open.callback(self.kill)
            self.ask(opening, deadline)
            unless_open.pop_all()

    def ask(self, order: dict[str, Any], deadline: float) -> dict[str, Any]:
        """One order and its answer.

        Raises:
            FaultError: what the child says; `Fault.HSM_HUNG` past the deadline, `Fault.HSM_DOWN` where it died.
        """
        try:
            send(self._channel, order, deadline)
            answer = receive(self._channel, deadline)
        except Late:
            raise FaultError(Fault.HSM_HUNG, f"no answer to {order['do']} in time") from None
        except Broken as error:
            raise FaultError(Fault.HSM_DOWN, f"the token's child died during {order['do']}: {error}") from error
        if "fault" in answer:
            raise FaultError(Fault(answer["fault"]), str(answer["detail"]))
        return answer

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._channel.close()
        self._process.kill()
        self._process.wait()


class Signers:
    """``processes`` children that sign with one key. Safe from any thread; use as a context manager."""

    def __init__(
        self, key: KeyUri, pin: PinSource, latch_folder: Path, *, processes: int = 1, timeout_s: float = 5.0
    ) -> None:
        self._key, self._pin, self._latch_folder, self._timeout_s = key, pin, latch_folder, timeout_s
        self._processes = processes
        # None stands for a child that is to be started: at first, and after one was killed.
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()

    def __enter__(self) -> Self:
        """Start every child and log in.

        Raises:
            FaultError: any of the C faults.
        """
        with ExitStack() as unless_all:
            unless_all.push(self)
            for _ in range(self._processes):
                self._idle.put(self._start(time.monotonic() + self._timeout_s))
            unless_all.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End every idle child."""
        while not self._idle.empty():
            child = self._idle.get_nowait()
            if child is not None:
                child.kill()

    def sign(self, data: bytes, mechanism: Mechanism) -> bytes:
        """Sign ``data`` as the mechanism takes it, within the timeout.

        Raises:
            FaultError: any of the C faults.
        """
        answer = self._ask({"do": "sign", "data": data.hex(), "mechanism": mechanism.value})
        return bytes.fromhex(answer["signature"])

    def describe(self) -> dict[str, Any]:
        """Token and key attributes as read back."""
        return self._ask({"do": "describe"})

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        deadline = began + self._timeout_s
        try:
            child = self._idle.get(timeout=self._timeout_s)
        except queue.Empty:
            raise FaultError(Fault.HSM_HUNG, "every child of the token is busy past the deadline") from None
        try:
            try:
                child = child or self._start(began + self._timeout_s * _FIRST_TRY)
                return child.ask(order, began + self._timeout_s * _FIRST_TRY)
            except FaultError as error:
                if error.fault not in {Fault.HSM_DOWN, Fault.HSM_HUNG}:
                    raise
                if child is not None:
                    child.kill()
                child = None
                child = self._start(deadline)
                return child.ask(order, deadline)
        except FaultError:
            # Whatever it was, the next signature begins with a fresh child: a dead HSM's session never comes back.
            if child is not None:
                child.kill()
            child = None
            raise
        finally:
            self._idle.put(child)

    def _start(self, deadline: float) -> _Child:
        return _Child(self._key, self._pin, self._latch_folder, deadline, write=False)


class KeyMaker:
    """A session that may write: it makes one key pair, or takes it in. Use as a context manager.

    ``key`` names the pair that is to be: its label, and an id that nobody else has.
    """

    def __init__(self, key: KeyUri, pin: PinSource, latch_folder: Path) -> None:
        self._deadline = time.monotonic() + _GENERATE_S
        self._child = _Child(key, pin, latch_folder, self._deadline, write=True)

    def __enter__(self) -> Self:
        """The session is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self._child.kill()

    def named_alike(self) -> bool:
        """Whether the token holds any key of this label, whatever its id."""
        return bool(self._child.ask({"do": "named-alike"}, self._deadline)["found"])

    def generate(self, key_type: KeyType, *, again: bool = False) -> PublicKey:
        """Make the pair; returns the public half. ``again``: an earlier try was perhaps cut, take what it made.

        Raises:
            FaultError: `Fault.HSM_KEY` where a key of this name exists; `Fault.HSM_KEY_ATTRIBUTES` where the token
                made it otherwise than told (it is destroyed again); any other C fault.
        """
        order = {"do": "generate", "key_type": key_type.value, "again": again}
        return _public(self._child.ask(order, self._deadline)["public"])

    def take_in(self, public: PublicKey, file: Path, passphrase: PinSource | None, *, again: bool = False) -> PublicKey:
        """Take the key of a PEM file into the token; the file is read by the token's child alone. As `generate`.

        Raises:
            FaultError: `Fault.KEY_FILE` where the file holds no key for a token, or its passphrase is wrong;
                `Fault.CA_MISMATCH` where it is not the private half of ``public``. The token is as it was then.
        """
        order = {
            "do": "import",
            "public": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex(),
            "key_file": str(file),
            "passphrase_credential": passphrase.credential if passphrase else None,
            "passphrase_file": str(passphrase.file) if passphrase and passphrase.file else None,
            "again": again,
        }
        return _public(self._child.ask(order, self._deadline)["public"])


def generate_key(key: KeyUri, pin: PinSource, latch_folder: Path, key_type: KeyType) -> PublicKey:
    """Make a key pair in the token; see `KeyMaker.generate`."""
    with KeyMaker(key, pin, latch_folder) as maker:
        return maker.generate(key_type)


def find_public_key(key: KeyUri, pin: PinSource, latch_folder: Path) -> PublicKey | None:
    """The public half of the key that the URI names; None where the token holds none of this name."""
    deadline = time.monotonic() + _GENERATE_S
    child = _Child(key, pin, latch_folder, deadline, write=False)
    try:
        answer = child.ask({"do": "find"}, deadline)
    finally:
        child.kill()
    return _public(answer["public"]) if answer["public"] else None


def _public(text: str) -> PublicKey:
    try:
        found = load_der_public_key(bytes.fromhex(text))
    except ValueError as error:
        raise FaultError(Fault.HSM_KEY, f"the token's public key is none that the station knows: {error}") from error
    if not isinstance(found, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise FaultError(Fault.HSM_KEY, f"the token's key is a {type(found).__name__}")
    return found
