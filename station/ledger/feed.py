"""What the feed has told of each certificate, in a working table, and what it has to tell now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from station.ledger.schema import closures, issued, live_feed, live_runs, outbox, uses
from station.ledger.standing import PROVISIONED, Recorded, recorded
from station.model import StandingState

_AT_ONCE: Final = 500
_PERMITS: Final = tuple(state.value for state in StandingState if state.wanted)


@dataclass(frozen=True, slots=True)
class Written:
    """A sealed line that has not been laid on the shelf yet."""

    number: str
    certificate_id: str
    line: bytes


def to_tell(connection: sa.Connection) -> list[Recorded]:
    """The certificates whose standing is other than what was told: first permissions, then their ends; some hundred.

    A permission is told for what is at CONNECT or PROVISIONED; any other standing only after a permission.
    """
    query = sa.select(live_feed.c.number, live_feed.c.state).where(live_feed.c.number.in_(_candidates()))
    told = dict(connection.execute(query).all())
    found = recorded(connection, issued.c.number.in_(_candidates()))
    changed = [one for one in found if one.standing.state.value != told.get(one.number)]
    return sorted(
        (one for one in changed if one.standing.state.wanted or told.get(one.number) in _PERMITS),
        key=lambda one: not one.standing.state.wanted,
    )[:_AT_ONCE]


def _candidates() -> sa.Select[tuple[str]]:
    """Numbers that may have something to tell: at work, provisioned and not told so, permitted and now out or ended."""
    at_work = sa.select(uses.c.number).join(live_runs, live_runs.c.run == uses.c.run)
    told_provisioned = sa.select(live_feed.c.number).where(live_feed.c.state != StandingState.CONNECTING.value)
    provisioned = (
        sa.select(uses.c.number)
        .join(closures, closures.c.run == uses.c.run)
        .where(closures.c.outcome == PROVISIONED, uses.c.number.not_in(told_provisioned))
    )
    connecting = sa.select(live_feed.c.number).where(live_feed.c.state == StandingState.CONNECTING.value)
    taken_out = (
        sa.select(live_feed.c.number)
        .join(outbox, outbox.c.number == live_feed.c.number)
        .where(live_feed.c.state.in_(_PERMITS))
    )
    passed_since = (
        sa.select(live_feed.c.number)
        .join(uses, uses.c.number == live_feed.c.number)
        .join(closures, closures.c.run == uses.c.run)
        .where(live_feed.c.state == StandingState.PROVISIONED.value, closures.c.outcome == "PASS")
    )
    every = sa.union(at_work, provisioned, connecting, taken_out, passed_since).subquery()
    return sa.select(every.c.number)


def next_seq(connection: sa.Connection) -> int:
    """The number of the next line: they count up for ever, so that a reader sees an older one come back."""
    return 1 + (connection.execute(sa.select(sa.func.max(live_feed.c.seq))).scalar() or 0)


def write(connection: sa.Connection, of: Recorded, seq: int, line: bytes, expires: datetime) -> None:
    """Put the line on disk in place of the certificate's former one; it is not on the shelf yet."""
    connection.execute(sa.delete(live_feed).where(live_feed.c.number == of.number))
    connection.execute(
        sa.insert(live_feed).values(
            number=of.number,
            state=of.standing.state.value,
            seq=seq,
            line=line,
            expires_at=expires,
            sent=False,
        )
    )


def unsent(connection: sa.Connection) -> list[Written]:
    """The lines that are not on the shelf yet, oldest first."""
    query = (
        sa.select(live_feed.c.number, issued.c.certificate_id, live_feed.c.line)
        .join(issued, issued.c.number == live_feed.c.number)
        .where(live_feed.c.sent.is_(False))
        .order_by(live_feed.c.seq)
        .limit(_AT_ONCE)
    )
    return [Written(*row) for row in connection.execute(query)]


def sent(connection: sa.Connection, one: Written) -> None:
    """The line is on the shelf, unless another took its place meanwhile."""
    same = (live_feed.c.number == one.number) & (live_feed.c.line == one.line)
    connection.execute(sa.update(live_feed).where(same).values(sent=True))
