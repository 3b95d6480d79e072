"""How long the steps took: how often each came with each duration, to the millisecond.

A line's year has some 60 million steps. Its server sums days up (`line_sum_steps`); a day is taken from there where as
many runs ended in it as were counted then. Runs are only ever added, so those are the same runs; what is not summed,
or grew since, is read step by step.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, date, datetime, time, timedelta

import sqlalchemy as sa

from station.ledger.schema import steps, tally
from station.model import OrderKind
from station.yields.scope import Query, Scope
from station.yields.window import Span, joined, without

WORK = (OrderKind.PRODUCTION, OrderKind.REWORK)
_DAY = timedelta(days=1)
_AS_COUNTED = sa.text(
    "SELECT d.day FROM line_step_days d WHERE d.day >= :first AND d.day < :ends AND d.runs ="
    " (SELECT count(*) FROM tally t WHERE t.at >= d.day AND t.at < to_char(CAST(d.day AS date) + 1, 'YYYY-MM-DD'))"
)
_SUMS = sa.text(
    "SELECT step, ms, CAST(sum(count) AS bigint) FROM line_step_times WHERE day = ANY(:days) GROUP BY step, ms"
)


def durations(connection: sa.Connection, scope: Scope) -> dict[str, Counter[int]]:
    """Of each step that ended without a fault in production or rework: how often it took how many milliseconds."""
    taken: dict[str, Counter[int]] = defaultdict(Counter)
    whole = scope.window.span
    days = _summed(connection, scope)
    if days:
        for step, ms, count in connection.execute(_SUMS, {"days": [day.isoformat() for day in days]}):
            taken[step][ms] += count
    for span in without([whole], joined([_utc(day) for day in days])):
        for step, ms, count in connection.execute(_one_by_one(scope, span)):
            taken[step][ms] += count
    return taken


def _one_by_one(scope: Scope, span: Span) -> Query:
    whole_ms = sa.cast(sa.func.round(steps.c.duration_ms), sa.BigInteger)
    return (
        sa.select(steps.c.step, whole_ms, sa.func.count())
        .select_from(tally)
        .join(steps, steps.c.run == tally.c.run)
        .where(*scope.real(*WORK, span=span), steps.c.fault.is_(None))
        .group_by(steps.c.step, whole_ms)
    )


def _summed(connection: sa.Connection, scope: Scope) -> list[date]:
    """The days, by UTC, that lie whole in the window and are summed up as they stand now."""
    if connection.dialect.name != "postgresql" or scope.order is not None or scope.station is not None:
        return []
    span = scope.window.span
    first = (span.start + _DAY - timedelta(microseconds=1)).astimezone(UTC).date()
    between = {"first": first.isoformat(), "ends": span.end.astimezone(UTC).date().isoformat()}
    return [date.fromisoformat(day) for (day,) in connection.execute(_AS_COUNTED, between)]


def _utc(day: date) -> Span:
    start = datetime.combine(day, time(), UTC)
    return Span(start, start + _DAY)
