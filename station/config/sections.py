"""Sections of a settings file, written anew: every other line of it, its comments with them, stays as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from station.config.loader import read, validate, validate_within
from station.config.products import ProductFile
from station.config.settings import Aws
from station.config.tokens import Hsm

__all__ = ["check_product", "read_token", "with_sections"]


def read_token(path: Path) -> tuple[Hsm, Path]:
    """The token's settings and the state folder, of a file whose other parts may still be wrong.

    Raises:
        ConfigError: the file cannot be read, or says nothing right about the token.
    """
    document = read(path)
    return validate_within(document, ("hsm",), Hsm), path.parent / str(document.value.get("state"))


def check_product(path: Path) -> str:
    """The name of the product that a file describes. Raises `ConfigError` where it is none."""
    name: str = validate(read(path), ProductFile).name
    return name


def with_sections(path: Path, ca: Mapping[str, Any], aws: Mapping[str, Any]) -> str:
    """The file's text with its `ca` section replaced, and with the named keys of its `aws` section.

    `aws.activation.feed` stays where the provider activates before and after.

    Raises:
        ConfigError: the file cannot be read.
    """
    document = read(path)
    old = document.value.get("aws")
    kept = {key: value for key, value in (old if isinstance(old, dict) else {}).items() if key in Aws.model_fields}
    kept.pop("server_roots_for", None)
    kept.pop("simulator", None)
    sections = {"ca": dict(ca), "aws": {**kept, **aws, **_with_feed(kept.get("activation"), aws.get("activation"))}}
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("{"):  # JSON, which is YAML too
        return json.dumps({**document.value, **sections}, indent=2) + "\n"
    lines = text.splitlines()
    for name, value in sections.items():
        lines = _replaced(lines, name, yaml.safe_dump({name: value}, sort_keys=False).splitlines())
    return "\n".join(lines) + "\n"


def _with_feed(old: Any, new: Any) -> dict[str, Any]:
    """Where the provider goes on activating, the feed by which it learns of units is the station's own, and stays."""
    if isinstance(old, dict) and isinstance(new, dict) and old.get("by") == new.get("by") == "provider":
        return {"activation": {**new, **{name: value for name, value in old.items() if name == "feed"}}}
    return {}


def _replaced(lines: list[str], name: str, fresh: list[str]) -> list[str]:
    """The block that begins with ``name:`` in the first column, up to the next thing that begins there."""
    begins = [index for index, line in enumerate(lines) if line.startswith(f"{name}:")]
    if not begins:
        return [*lines, "", *fresh]
    first = begins[0]
    ends = [index for index, line in enumerate(lines) if index > first and line[:1] not in {"", " ", "\t"}]
    last = ends[0] if ends else len(lines)
    while last > first + 1 and not lines[last - 1].strip():
        last -= 1
    return [*lines[:first], *fresh, *lines[last:]]
