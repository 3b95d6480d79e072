"""The verdict in a sentence, and what somebody should look at: the report's judgement, kept apart from its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from station.diary import What
from station.yields.report import Figures
from station.yields.words import Words

_WORTH_S = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """``mood`` is good, bad or plain; ``text`` the sentence; ``more`` what goes with it."""

    mood: str
    text: str
    more: str


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A report that some destination has not taken yet."""

    report: str
    where: str
    why: str


def verdict(figures: Figures, words: Words) -> Verdict:
    """How the window went."""
    yields, target = figures.yields, figures.targets.get("fpy_percent")
    if figures.empty:
        return Verdict("plain", words.say("verdict_empty"), words.say("verdict_empty_why"))
    if yields.fpy is None:
        runs = words.number(figures.runs.total)
        return Verdict("plain", words.say("verdict_uncounted", runs=runs), words.say("verdict_uncounted_why"))
    said = {"fpy": words.percent(yields.fpy), "units": words.number(yields.units)}
    more = words.say("verdict_final", final=words.percent(yields.final))
    if target is None:
        return Verdict("plain", words.say("verdict_plain", **said), more)
    reached = yields.fpy * 100 >= target
    shown = words.percent(target / 100)
    key, mood = ("verdict_reached", "good") if reached else ("verdict_missed", "bad")
    return Verdict(mood, words.say(key, **said, target=shown), more)


def findings(figures: Figures, words: Words, undelivered: Sequence[Undelivered] = ()) -> list[str]:
    """What stands out, most urgent first; empty where nothing does."""
    return [
        *_of_slots(figures, words),
        *_of_chart(figures, words),
        *_of_targets(figures, words),
        *_of_troubles(figures, words),
        *_of_faults(figures, words),
        *_of_lifts(figures, words),
        *_of_certificates(figures, words),
        *(words.say("look_undelivered", report=one.report, where=one.where, why=one.why) for one in undelivered),
    ]


def side(words: Words, broken: str) -> str:
    """What rule a day broke, in words."""
    return words.say(f"side_{broken}")


def _of_slots(figures: Figures, words: Words) -> Iterator[str]:
    units, failed = sum(slot.units for slot in figures.slots), sum(slot.failed for slot in figures.slots)
    for slot in figures.slots:
        if not slot.suspect:
            continue
        elsewhere = (failed - slot.failed) / (units - slot.units)
        retried = slot.passed_elsewhere + slot.passed_here
        yield words.say(
            "look_slot",
            place=f"{slot.station}/{slot.slot}",
            here=words.percent(slot.failed / slot.units),
            others=words.percent(elsewhere),
            chance=words.percent(slot.chance, 2),
            failed=words.number(slot.failed),
            elsewhere=words.number(slot.passed_elsewhere),
            # Boards that are good in another slot were never bad.
            judged=words.say(
                "judged_slot" if retried and slot.passed_elsewhere * 2 >= slot.failed else "judged_boards"
            ),
        )


def _of_chart(figures: Figures, words: Words) -> Iterator[str]:
    for point in figures.chart:
        if point.broken and point.day >= figures.first:
            share = words.percent(point.failed / point.units)
            yield words.say("look_chart", day=words.day(point.day), share=share, side=side(words, point.broken))


def _of_targets(figures: Figures, words: Words) -> Iterator[str]:
    final, aimed = figures.yields.final, figures.targets.get("final_yield_percent")
    if final is not None and aimed is not None and final * 100 < aimed:
        yield words.say("look_final", final=words.percent(final), target=words.percent(aimed / 100))
    rate = figures.targets.get("units_per_hour")
    if rate is not None and figures.rate is not None and figures.rate < rate:
        worked = words.number(figures.rate, 1)
        yield words.say("look_rate", rate=worked, target=words.number(rate, 1 if rate % 1 else 0))


def _of_faults(figures: Figures, words: Words) -> Iterator[str]:
    fails = [fault for fault in figures.faults if fault.outcome == "FAIL"]
    if fails:
        top, every = fails[0], sum(fault.runs for fault in fails)
        said = {"count": words.number(top.runs), "all": words.number(every)}
        yield words.say("look_fault", code=top.code, title=words.fault(top.code), **said)
    if figures.runs.unnamed_fails:
        yield words.say("look_unnamed", count=words.number(figures.runs.unnamed_fails))


def _of_troubles(figures: Figures, words: Words) -> Iterator[str]:
    """What cost a minute or more of the shifts, or of the window where there are none."""
    for one in figures.troubles.downtime if figures.troubles else []:
        lasted = one.seconds if one.planned_s is None else one.planned_s
        if one.what not in {What.LINE, What.OFF} or lasted is None or lasted < _WORTH_S:
            continue
        said = {"count": words.number(one.times), "lasted": words.seconds(lasted)}
        if one.what is What.LINE:
            yield words.say("look_stood", **said, code=one.fault, title=words.fault(one.fault))
        elif one.planned_s is not None:  # without shifts nobody knows whether it should have been on
            yield words.say("look_off", **said)


def _of_lifts(figures: Figures, words: Words) -> Iterator[str]:
    for one in figures.lifts:
        if one.suspect:
            yield words.say(
                "look_lifts",
                name=one.name,
                lifted=words.number(one.lifted),
                runs=words.number(one.runs),
                chance=f"p {words.chance(one.chance)}",
                then=words.number(one.then_failed),
            )


def _of_certificates(figures: Figures, words: Words) -> Iterator[str]:
    found = figures.certificates
    if found.waiting and found.oldest_waiting is not None:
        since = words.moment(found.oldest_waiting)
        yield words.say("look_waiting", count=words.number(found.waiting), since=since)
    if found.expiring:
        yield words.say("look_expiring", count=words.number(found.expiring), days=found.expiring_days)
