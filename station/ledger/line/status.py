"""The whole line at a glance, as a reader's login sees it: each station, its orders' shares, and what clashes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa

from station.ledger.anchors import Anchor
from station.ledger.line.standing import set_up

_YIELD_OF: Final = timedelta(days=1)

# A station that was admitted and never came is a line too. Its clock's error is its word against the server's at the
# moment of its last round.
_STATIONS: Final = """
SELECT m.name, s.seen_at, s.backlog, s.software,
       extract(epoch FROM CAST(s.clock AS timestamptz) - s.seen_at) AS clock_ahead_s,
       (SELECT count(DISTINCT l.epoch) - 1 FROM line_links l WHERE l.station = m.name) AS restored
FROM line_members m LEFT JOIN line_seen s ON s.station = m.name ORDER BY m.name
"""
_SHARES: Final = """
SELECT l.station, l.order_number, sum(l.quantity) AS leased,
       (SELECT count(DISTINCT p.serial) FROM passes p
        WHERE p.station = l.station AND p.order_number = l.order_number) AS passed
FROM leases l WHERE NOT EXISTS (SELECT 1 FROM order_closures c WHERE c.order_number = l.order_number)
GROUP BY 1, 2 ORDER BY 2, 1
"""
# First pass yield: units whose first counted run, ever, was in this time and passed (glossary: FPY).
_YIELDS: Final = """
SELECT station, count(*) AS units, count(*) FILTER (WHERE outcome = 'PASS') AS first_passed FROM tally t
WHERE at >= :since AND kind = 'production' AND NOT simulated AND outcome IN ('PASS', 'FAIL') AND serial IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM retests r WHERE r.run = t.run)
GROUP BY station
"""
_CLASHES: Final = """
SELECT kind, value, earlier_station, later_station, later_run, at,
       EXISTS (SELECT 1 FROM outbox_done d WHERE d.number = c.number) AS out_of_service
FROM clashes c ORDER BY at DESC LIMIT 100
"""
_ACTS: Final = """
SELECT a.act, a.order_number, a.station, CASE a.act WHEN 'opened' THEN o.opened_by ELSE c.closed_by END AS by, a.at
FROM line_acts a JOIN orders o ON o.number = a.order_number
LEFT JOIN order_closures c ON c.order_number = a.order_number
WHERE a.at >= :since ORDER BY a.at DESC LIMIT 100
"""

# By the last epoch: a restore begins a new one, named by its time.
_NEWEST: Final = """
SELECT DISTINCT ON (station) station, seq, at, hash FROM line_links ORDER BY station, epoch DESC, seq DESC
"""


@dataclass(frozen=True, slots=True)
class Share:
    """What a station holds of an open order, and how much of that it has passed."""

    order: str
    leased: int
    passed: int


@dataclass(frozen=True, slots=True)
class StationLine:
    """One station of the line; times are None where it never came. ``backlog`` is in links, as it last said."""

    station: str
    seen_at: datetime | None
    backlog: int | None
    software: str | None
    clock_ahead_s: float | None
    restored: int
    shares: tuple[Share, ...]
    units: int
    first_passed: int


@dataclass(frozen=True, slots=True)
class ClashLine:
    """Two runs that cannot both be right, and whether the later certificate is out of service by now."""

    kind: str
    value: str
    earlier_station: str
    later_station: str
    later_run: str
    at: str
    out_of_service: bool


@dataclass(frozen=True, slots=True)
class OrderAct:
    """An order opened or closed: ``station`` by the server's word, ``by`` by that station's."""

    act: str
    order: str
    station: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class LineStatus:
    """The line, now; yields and acts are of the last 24 hours."""

    stations: tuple[StationLine, ...]
    clashes: tuple[ClashLine, ...]
    acts: tuple[OrderAct, ...]


def line_status(server: sa.Connection) -> LineStatus:
    """Ask everything within one transaction of a reader.

    Raises:
        FaultError: `Fault.LINE_SETUP` where the line is of other software.
    """
    set_up(server)
    shares: dict[str, list[Share]] = {}
    for row in server.execute(sa.text(_SHARES)):
        shares.setdefault(row.station, []).append(Share(row.order_number, int(row.leased), row.passed))
    begun = datetime.now(UTC) - _YIELD_OF
    since = begun.isoformat(timespec="microseconds")
    yields = {row.station: row for row in server.execute(sa.text(_YIELDS), {"since": since})}
    stations = tuple(
        StationLine(
            row.name,
            row.seen_at,
            row.backlog,
            row.software,
            None if row.clock_ahead_s is None else round(float(row.clock_ahead_s), 3),
            max(0, row.restored),
            tuple(shares.get(row.name, ())),
            yields[row.name].units if row.name in yields else 0,
            yields[row.name].first_passed if row.name in yields else 0,
        )
        for row in server.execute(sa.text(_STATIONS))
    )
    clashes = tuple(ClashLine(*row) for row in server.execute(sa.text(_CLASHES)))
    acts = tuple(OrderAct(*row) for row in server.execute(sa.text(_ACTS), {"since": begun}))
    return LineStatus(stations, clashes, acts)


def newest_links(server: sa.Connection) -> list[Anchor]:
    """The last link that each station pushed, as an anchor: the server is outside of the station's machine."""
    found = server.execute(sa.text(_NEWEST))
    return [Anchor(row.station, row.at[:10], row.seq, bytes(row.hash).hex(), row.at, source="line") for row in found]
