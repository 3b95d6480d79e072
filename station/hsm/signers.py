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
from cryptography.hazmat.primitives.serialization import load_der_public_key

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


def generate_key(key: KeyUri, pin: PinSource, latch_folder: Path, key_type: KeyType) -> PublicKey:
    """Make the CA's key pair in the token, under the URI's label and id; returns the public half.

    Raises:
        FaultError: `Fault.HSM_KEY` where a key of this name exists; `Fault.HSM_KEY_ATTRIBUTES` where the token made
            it otherwise than told (it is destroyed again); any other C fault.
    """
    answer = _once(key, pin, latch_folder, {"do": "generate", "key_type": key_type.value}, write=True)
    return _public(answer["public"])


def find_public_key(key: KeyUri, pin: PinSource, latch_folder: Path) -> PublicKey | None:
    """The public half of the key that the URI names; None where the token holds none of this name."""
    answer = _once(key, pin, latch_folder, {"do": "find"}, write=False)
    return _public(answer["public"]) if answer["public"] else None


def _once(key: KeyUri, pin: PinSource, latch_folder: Path, order: dict[str, Any], *, write: bool) -> dict[str, Any]:
    deadline = time.monotonic() + _GENERATE_S
    child = _Child(key, pin, latch_folder, deadline, write=write)
    try:
        return child.ask(order, deadline)
    finally:
        child.kill()


def _public(text: str) -> PublicKey:
    try:
        found = load_der_public_key(bytes.fromhex(text))
    except ValueError as error:
        raise FaultError(Fault.HSM_KEY, f"the token's public key is none that the station knows: {error}") from error
    if not isinstance(found, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise FaultError(Fault.HSM_KEY, f"the token's key is a {type(found).__name__}")
    return found
