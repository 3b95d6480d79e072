"""Which slot holds a board: a slot is a physical place, and one thread watches all of them."""

from station.jig.build import build_jig
from station.jig.nest import Nest
from station.jig.presence import Presence
from station.jig.watch import Jig

__all__ = ["Jig", "Nest", "Presence", "build_jig"]
