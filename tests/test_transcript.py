"""What is kept of the talk with a board: all of a short one, both ends of a long one, nothing of a secret."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from station.transcript import Transcript, Way, unpacked


def said(transcript: Transcript, way: Way) -> bytes:
    return b"".join(entry.data for entry in transcript.entries() if entry.way is way)


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=5_000)), max_size=8))
def test_a_short_talk_is_kept_whole_and_in_order(talk: list[tuple[bool, bytes]]) -> None:
    transcript = Transcript()
    for out, data in talk:
        (transcript.sent if out else transcript.received)(data)
    for way, out in ((Way.SENT, True), (Way.RECEIVED, False)):
        assert said(transcript, way) == b"".join(data for sent, data in talk if sent is out)
    assert unpacked(transcript.packed()) == transcript.entries()


def test_of_an_endless_talk_both_ends_are_kept_in_bounded_room() -> None:
    transcript = Transcript()
    for number in range(50_000):
        transcript.received(b"%09d\n" % number)
    kept = said(transcript, Way.RECEIVED)
    assert kept.startswith(b"000000000\n")
    assert kept.endswith(b"000049999\n")
    assert len(kept) < 110_000
    assert b"bytes are left out here" in said(transcript, Way.NOTE)
    assert len(transcript.packed()) < 110_000


def test_nothing_of_a_private_exchange_is_kept_but_its_length() -> None:
    transcript = Transcript()
    transcript.sent(b"before")
    with transcript.private("a password"):
        transcript.sent(b"hunter2")
        transcript.received(b"hunter2\r\n")
    transcript.sent(b"after")
    assert said(transcript, Way.SENT) == b"beforeafter"
    assert said(transcript, Way.RECEIVED) == b""
    assert b"not kept: a password, 7 bytes sent, 9 received" in said(transcript, Way.NOTE)


@pytest.mark.parametrize("packed", [b"", b"no zlib", zlib.compress(b"{}"), zlib.compress(b"x" * 5_000_000)])
def test_what_is_no_transcript_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"transcript|not enough values"):
        unpacked(packed)
