"""What every act works with: its journal, who performs it, and the ways to tell and to ask them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_bytes
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from station.ceremony.journal import Journal, Say
from station.config.acts import TokenAct
from station.config.tokens import Pin
from station.faults import Fault, FaultError
from station.hsm.pin import PinSource
from station.hsm.signers import KeyMaker, Signers
from station.hsm.uri import KeyUri
from station.model import PublicKey

Confirm = Callable[[str, str], bool]


@dataclass(frozen=True)
class People:
    """Who performs an act, who watches, and how they are spoken to. ``confirm`` asks a person, and is the truth.

    It is given the question, and the word that means yes.
    """

    by: str
    say: Say
    confirm: Confirm
    witnesses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises `Fault.CEREMONY` where the operator is a witness too."""
        if self.by.casefold() in map(str.casefold, self.witnesses):
            raise FaultError(Fault.CEREMONY, f"{self.by} performs the act; the witness is somebody else")


@dataclass
class Session:
    """One go at one act. ``evidence`` is what the minutes tell beside the steps."""

    journal: Journal
    people: People
    file: Path
    evidence: dict[str, Any] = field(default_factory=dict)

    def step(self, name: str, text: str) -> None:
        """A step is done: on disk first, then said."""
        if self.journal.step(name, text):
            self.people.say(f"  {text}")

    def say(self, text: str) -> None:
        """Tell the people, and nobody else."""
        self.people.say(f"  {text}")


def pin_source(pin: Pin) -> PinSource:
    """The PIN that the file names."""
    return PinSource(credential=pin.credential, file=pin.file)


def latch_of(act: TokenAct) -> Path:
    """Where a wrong PIN of this act is noted."""
    return act.state / "pin-latch"


def signers_of(act: TokenAct, key: KeyUri) -> AbstractContextManager[Signers]:
    """The children that sign with the act's key."""
    return Signers(key, pin_source(act.pin), latch_of(act), processes=1)


def own_key(act: TokenAct, session: Session, make: Callable[[KeyMaker], PublicKey]) -> KeyUri:
    """The key that this act makes in the token, made once: its id is on disk before it exists.

    After a cut a key of that id can only be ours, whole or half, and ``make`` takes it or makes it anew.

    Raises:
        FaultError: `Fault.CEREMONY` where the token held a key of this name before; any C fault.
    """
    key = KeyUri.parse(act.key)
    if key.object is None:
        raise FaultError(Fault.CEREMONY, "the act makes a key, so its URI says object=LABEL")
    journal = session.journal
    key_id = journal.facts.get("key_wanted") or (key.id or token_bytes(16)).hex()
    key = replace(key, id=bytes.fromhex(key_id))
    if "public_key" in journal.facts:
        return key
    with KeyMaker(key, pin_source(act.pin), latch_of(act)) as maker:
        if "key_wanted" not in journal.facts:
            if maker.named_alike():
                raise FaultError(Fault.CEREMONY, f"the token holds a key of this name already: {act.key}")
            journal.add(key_wanted=key_id, uri=str(key))
        try:
            journal.add(public_key=public_pem(make(maker)))
        except FaultError:
            if not maker.named_alike():
                journal.forget()  # nothing came of it: a corrected file begins anew
            raise
    return key


def own_public(session: Session) -> PublicKey:
    """The public half of what `own_key` made."""
    found = load_pem_public_key(session.journal.facts["public_key"].encode())
    if isinstance(found, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return found
    raise FaultError(Fault.CEREMONY, f"the journal holds a {type(found).__name__}; compare it with the token by hand")


def public_pem(public: PublicKey) -> str:
    """A public key as PEM text."""
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
