"""From the settings of the slots to the jig that watches them."""

from __future__ import annotations

from collections.abc import Sequence

from station.config import SlotSettings, SlotTimes
from station.jig.links import Link, LinkFolders
from station.jig.nest import Nest
from station.jig.presence import Presence
from station.jig.watch import Jig, Source


def build_jig(slots: Sequence[SlotSettings], times: SlotTimes) -> Jig:
    """The jig, not started yet.

    Raises:
        FaultError: `Fault.JIG_BLIND` where the kernel lets it not watch.
    """
    nests = [
        Nest(
            slot.name,
            Link(slot.port),
            Presence(debounce_s=times.debounce_ms / 1000, lifted_s=times.lifted_ms / 1000),
        )
        for slot in slots
    ]
    sources: list[Source] = [LinkFolders(slot.port for slot in slots)]
    return Jig(nests, sources)
