"""Act `seal`: the station's own signing key is made in the token, apart from the CA's."""

from __future__ import annotations

from pathlib import Path

from station.ceremony.session import Session, latch_of, own_key, pin_source, signers_of
from station.config.acts import ActSeal, SealAct
from station.hsm.uri import KeyUri
from station.seal import Seal, read_public, verify


def plan(act: SealAct) -> list[str]:
    """What the act will do."""
    return [
        f"make a {act.key_type.value} key in the token: {act.key}",
        "sign with it once, and verify that",
        f"write its public half to {act.outputs.public}",
    ]


def perform(act: SealAct, session: Session) -> bool:
    """Perform it; complete when this returns."""
    journal = session.journal
    key = own_key(act, session, lambda maker: maker.generate(act.key_type, again=True))
    session.step("key", f"the seal's key is in the token: {key}")
    public = journal.facts["public_key"]
    if not journal.stepped("trial"):
        with signers_of(act, key) as signers:
            journal.add(token=signers.describe())
        with seal_of(act, key, public) as seal:
            verify(public.encode(), b"trial", seal.sign(b"trial"))
            session.step("trial", f"it signs, and its public half verifies that: seal {seal.id}")
    journal.write_output("public", public)
    session.step("written", f"the seal's public key is written: {act.outputs.public}")
    return True


def named(seal: ActSeal, state: Path) -> Seal:
    """The seal that an act's file names. Raises `Fault.CONFIG` where its public key cannot be read."""
    return Seal(KeyUri.parse(seal.key), read_public(seal.public), pin_source(seal.pin), state / "pin-latch")


def seal_of(act: SealAct, key: KeyUri, public: str) -> Seal:
    """The seal that this act made."""
    return Seal(key, public.encode(), pin_source(act.pin), latch_of(act))
