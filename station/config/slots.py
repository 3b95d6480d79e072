"""The settings of the jig: its slots, where each one is, and how a board in it is noticed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from station.config.lamps import Leds, Terminal
from station.config.loader import FilePath, Name, Strict


class SlotSettings(Strict):
    """One nest of the jig."""

    name: Name
    port: FilePath
    lamp: Annotated[Leds | Terminal, Field(discriminator="kind")]


class SlotTimes(Strict):
    """How long a board must be seen before it counts as plugged, and be gone before it counts as lifted."""

    debounce_ms: Annotated[int, Field(ge=0, le=10_000)] = 300
    lifted_ms: Annotated[int, Field(ge=100, le=10_000)] = 1000
