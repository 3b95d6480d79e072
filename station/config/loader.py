"""YAML to plain values, with the line of each key; and validation errors to sentences with file, line and key.

PyYAML silently keeps the last of two equal keys, reads ``NO`` as False and ``22:30`` as 1350. Duplicates are refused
here, the rest by strict models behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from station.faults import Fault, FaultError, printable
from station.model import NAME

_MAX_BYTES = 1024 * 1024
_MAX_PROBLEMS = 50
_SECRET_WORDS = ("pin", "password", "passphrase", "secret", "private_key")

Model = TypeVar("Model", bound=BaseModel)
Location: TypeAlias = tuple[int | str, ...]


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """A relative path is meant from the file that names it, wherever the command is run."""
    return (info.context or Path()) / path


FilePath: TypeAlias = Annotated[Path, AfterValidator(_beside_the_file)]
Name: TypeAlias = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class ConfigError(FaultError):
    """Every mistake that was found: ``problems`` are sentences that name file, line and key."""

    def __init__(self, problems: Sequence[str], fault: Fault = Fault.CONFIG) -> None:
        self.problems = tuple(printable(problem, 600) for problem in problems[:_MAX_PROBLEMS])
        super().__init__(fault, "; ".join(self.problems))


class Strict(BaseModel):
    """No unknown keys, no conversions, no changes after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Document:
    """One file as read: plain values, and the line (from 1) on which each key or item stands."""

    path: Path
    value: Any
    lines: Mapping[Location, int] = field(repr=False)

    def problem(self, where: Location, text: str) -> str:
        """``text`` with file, line and key in front; the nearest known line above where the key itself is missing."""
        known = where
        while known and known not in self.lines:
            known = known[:-1]
        key = ".".join(str(part) for part in where)
        return f"{self.path}:{self.lines.get(known, 1)}: {key + ': ' if key else ''}{text}"


def read(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        ConfigError: unreadable, too big, no YAML, keys twice, aliases, or a secret written in it.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    if len(raw) > _MAX_BYTES:
        raise ConfigError([f"{path}: is larger than {_MAX_BYTES} bytes; a settings file is a few kilobytes"])
    reader = _Reader(path)
    try:
        node = yaml.compose(raw.decode("utf-8"), Loader=yaml.SafeLoader)
        value = reader.value(node, ()) if node is not None else None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 at byte {error.start}"]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(
            [f"{path}:{mark.line + 1 if mark else 1}: no YAML: {error.problem or error.context}"]
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([f"{path}:1: no YAML: {type(error).__name__}"]) from error
    document = Document(path, value, reader.lines)
    if reader.problems:
        raise ConfigError([document.problem(where, text) for where, text in reader.problems])
    if not isinstance(value, dict):
        raise ConfigError([f"{path}:1: should hold `key: value` lines"])
    return document


class _Reader:
    """Builds plain values from YAML nodes and remembers where they stood."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scalars = yaml.SafeLoader("")
        self._seen: set[int] = set()
        self.lines: dict[Location, int] = {(): 1}
        self.problems: list[tuple[Location, str]] = []

    def value(self, node: yaml.Node, where: Location) -> Any:
        self.lines.setdefault(where, node.start_mark.line + 1)
        if id(node) in self._seen:
            self.problems.append((where, "is an alias (`*`); write the value out"))
            return None
        self._seen.add(id(node))
        match node:
            case yaml.MappingNode():
                return self._mapping(node, where)
            case yaml.SequenceNode():
                return [self.value(item, (*where, index)) for index, item in enumerate(node.value)]
        found = self._scalars.construct_object(node)
        if not isinstance(found, str | int | float | bool | None):
            self.problems.append((where, f"YAML reads this as {type(found).__name__}; put it in quotes"))
        return found

    def _mapping(self, node: yaml.MappingNode, where: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalars.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self.problems.append((where, f"line {key_node.start_mark.line + 1}: a key should be a word"))
                continue
            here = (*where, key)
            if key in found:
                line = key_node.start_mark.line + 1
                self.problems.append((here, f"stands twice, again in line {line}; keep one"))
                continue
            self.lines[here] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, here)
            if key in _SECRET_WORDS and isinstance(value_node, yaml.ScalarNode):
                self.problems.append(
                    (here, "a secret must not stand in a settings file; name a 0600 `file` or a systemd `credential`")
                )
                found[key] = None
        return found


def validate(document: Document, model: type[Model]) -> Model:
    """The document as a model, or a `ConfigError` with every mistake in it.

    It is read as JSON: there a path and a word of an enumeration are strings, and nothing else is converted.
    """
    return validate_within(document, (), model)


def validate_within(document: Document, where: Location, model: type[Model]) -> Model:
    """As `validate`, for what stands at one place of the document; nothing there is an empty mapping."""
    value = document.value
    for key in where:
        value = value.get(key, {})
    try:
        return model.model_validate_json(json.dumps(value), context=document.path.parent)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise ConfigError([_sentence(document, where, model, one) for one in found]) from error


def _sentence(document: Document, within: Location, model: type[BaseModel], error: Any) -> str:
    where = _written(document, (*within, *error["loc"]))
    match error["type"]:
        case "extra_forbidden":
            near = get_close_matches(str(where[-1]), _fields(model), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return document.problem(where, f"no such key{hint}")
        case "missing":
            return document.problem(where, "is missing")
        case "value_error":
            return document.problem(where, str(error["ctx"]["error"]))
    written = error.get("input")
    shown = "" if isinstance(written, dict | list) else f"; it says {written!r}{_yaml_trap(written)}"
    return document.problem(where, f"{error['msg']}{shown}")


def _written(document: Document, location: Location) -> Location:
    """The location without the tags of unions, which stand in no file."""
    where: Location = ()
    for index, part in enumerate(location):
        if (*where, part) in document.lines or index == len(location) - 1:
            where = (*where, part)
    return where


def _yaml_trap(value: object) -> str:
    if isinstance(value, bool):
        return " (YAML reads yes, no, on, off as true or false; put the word in quotes)"
    if isinstance(value, int):
        return " (YAML reads 22:30 as 1350; put it in quotes if it is no number)"
    return ""


def _fields(model: type[BaseModel]) -> list[str]:
    """Every key that the model and the models within it know."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        names.append(name)
        for inner in _models(info.annotation):
            names += _fields(inner)
    return names


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]
