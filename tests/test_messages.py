"""What operators read exists for every fault, in each language, short enough for a lamp's line."""

from __future__ import annotations

from pathlib import Path

import pytest

from station.config.__main__ import generated
from station.config.messages import LANGUAGES, Messages
from station.faults import Fault

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_fault_has_its_own_title_and_a_remedy_and_nothing_else_has(language: str) -> None:
    messages = Messages.load(language)
    assert set(messages.faults) == {fault.code for fault in Fault}
    titles = [messages.title(fault) for fault in Fault]
    assert len(set(titles)) == len(titles)
    assert all(messages.remedy(fault)[-1] in ".)" or "station" in messages.remedy(fault) for fault in Fault)


def test_every_language_has_the_same_words() -> None:
    first, *others = (Messages.load(language) for language in LANGUAGES)
    for other in others:
        assert set(other.words) == set(first.words)


def test_vietnamese_is_vietnamese() -> None:
    english, vietnamese = Messages.load("en"), Messages.load("vi")
    for fault in Fault:
        assert not vietnamese.title(fault).isascii()
        assert not vietnamese.remedy(fault).isascii()
        assert vietnamese.title(fault) != english.title(fault)


def test_the_generated_files_are_as_generated() -> None:
    for path, text in generated().items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path}: next: make docs"


def test_the_operators_card_names_every_fault_once_a_language() -> None:
    card = (ROOT / "docs/operator.md").read_text(encoding="utf-8")
    for fault in Fault:
        assert card.count(f"| {fault.code} |") == len(LANGUAGES)
