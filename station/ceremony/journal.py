"""How far an act came: a small JSON file, replaced whole, and synced before anything that it announces.

What was made once is kept in it (certificates, minutes: nothing secret), so an act that was cut goes on with the very
same bytes. A file that an act wrote is known again by its hash; any other that stands in its place is never touched.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from station import disk
from station.faults import Fault, FaultError

Say: TypeAlias = Callable[[str], None]
_MAX_JOURNAL: Final = 1024 * 1024


class Journal:
    """One act's journal. ``outputs`` are the files that the act is to leave."""

    def __init__(self, path: Path, file: Path, outputs: Mapping[str, Path]) -> None:
        self._path, self._outputs = path, outputs
        self._file_hash = hashlib.sha256(file.read_bytes()).hexdigest()
        self.facts: dict[str, Any] = self._read()
        if self.facts and self.facts.get("file") != self._file_hash:
            raise FaultError(Fault.CEREMONY, f"{path} belongs to another version of this file; restore that one")
        self._refuse_foreign_outputs()

    @property
    def begun(self) -> bool:
        """Whether anything was done already."""
        return bool(self.facts)

    @property
    def done(self) -> bool:
        """Whether the act is complete."""
        return "done" in self.facts

    @property
    def undoing(self) -> bool:
        """Whether it may be taken back at AWS IoT already, and the undo has still to come to its end."""
        return "undo_began" in self.facts or (self.begun and self.stepped("undone"))

    @property
    def committed(self) -> bool:
        """Whether something may be in the world that only this journal knows of: key, output, or AWS IoT's record."""
        outputs = any(name.startswith("output ") for name in self.facts.get("kept", {}))
        return outputs or bool({"key_wanted", "known_before", "switching"} & self.facts.keys())

    def begin(self) -> None:
        """Open the journal; one that is open stays as it is."""
        if not self.facts:
            self._save({"file": self._file_hash, "id": uuid.uuid4().hex, "began": now(), "steps": [], "kept": {}})

    def add(self, **facts: object) -> None:
        """Put facts on disk. Those that stand there already stay: they were chosen once."""
        fresh = {name: value for name, value in facts.items() if name not in self.facts}
        if fresh:
            self._save({**self.facts, **fresh})

    def step(self, name: str, text: str) -> bool:
        """Note that a step is done, with its result; returns whether it is new."""
        if self.stepped(name):
            return False
        self._save({**self.facts, "steps": [*self.facts["steps"], {"name": name, "result": text, "at": now()}]})
        return True

    def sitting(self, by: str, witnesses: tuple[str, ...]) -> None:
        """Note who performs it now."""
        who = {"by": by, "witnesses": list(witnesses), "at": now()}
        self._save({**self.facts, "sittings": [*self.facts.get("sittings", []), who]})

    def keep(self, name: str, make: Callable[[], str]) -> str:
        """What was made under this name: now, or when it was made first."""
        if name not in self.facts["kept"]:
            made = make()
            self._save({**self.facts, "kept": {**self.facts["kept"], name: made}})
        return str(self.facts["kept"][name])

    def kept(self, name: str) -> str:
        """What was made under this name, or nothing yet."""
        return str(self.facts["kept"].get(name, ""))

    def stepped(self, name: str) -> bool:
        """Whether the step is done."""
        return any(step["name"] == name for step in self.facts["steps"])

    @property
    def aside(self) -> Path:
        """The folder where everything of an act that was undone stays, beside its minutes."""
        return self._outputs["minutes"].parent / f"undone-{self.facts['id'][:8]}"

    def write_output(self, name: str, content: str, path: Path | None = None) -> None:
        """Note what the output will be, then write it whole and synced: to its place, or to ``path``.

        Raises:
            FaultError: `Fault.CEREMONY` where somebody's file came to stand there meanwhile.
        """
        noted = self.keep(f"output {name}", lambda: hashlib.sha256(content.encode()).hexdigest())
        path = path or self._outputs[name]
        if not path.exists():
            write_whole(path, content.encode(), 0o644)
        elif hashlib.sha256(_bounded(path)).hexdigest() != noted:
            raise _foreign(path)

    def output_hashes(self) -> dict[str, str]:
        """Hex SHA-256 of each output that is written, by its file's name."""
        kept = self.facts["kept"]
        return {path.name: kept[f"output {name}"] for name, path in self._outputs.items() if f"output {name}" in kept}

    def forget(self) -> None:
        """Undo `begin` where nothing came of it."""
        self._path.unlink(missing_ok=True)
        self.facts = {}

    def put_aside(self) -> None:
        """After an undo: outputs and minutes go to `aside`, for they are evidence; the act may be performed anew."""
        for name, path in self._outputs.items():
            if f"output {name}" in self.facts["kept"] and path.exists():
                self._move(path, name)
        self._path.rename(self._path.with_name(f"{self._path.stem}-undone-{self.facts['id'][:8]}.json"))
        disk.sync(self._path.parent)

    def _move(self, path: Path, name: str) -> None:
        target = self.aside / path.name
        try:
            shutil.move(path, target if not target.exists() else self.aside / f"{name}-{path.name}")
            for folder in (self.aside, self.aside.parent, path.parent):
                disk.sync(folder)
        except OSError as error:
            raise FaultError(Fault.CEREMONY, f"{path} cannot be put aside: {error.strerror}") from error

    def _refuse_foreign_outputs(self) -> None:
        kept = self.facts.get("kept", {})
        for name, path in self._outputs.items():
            if not path.exists():
                if self.done and not self.undoing:
                    raise FaultError(
                        Fault.CEREMONY,
                        f"this act was completed on {self.facts['done']}, but {path} is gone; restore it",
                    )
            elif hashlib.sha256(_bounded(path)).hexdigest() != kept.get(f"output {name}"):
                raise _foreign(path)

    def _read(self) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads(_bounded(self._path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise FaultError(Fault.CEREMONY, f"the journal {self._path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise FaultError(
                Fault.CEREMONY, f"the journal {self._path} is damaged; compare token and outputs by hand"
            ) from error
        return facts

    def _save(self, facts: dict[str, Any]) -> None:
        make_folder(self._path.parent)
        write_whole(self._path, json.dumps(facts, indent=2).encode(), 0o600)
        self.facts = facts


def _foreign(path: Path) -> FaultError:
    return FaultError(Fault.CEREMONY, f"{path} exists already; an act never overwrites")


def make_folder(folder: Path) -> None:
    """Make it, where it is not there. Raises `Fault.CEREMONY`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FaultError(Fault.CEREMONY, f"{folder} cannot be made: {error.strerror}") from error


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_JOURNAL)


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """`disk.put`, for an act: after a loss of power there is the old file or the new one.

    Raises:
        FaultError: `Fault.CEREMONY`.
    """
    try:
        disk.put(path, content, mode)
    except OSError as error:
        raise FaultError(Fault.CEREMONY, f"{path} cannot be written: {error.strerror}") from error
