"""What every kind of lamp offers to the guardian that drives it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from station.lamps.signals import Colour, Frame


class Lamp(Protocol):
    """One lamp. Used by one thread alone.

    Attributes:
        dims: whether its lights know more than on and off; right once `open` has returned.
        keeps: whether it goes on showing what it shows once nobody holds it.
    """

    @property
    def dims(self) -> bool:
        """See above."""

    @property
    def keeps(self) -> bool:
        """See above."""

    def open(self) -> None:
        """Take hold of it. Raises anything where it is not there; it is tried again later."""

    def show(self, now: Frame, text: str) -> None:
        """Light it; ``text`` says the same in words. Raises anything where it is gone; it is closed then."""

    def close(self) -> None:
        """Let go of it, as it is. May raise."""


def without_blue(levels: Mapping[Colour, float], has: Collection[Colour]) -> Mapping[Colour, float]:
    """The same levels for a lamp that has no blue light: amber stands for it."""
    if Colour.BLUE in has or Colour.BLUE not in levels:
        return levels
    mixed = dict(levels)
    mixed[Colour.AMBER] = max(mixed.pop(Colour.BLUE), mixed.get(Colour.AMBER, 0.0))
    return mixed
