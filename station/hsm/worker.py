"""The token's child process: the only importer of ``pkcs11``. One thread, one session; it may be killed at any time.

It is told what to do by frames on its standard input (a socket) and is silent elsewhere. A module that hangs or
crashes takes this process along and nothing else.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, TokenFlag
from pkcs11 import exceptions as p11
from pkcs11.util import ec, rsa

from station.faults import Fault, FaultError
from station.hsm.frames import Broken, receive, send
from station.hsm.pin import PinLatch, PinSource
from station.hsm.uri import KeyUri

if TYPE_CHECKING:
    from station.hsm.key_file import FoundKey

_TOKEN_TRIES: Final = 5
_TOKEN_WAIT_S: Final = 0.05
_MECHANISMS: Final = {"ecdsa": Mechanism.ECDSA, "rsa-pkcs": Mechanism.RSA_PKCS}

_NO_TRY: Final = {
    TokenFlag.USER_PIN_LOCKED: "the PIN is locked",
    TokenFlag.USER_PIN_FINAL_TRY: "one more wrong PIN locks it",
}

# What every CA key must be, whoever made it. The rest is demanded of keys that we make.
_REQUIRED: Final = {"SENSITIVE": True, "EXTRACTABLE": False, "SIGN": True}
_MADE: Final = {
    "TOKEN": True,
    "PRIVATE": True,
    "SENSITIVE": True,
    "SIGN": True,
    "EXTRACTABLE": False,
    "DECRYPT": False,
    "UNWRAP": False,
    "DERIVE": False,
    "SIGN_RECOVER": False,
}
_CURVES: Final = {"p256": "secp256r1", "p384": "secp384r1"}
_RSA_BITS: Final = {"rsa2048": 2048, "rsa3072": 3072, "rsa4096": 4096}


class Token:
    """One logged-in session on the token that a URI names."""

    def __init__(self, key: KeyUri, pin: PinSource, latch: PinLatch, *, write: bool) -> None:
        self._uri = key
        latch.check()
        self.module = _load(key)
        self.token = _find_token(self.module, key)
        self.session = self._log_in(pin, latch, write=write)
        self.key: Any = None  # that signs, once it has signed

    def _log_in(self, pin: PinSource, latch: PinLatch, *, write: bool) -> Any:
        secret = pin.read()
        # As they were before this login: a right PIN makes the token forget the wrong ones.
        self.flags_before = self.token.flags
        for flag, said in _NO_TRY.items():
            if self.flags_before & flag:
                raise FaultError(Fault.PIN_LOCKED, f"token {self._uri.token} says: {said}; no try was made")
        with latch.armed():
            try:
                return self.token.open(rw=write, user_pin=secret)
            except (p11.PinIncorrect, p11.PinLocked, p11.PinExpired, p11.PinInvalid, p11.PinLenRange) as error:
                # On disk before anybody may hear of it: whoever restarts us must not try again.
                latch.set(f"the token said {type(error).__name__}")
                raise FaultError(
                    Fault.HSM_PIN,
                    f"token {self._uri.token}: {type(error).__name__}; one try was made, no other will be",
                ) from None

    def objects(self, kind: ObjectClass) -> list[Any]:
        """The keys of that class that the URI fits."""
        wanted: dict[Attribute, Any] = {Attribute.CLASS: kind}
        if self._uri.object is not None:
            wanted[Attribute.LABEL] = self._uri.object
        if self._uri.id is not None:
            wanted[Attribute.ID] = self._uri.id
        return list(self.session.get_objects(wanted))

    def named_alike(self) -> bool:
        """Whether any key here has the URI's label."""
        return any(
            list(self.session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: self._uri.object}))
            for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
        )

    def private_key(self) -> Any:
        """The one private key that the URI names, protected as a CA key must be."""
        found = self.objects(ObjectClass.PRIVATE_KEY)
        if len(found) != 1:
            raise FaultError(Fault.HSM_KEY, f"{len(found)} private keys in token {self._uri.token} fit {self._uri}")
        _demand(found[0], _REQUIRED)
        return found[0]

    def public_key(self) -> bytes | None:
        """DER of the public key (SubjectPublicKeyInfo, or PKCS #1 for RSA); None where neither half is there."""
        private, public = self.objects(ObjectClass.PRIVATE_KEY), self.objects(ObjectClass.PUBLIC_KEY)
        if not private and not public:
            return None
        if len(private) != 1 or len(public) != 1:
            raise FaultError(
                Fault.HSM_KEY,
                f"{len(private)} private and {len(public)} public keys fit {self._uri}; one each is right",
            )
        _demand(private[0], _REQUIRED)
        return _encoded(public[0])

    def generate(self, key_type: str, *, again: bool) -> bytes:
        """Make the key pair, read it back, and destroy it again where the token made it other than it was told."""
        return self._made(lambda: self._generate(key_type), again=again)

    def take_in(self, key: FoundKey, *, again: bool) -> bytes:
        """Put a key that was made elsewhere into the token, for good."""
        names = {Attribute.ID: self._uri.id, Attribute.LABEL: self._uri.object, Attribute.TOKEN: True}

        from station.hsm import key_file  # noqa: PLC0415 - slow to load, and only a ceremony wants it

        def create() -> tuple[Any, Any]:
            public, private = key_file.objects(key)
            made = self.session.create_object({**public, **names, Attribute.PRIVATE: False})
            # Unstated attributes default to True on some tokens (hsm.md).
            told = {getattr(Attribute, name): value for name, value in _MADE.items()}
            return made, self.session.create_object({**private, **names, **told})

        return self._made(create, again=again)

    def _made(self, make: Callable[[], tuple[Any, Any]], *, again: bool) -> bytes:
        """``again``: the URI's id is the caller's own, so a pair of it is what an earlier try made, or half of that."""
        private, public = self.objects(ObjectClass.PRIVATE_KEY), self.objects(ObjectClass.PUBLIC_KEY)
        if (private or public) and not (again and self._uri.id):
            raise FaultError(Fault.HSM_KEY, f"the token holds a key of this name already: {self._uri}")
        if max(len(private), len(public)) > 1:
            raise FaultError(Fault.HSM_KEY, f"several keys in the token fit {self._uri}; one each is right")
        if private and public:
            made, secret = public[0], private[0]  # by a try that was cut before it looked
        else:
            for half in (*private, *public):
                half.destroy()
            made, secret = make()
        try:
            _demand(secret, _MADE)
        except FaultError:
            secret.destroy()
            made.destroy()
            raise
        return _encoded(made)

    def _generate(self, key_type: str) -> tuple[Any, Any]:
        common = {
            "id": self._uri.id,
            "label": self._uri.object,
            "store": True,
            "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
            # Unstated attributes default to True on some tokens (hsm.md).
            "private_template": {getattr(Attribute, name): value for name, value in _MADE.items()},
        }
        if key_type in _CURVES:
            curve = {Attribute.EC_PARAMS: ec.encode_named_curve_parameters(_CURVES[key_type])}
            parameters = self.session.create_domain_parameters(KeyType.EC, curve, local=True)
            made: tuple[Any, Any] = parameters.generate_keypair(mechanism=Mechanism.EC_KEY_PAIR_GEN, **common)
        else:
            made = self.session.generate_keypair(KeyType.RSA, _RSA_BITS[key_type], **common)
        return made

    def describe(self) -> dict[str, Any]:
        """What an auditor wants to read about token and key."""
        key = self.private_key()
        return {
            "token": self.token.label,
            "serial": self.token.serial.decode(errors="replace").strip(),
            "manufacturer": self.token.manufacturer_id,
            "model": self.token.model,
            "wrong_pin_before": bool(self.flags_before & TokenFlag.USER_PIN_COUNT_LOW),
            "firmware": ".".join(str(part) for part in self.token.firmware_version),
            "attributes": {
                name: _read(key, name) for name in (*_MADE, "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL")
            },
        }


def _load(key: KeyUri) -> Any:
    if not Path(key.module_path).is_file():
        raise FaultError(Fault.HSM_MODULE, f"no file {key.module_path}; install the token's PKCS#11 module")
    try:
        return pkcs11.lib(key.module_path)
    except (p11.PKCS11Error, RuntimeError) as error:
        # A bare PKCS11Error with the loader's text is how the binding says that this is no such library.
        fault = Fault.HSM_MODULE if type(error) in {p11.PKCS11Error, RuntimeError} else Fault.HSM_DOWN
        raise FaultError(fault, f"{key.module_path}: {type(error).__name__} {error}") from error


def _find_token(module: Any, key: KeyUri) -> Any:
    """The token of that name. While another process logs in, SoftHSM's can look absent for a moment (hsm.md)."""
    wanted = {
        "label": key.token,
        "serial": key.serial,
        "manufacturer_id": key.manufacturer,
        "model": key.model,
    }
    for tries in range(_TOKEN_TRIES):
        if tries:
            time.sleep(_TOKEN_WAIT_S)
            module.reinitialize()
        found = [token for token in _tokens(module) if _fits(token, wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise FaultError(Fault.HSM_TOKEN, f"{len(found)} tokens fit {key}; add serial= to the URI")
    raise FaultError(Fault.HSM_TOKEN, f"no token called {key.token!r} is present in {key.module_path}")


def _tokens(module: Any) -> list[Any]:
    found = []
    for slot in module.get_slots(token_present=True):
        try:
            found.append(slot.get_token())
        except (p11.TokenNotPresent, p11.TokenNotRecognised):
            continue
    return found


def _fits(token: Any, wanted: dict[str, str | None]) -> bool:
    for name, value in wanted.items():
        has = getattr(token, name)
        has = has.decode(errors="replace") if isinstance(has, bytes) else has
        if value is not None and has.rstrip(" \0") != value:
            return False
    return True


def _demand(key: Any, wanted: dict[str, bool]) -> None:
    wrong = [f"{name} is {_read(key, name)}" for name, value in wanted.items() if _read(key, name) is not value]
    if wrong:
        raise FaultError(Fault.HSM_KEY_ATTRIBUTES, f"the key reads back otherwise than it must: {', '.join(wrong)}")


def _read(key: Any, name: str) -> Any:
    """One attribute; None where the token does not know it."""
    try:
        return key[getattr(Attribute, name)]
    except (p11.AttributeTypeInvalid, p11.AttributeSensitive):
        return None


def _encoded(public: Any) -> bytes:
    der: bytes = ec.encode_ec_public_key(public) if public.key_type is KeyType.EC else rsa.encode_rsa_public_key(public)
    return der


def _serve(channel: socket.socket) -> None:
    """Answer until the other end goes. The first frame says which token; later ones what to do with it."""
    token: Token | None = None
    while True:
        try:
            order = receive(channel)
        except Broken:
            return
        try:
            if token is None:
                token = _opened(order)
                answer: dict[str, Any] = {}
            else:
                answer = _answer(token, order)
        except FaultError as error:
            answer = {"fault": error.fault.code, "detail": error.detail}
        except p11.PKCS11Error as error:
            answer = {"fault": Fault.HSM_DOWN.code, "detail": f"the token says {type(error).__name__} {error}".strip()}
        send(channel, answer)


def _answer(token: Token, order: dict[str, Any]) -> dict[str, Any]:
    match order["do"]:
        case "sign":
            token.key = token.key or token.private_key()
            signature = token.key.sign(bytes.fromhex(order["data"]), mechanism=_MECHANISMS[order["mechanism"]])
            return {"signature": signature.hex()}
        case "find":
            found = token.public_key()
            return {"public": found.hex() if found else None}
        case "named-alike":
            return {"found": token.named_alike()}
        case "generate":
            return {"public": token.generate(order["key_type"], again=order["again"]).hex()}
        case "import":
            return {"public": token.take_in(_key_in_file(order), again=order["again"]).hex()}
    return token.describe()


def _source(order: dict[str, Any], what: str) -> PinSource:
    file = order[f"{what}_file"]
    return PinSource(credential=order[f"{what}_credential"], file=Path(file) if file else None)


def _key_in_file(order: dict[str, Any]) -> FoundKey:
    from station.hsm import key_file  # noqa: PLC0415 - as above

    wanted = order["passphrase_file"] or order["passphrase_credential"]
    key = key_file.read(Path(order["key_file"]), _source(order, "passphrase") if wanted else None)
    if key_file.public_der(key).hex() != order["public"]:
        raise FaultError(Fault.CA_MISMATCH, f"{order['key_file']} is not the key of the certificate beside it")
    return key


def _opened(order: dict[str, Any]) -> Token:
    key = KeyUri.parse(order["key"])
    pin = _source(order, "pin")
    return Token(key, pin, PinLatch(Path(order["latch"]), key), write=order["write"])


def main() -> None:
    """Close the doors behind us, then serve."""
    libc = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: even a hung module dies with the daemon
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no core, no ptrace, no /proc/self/mem for others
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the daemon to handle
    if os.getppid() != int(sys.argv[1]):
        return
    with socket.socket(fileno=0) as channel:
        _serve(channel)


if __name__ == "__main__":
    main()
