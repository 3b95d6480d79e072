"""``python -m station.config`` writes what is generated; with ``--check`` it fails where a file differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from station.config.activator import ActivatorFile
from station.config.acts import CeremonyFile
from station.config.messages import LANGUAGES, Messages
from station.config.products import ProductFile
from station.config.settings import StationFile
from station.config.slots import MapFile
from station.faults import Blame, Fault
from station.model import Outcome

_ROOT = Path(__file__).parent.parent.parent
_LAMPS = ("empty", "running", *Outcome, "andon", "out", "no station")


def generated() -> dict[Path, str]:
    """Each generated file, by its path from the top of the checkout, with its text."""
    return {
        Path("config/station.schema.json"): _schema(StationFile),
        Path("config/product.schema.json"): _schema(ProductFile),
        Path("config/jig.schema.json"): _schema(MapFile),
        Path("config/activator.schema.json"): _schema(ActivatorFile),
        Path("config/ceremony.schema.json"): _schema(CeremonyFile),
        Path("docs/operator.md"): _card(),
    }


def _schema(model: type[BaseModel]) -> str:
    return json.dumps(model.model_json_schema(), indent=2) + "\n"


def _card() -> str:
    """The operator's card: each language a half, lamps first, then each fault with what to do."""
    lines = ["<!-- Generated from station/faults.py and config/messages/ by `make docs`. -->"]
    for language in LANGUAGES:
        lines += _half(Messages.load(language))
    return "\n".join(lines) + "\n"


def _half(messages: Messages) -> list[str]:
    word = messages.word
    lines = ["", f"# {word('card')}", "", f"| {word('lamp')} | {word('meaning')} | {word('do')} |", "|---|---|---|"]
    lines += [f"| {word(f'lamp {state}')} | {word(state)} | {word(f'do {state}')} |" for state in _LAMPS]
    lines += ["", word("other lamps")]
    for blame in Blame:
        head = f"## {next(fault.code[0] for fault in Fault if fault.blame is blame)}: {word(blame.value)}"
        lines += ["", head, "", f"| {word('code')} | {word('happened')} | {word('do')} |", "|---|---|---|"]
        lines += [
            f"| {fault.code} | {messages.title(fault)} | {messages.remedy(fault)} |"
            for fault in Fault
            if fault.blame is blame
        ]
    return lines


def main() -> int:
    """Write or compare; the exit code is 1 where a comparison fails."""
    stale = []
    for path, text in generated().items():
        file = _ROOT / path
        if "--check" not in sys.argv[1:]:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(str(path))
    if stale:
        print(f"not as generated: {', '.join(stale)}; next: make docs", file=sys.stderr)  # noqa: T201 - a command
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
