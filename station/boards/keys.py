"""Keys that take long to make are made ahead, for boards that are given theirs: RSA, by a thread, in memory alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from station.model import KeyType, PrivateKey

_DEPTH: Final = 8  # keys of a type: half of a gang of sixteen, a second of a core's time
_IDLE_S: Final = 600.0
_ON_THE_SPOT: Final = frozenset({KeyType.P256, KeyType.P384})  # 0.02 ms and 0.2 ms; RSA-2048 takes 56, RSA-4096 471


def make_key(key_type: KeyType) -> PrivateKey:
    """A fresh key. RSA's generation runs beside other threads: it lets go of the interpreter's lock."""
    match key_type:
        case KeyType.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyType.RSA2048 | KeyType.RSA3072 | KeyType.RSA4096:
            return rsa.generate_private_key(public_exponent=65_537, key_size=int(key_type.removeprefix("rsa")))


class KeysAhead:
    """Hands keys out, each once. Safe from any thread.

    Nothing is made before a first key of its type was asked for, so a station that needs no RSA makes none. What nobody
    asked for during ``idle_s`` is let go of: freed memory is overwritten (ADR 0004). Nothing is ever on a disk.
    """

    def __init__(
        self, depth: int = _DEPTH, idle_s: float = _IDLE_S, make: Callable[[KeyType], PrivateKey] = make_key
    ) -> None:
        self._depth, self._idle_s, self._make = depth, idle_s, make
        self._changed = threading.Condition()
        self._keys: dict[KeyType, list[PrivateKey]] = {}
        self._asked = time.monotonic()
        self._worker: threading.Thread | None = None

    def take(self, key_type: KeyType) -> PrivateKey:
        """A key that nobody else gets: one made ahead where there is one, else one made now."""
        if key_type in _ON_THE_SPOT:
            return self._make(key_type)
        with self._changed:
            self._asked = time.monotonic()
            waiting = self._keys.setdefault(key_type, [])
            key = waiting.pop() if waiting else None
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="keys", daemon=True)
                self._worker.start()
            self._changed.notify_all()
        return key or self._make(key_type)

    def ahead(self, key_type: KeyType) -> int:
        """How many keys of a type wait."""
        with self._changed:
            return len(self._keys.get(key_type, ()))

    def _work(self) -> None:
        """Fill up, one key at a time and each type in turn; end, with nothing left, once nobody asks any more."""
        while True:
            with self._changed:
                while (wanted := self._lacking()) is None:
                    left = self._asked + self._idle_s - time.monotonic()
                    if left <= 0:
                        self._keys.clear()
                        self._worker = None
                        return
                    self._changed.wait(left)
            key = self._make(wanted)
            with self._changed:
                self._keys.setdefault(wanted, []).append(key)
            del key

    def _lacking(self) -> KeyType | None:
        fewest = min(self._keys, key=lambda one: len(self._keys[one]), default=None)
        return fewest if fewest is not None and len(self._keys[fewest]) < self._depth else None


KEYS: Final = KeysAhead()  # one for all slots of this process
