"""People's names as they stand on record, in any script: Nguyễn Thị Hoa, linh, badge 4711, an.engineer@line."""

from __future__ import annotations

import unicodedata
from typing import Final

RULE: Final = "1 to 64 letters or digits of any script, with single spaces and . _ @ ' - within"
_WITHIN: Final = frozenset(" ._@'-")
_MOST: Final = 64
_MARKS: Final = 2  # on one letter, where none has both: Vietnamese letters have a form of their own in NFC


def person(text: str) -> str:
    """A name in Unicode's form NFC, so that one person is one name whichever keyboard wrote it.

    No control, format or bidirectional characters are in it (UAX 9), nor a heap of marks on one letter.

    Raises:
        ValueError: it is none.
    """
    name = unicodedata.normalize("NFC", text[: 4 * _MOST + 1])
    kinds = "".join("A" if char in _WITHIN else unicodedata.category(char)[0] for char in name)
    wrong = (
        not 1 <= len(name) <= _MOST
        or set(kinds) - set("LMNA")
        or kinds[0] not in "LN"
        or "  " in name
        or name.endswith(" ")
        or "M" * (_MARKS + 1) in kinds
    )
    if wrong:
        raise ValueError(f"should be a name: {RULE}")
    return name
