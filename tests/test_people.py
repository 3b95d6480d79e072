"""People's names, from any keyboard: taken in any script, in one form, and never a way to write on another's line."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from station.faults import readable
from station.people import person


@pytest.mark.parametrize(
    "name", ["Nguyễn Thị Hoa", "Đỗ Ước", "linh", "4711", "an.engineer@line-1", "O'Brien", "Łukasz", "山田 太郎", "ณัฐ"]
)
def test_a_name_is_taken_in_any_script_and_is_one_name_in_every_form(name: str) -> None:
    assert person(name) == name
    assert person(unicodedata.normalize("NFD", name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " Hoa",
        "Hoa ",
        "Hoa  Thi",
        "Hoa\nThi",
        "Hoa\x1b[31m",
        "Hoa\u202eThi",  # right-to-left override
        "Hoa\u2066Thi",
        "Hoa\u200bThi",  # a space of no width
        "Hoa\u00a0Thi",
        "Hoa\ud800",
        "-hoa",
        "<b>Hoa</b>",
        "=HYPERLINK(1)",
        "a" + "\u0301" * 4,
        "x" * 65,
        "a\u0301" * 1000,
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="1 to 64 letters or digits of any script"):
        person(text)


@given(st.text(max_size=80))
def test_what_is_taken_is_bounded_printable_and_stays_as_it_is(text: str) -> None:
    try:
        name = person(text)
    except ValueError:
        return
    assert len(name) <= 64
    assert name.isprintable()
    assert person(name) == name
    assert readable(name, 64) == name


def test_what_a_person_wrote_is_read_in_its_script_and_moves_nothing_on_the_screen() -> None:
    assert readable("kim bị cong (by Hoa)", 200) == "kim bị cong (by Hoa)"
    assert readable("a\u202eb\n\x1b", 200) == "a\\u202eb\\n\\x1b"
    assert readable("x" * 300, 200) == "x" * 197 + "..."
