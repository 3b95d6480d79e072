"""What operators read: title and remedy of each fault, and the words of lamp and page, a file a language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from station.config.loader import Strict, read, validate
from station.faults import Fault

LANGUAGES = ("en", "vi")

# Beside the package in a checkout; within it in a wheel (see pyproject.toml).
_FOLDERS = (Path(__file__).parent.parent.parent / "config" / "messages", Path(__file__).parent / "texts")


class _Text(Strict):
    title: Annotated[str, Field(min_length=1, max_length=60)]
    remedy: Annotated[str, Field(min_length=1, max_length=200)]


class MessagesFile(Strict):
    """``messages/<language>.yaml``."""

    words: dict[str, str]
    faults: dict[str, _Text]


@dataclass(frozen=True, slots=True)
class Messages:
    """One language's texts."""

    language: str
    words: Mapping[str, str]
    faults: Mapping[str, _Text]

    @staticmethod
    @cache
    def load(language: str) -> Messages:
        """Read the texts of one of `LANGUAGES`, once.

        Raises:
            ConfigError: the file is missing or wrong.
        """
        folder = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
        file = validate(read(folder / f"{language}.yaml"), MessagesFile)
        return Messages(language, file.words, file.faults)

    def title(self, fault: Fault) -> str:
        """What has happened, in a few words."""
        return self.faults[fault.code].title

    def remedy(self, fault: Fault) -> str:
        """What to do now."""
        return self.faults[fault.code].remedy

    def word(self, key: str) -> str:
        """The word for an outcome, a slot's state, a step, a blame, ..."""
        return self.words[key]


class _ReportFile(Strict):
    """``messages/report/<language>.yaml``."""

    texts: dict[str, str]


@cache
def report_texts(language: str) -> Mapping[str, str]:
    """What the yield report says in one of `LANGUAGES`.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
    return validate(read(folder / "report" / f"{language}.yaml"), _ReportFile).texts
