"""The provider's acts, a module each: every one is described by one reviewed file and may be interrupted anywhere.

A journal in the act's state folder says how far it came, and the same file goes on from there: there is never a second
key, a second CA or a second registration. When an act is complete its minutes are written and sealed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from station.ceremony import importing, issuing, minutes, register, root, rotate
from station.ceremony import seal as sealing
from station.ceremony.journal import Journal, make_folder, now
from station.ceremony.session import People, Session
from station.config.acts import ActFile, AnyAct, RegisterAct, RetireAct, RotateAct, SealAct
from station.faults import Fault, FaultError
from station.hsm.uri import KeyUri
from station.ledger import CeremonyRow, note_ceremony
from station.seal import Seal

__all__ = ["People", "perform", "plan", "undo"]


@dataclass(frozen=True)
class _Act:
    plan: Callable[[Any], list[str]]
    perform: Callable[[Any, Session], bool]
    undo: Callable[[Any, Session], None] | None = None


_ACTS = {
    "root": _Act(root.plan, root.perform),
    "issuing": _Act(issuing.plan, issuing.perform),
    "import": _Act(importing.plan, importing.perform),
    "register": _Act(register.plan, register.perform, register.undo),
    "rotate": _Act(rotate.plan, rotate.perform_rotate, rotate.undo),
    "retire": _Act(rotate.plan, rotate.perform_retire, rotate.undo),
    "seal": _Act(sealing.plan, sealing.perform),
}


def plan(act: AnyAct, *, undoing: bool = False) -> list[str]:
    """What the act will do, in sentences, before anything is done."""
    kind = "REHEARSAL of the act" if act.rehearsal else "Act"
    seal = "sealed" if act.seal or isinstance(act, SealAct) else "NOT sealed, for the file names no seal"
    if undoing:
        return [
            f"UNDO of the {kind.lower() if not act.rehearsal else kind} {act.act}:",
            f"  1. {_undo_plan(act)}",
            f"  2. write minutes of it, {seal}, and put the act's outputs with them into a folder undone-...",
        ]
    done = _ACTS[act.act].plan(act)
    done = [*done, f"write the minutes, {seal}, to {act.outputs.minutes} and .json"]
    return [f"{kind} {act.act}:", *(f"  {index}. {line}" for index, line in enumerate(done, 1))]


def perform(act: AnyAct, file: Path, people: People) -> bool:
    """Perform the act, or go on with it, and say each thing done.

    Returns:
        Whether it is complete; False where it waits for somebody else, and is to be performed again then.

    Raises:
        FaultError: `Fault.CEREMONY` where an output exists already or another file's act was begun here; else what
            token, files or AWS had against it. Nothing is half done that a repetition would not complete.
    """
    journal = _journal(act, file)
    if journal.undoing:
        raise FaultError(Fault.CEREMONY, f"the undo of {file} was interrupted; go on with it: --undo")
    if journal.done:
        people.say(f"this act is complete: {', '.join(str(path) for path in act.outputs.paths().values())}")
        return True
    journal.begin()
    journal.sitting(people.by, people.witnesses)
    session = Session(journal, people, file)
    try:
        complete = _ACTS[act.act].perform(act, session)
    except FaultError:
        if not journal.committed:
            journal.forget()  # a corrected file begins anew
        raise
    if not complete:
        return False
    _close(act, session, act.act)
    journal.add(done=now())
    people.say(f"complete; the minutes are written: {act.outputs.minutes}")
    return True


def undo(act: AnyAct, file: Path, people: People) -> None:
    """Take back what the act did at AWS IoT. May be repeated.

    Raises:
        FaultError: `Fault.CEREMONY` where it was not performed, or is none that AWS lets one take back.
    """
    journal = _journal(act, file)
    take_back = _ACTS[act.act].undo
    if take_back is None or not isinstance(act, RegisterAct | RotateAct | RetireAct):
        raise FaultError(
            Fault.CEREMONY,
            f"an act {act.act} is not undone: nobody trusts its key before `register`, and that is what is undone",
        )
    if not journal.begun:
        raise FaultError(Fault.CEREMONY, f"{file} was not performed here: there is nothing to undo")
    journal.sitting(people.by, people.witnesses)
    session = Session(journal, people, file)
    take_back(act, session)
    make_folder(journal.aside)
    _close(act, session, f"undo {act.act}", journal.aside)
    journal.put_aside()
    made = "key_wanted" in journal.facts  # a rotation's: the token holds a key of this name
    again = "to rotate again, name the new CA's registration" if made else "the same file may be performed anew"
    people.say(f"undone; outputs and minutes of both are in {journal.aside}; {again}")


def _journal(act: AnyAct, file: Path) -> Journal:
    # By the minutes: the same act, from wherever it is named, has the same journal.
    name = hashlib.sha256(str(act.outputs.minutes.resolve()).encode()).hexdigest()[:12]
    return Journal(act.state / f"ceremony-{act.act}-{name}.json", file, act.outputs.paths())


def _close(act: AnyAct, session: Session, name: str, folder: Path | None = None) -> None:
    """Minutes and the ledger's row: the act (or in ``folder`` its undo) is complete when both are on disk."""
    with _seal(act, session) as by:
        record = minutes.write(name, rehearsal=act.rehearsal, session=session, by=by, folder=folder)
    _note(act, session, name, record)


def _seal(act: AnyAct, session: Session) -> AbstractContextManager[Seal | None]:
    if isinstance(act, SealAct):
        facts = session.journal.facts
        return sealing.seal_of(act, KeyUri.parse(facts["uri"]), facts["public_key"])
    return nullcontext() if act.seal is None else sealing.named(act.seal, act.state)


def _note(act: ActFile, session: Session, name: str, record: dict[str, Any]) -> None:
    facts = session.journal.facts
    aws = record.get("aws") or {}
    row = CeremonyRow(
        id=facts["id"] if not name.startswith("undo") else f"{facts['id']}-undone",
        act=name,
        file_hash=facts["file"],
        performed_by=session.people.by,
        software=version("provisioning-station"),
        minutes_hash=record["minutes_sha256"],
        seal=record["seal"] or "",
        ca=str(aws.get("id", "")),
        began_at=datetime.fromisoformat(facts["began"]),
        ended_at=datetime.fromisoformat(record["ended"]),
    )
    note_ceremony(act.state / "ledger.sqlite", row, simulated=act.rehearsal)


def _undo_plan(act: AnyAct) -> str:
    match act:
        case RegisterAct():
            return (
                "set the CA INACTIVE in AWS IoT and delete it there; one that AWS IoT knew before gets its status and"
                " auto-registration back"
            )
        case RetireAct(reason="compromised"):
            return "give the CA its status and auto-registration back, though the act says that its key is COMPROMISED"
        case RotateAct() | RetireAct():
            return "give the old CA the status and auto-registration back that it had in AWS IoT"
    return "nothing: this act cannot be undone"
