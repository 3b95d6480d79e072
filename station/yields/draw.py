"""The pictures, as SVG: the same figures give the same bytes. Text stays text, in the page's own font.

matplotlib is loaded here alone, when something is drawn. Colours are told apart by people who see no red or green too
(Okabe and Ito 2008), and everything that a colour says is written beside it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from station.yields.report import Figures
from station.yields.stats import wilson
from station.yields.times import CAUSES
from station.yields.words import Words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _SOFT, _GRID, _BAND = "#1c2733", "#66727f", "#e3e8ec", "#e6eef5"
GOOD, _BAD, _AMBER, _BLUE, _GREY = "#1b7f5c", "#c8452d", "#d99a1c", "#23639c", "#a9b3bd"
_OUTCOMES: Final = {"FAIL": _BAD, "ERROR": _AMBER, "ABORTED": _GREY}
_CAUSES: Final = {"no board": "#c7d0d8", "andon": _BAD, "trouble": _AMBER, "no order": "#7fa6c9"}
_WIDTH_IN: Final = 7.09  # 180 mm: A4 without its margins
FONT: Final = "Open Sans, Segoe UI, Helvetica Neue, Noto Sans, DejaVu Sans, sans-serif"
_MOST: Final = 12
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
_PROLOGUE: Final = re.compile(r"^.*?(?=<svg )", re.DOTALL)
_SIZE: Final = re.compile(r' (?:width|height)="[0-9.]+pt"')
_FONT: Final = re.compile(r"; font-family: [^;\"]*|font-family: [^;\"]*;?")


@contextmanager
def _canvas(name: str, height_in: float) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; the list holds the SVG when the block ends."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to load
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    made: list[str] = []
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"station {name}"}):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        axes = figure.subplots()
        yield axes, made
        text = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(text, metadata=nothing)  # type: ignore[no-untyped-call]
        made.append(_inline(text.getvalue()))


def _inline(svg: str) -> str:
    """The element alone, as wide as its place on the page, in the page's font."""
    head, rest = _PROLOGUE.sub("", svg).split(">", 1)
    return f'{_SIZE.sub("", head)} font-family="{FONT}">{_FONT.sub("", rest)}'


def pictures(figures: Figures, words: Words) -> dict[str, str]:
    """Every picture that there is something to show of, by its name."""
    drawn = {
        "chart": _chart(figures, words),
        "output": _output(figures, words),
        "faults": _faults(figures, words),
        "slots": _slots(figures, words),
        "cycles": _cycles(figures, words),
        "waiting": _waiting(figures, words),
    }
    return {name: svg for name, svg in drawn.items() if svg is not None}


def _percent_axis(axis: Any, words: Words) -> None:
    axis.set_major_formatter(lambda value, _: f"{words.number(value * 100, 0 if value * 100 % 1 < 0.01 else 1)} %")


def _chart(figures: Figures, words: Words) -> str | None:
    points = figures.chart
    shown = [(index, point) for index, point in enumerate(points) if point.units]
    if len(shown) < 2:
        return None
    with _canvas("chart", 2.1) as (axes, made):
        places = [index for index, _ in shown]
        axes.fill_between(
            places, [p.lower for _, p in shown], [p.upper for _, p in shown], step="mid", color=_BAND, linewidth=0
        )
        axes.axhline(figures.centre, color=_BLUE, linewidth=0.9)
        axes.plot(places, [p.failed / p.units for _, p in shown], color=_INK, linewidth=0.8, marker="o", markersize=3)
        for index, point in shown:
            if point.broken:
                colour = GOOD if point.broken == "below" else _BAD
                share = point.failed / point.units
                axes.plot([index], [share], "o", markersize=8, markerfacecolor="none", markeredgecolor=colour)
                axes.annotate(
                    words.percent(share), (index, share), (0, 7), textcoords="offset points", ha="center", color=colour
                )
        ticks = range(len(points) - 1, -1, -5)
        axes.set_xticks(list(ticks), [words.short_day(points[i].day) for i in ticks])
        axes.set_xlim(-0.7, len(points) - 0.3)
        top = max(p.failed / p.units for _, p in shown)
        usual = sorted(p.upper for _, p in shown)[len(shown) // 2]
        axes.set_ylim(0, max(top, usual) * 1.25 or 1)
        axes.set_ylabel(words.say("axis_failed"))
        axes.grid(axis="x", visible=False)
        _percent_axis(axes.yaxis, words)
    return made[0]


def _output(figures: Figures, words: Words) -> str | None:
    bars = figures.output
    if not any(bar.done for bar in bars):
        return None
    target = figures.targets.get("units_per_hour")
    with _canvas("output", 1.7) as (axes, made):
        reached = [target is None or bar.done >= target * bar.hours for bar in bars]
        colours = [_BLUE if good else _AMBER for good in reached]
        axes.bar(range(len(bars)), [bar.done for bar in bars], color=colours, width=0.78)
        if len(bars) <= 31:
            for index, bar in enumerate(bars):
                if bar.done:
                    axes.annotate(
                        words.number(bar.done), (index, bar.done), (0, 2), textcoords="offset points", ha="center"
                    )
        if target is not None and figures.hourly:
            axes.axhline(target, color=_BAD, linewidth=1, linestyle=(0, (4, 2)))
        starts = [bar.start.astimezone(words.zone) for bar in bars]
        step = max(1, len(bars) // 12)
        ticks = list(range(0, len(bars), step))
        axes.set_xticks(ticks, [f"{starts[i]:%H:%M}" if figures.hourly else words.short_day(starts[i]) for i in ticks])
        axes.set_xlim(-0.6, len(bars) - 0.4)
        axes.set_ylim(0, max(*(bar.done for bar in bars), target if target and figures.hourly else 0) * 1.18)
        axes.grid(axis="x", visible=False)
        _whole_numbers(axes.yaxis, words)
    return made[0]


def _rows(axes: Axes, labels: Sequence[str]) -> list[int]:
    """Names down the left side, the first on top."""
    places = list(range(len(labels)))
    axes.set_yticks(places, labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    return places


def _faults(figures: Figures, words: Words) -> str | None:
    shown = figures.faults[:_MOST]
    if not shown:
        return None
    whole = sum(fault.runs for fault in figures.faults)
    with _canvas("faults", 0.5 + 0.2 * len(shown)) as (axes, made):
        places = _rows(axes, [f"{fault.code}  {_cut(words.fault(fault.code), 44)}" for fault in shown])
        axes.barh(places, [f.runs for f in shown], color=[_OUTCOMES.get(f.outcome, _GREY) for f in shown], height=0.66)
        so_far = 0
        for place, fault in zip(places, shown, strict=True):
            so_far += fault.runs
            text = f"{words.number(fault.runs)}  {words.outcome(fault.outcome)}, Σ {words.percent(so_far / whole, 0)}"
            axes.annotate(text, (fault.runs, place), (4, 0), textcoords="offset points", va="center", color=_SOFT)
        axes.set_xlim(0, shown[0].runs * 1.45)
        _whole_numbers(axes.xaxis, words)
    return made[0]


def _whole_numbers(axis: Any, words: Words) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - as above

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.set_major_formatter(lambda value, _: words.number(value))


def _slots(figures: Figures, words: Words) -> str | None:
    if len(figures.slots) < 2:
        return None
    shown = figures.slots
    if len(shown) > _MOST * 2:
        worst = sorted(shown, key=lambda slot: (slot.chance or 1.0, -slot.failed))[: _MOST * 2]
        shown = [slot for slot in shown if slot in worst]
    with _canvas("slots", 0.5 + 0.19 * len(shown)) as (axes, made):
        places = _rows(axes, [f"{slot.station}/{slot.slot}" for slot in shown])
        units, failed = sum(s.units for s in figures.slots), sum(s.failed for s in figures.slots)
        axes.axvline(failed / units if units else 0, color=_BLUE, linewidth=0.9)
        for place, slot in zip(places, shown, strict=True):
            low, high = wilson(slot.failed, slot.units)
            colour = _BAD if slot.suspect else _INK
            axes.plot([low, high], [place, place], color=colour, linewidth=2.2, alpha=0.35, solid_capstyle="round")
            axes.plot([slot.failed / slot.units], [place], "o", color=colour, markersize=4)
            text = f"{words.number(slot.failed)} / {words.number(slot.units)}"
            if slot.suspect:
                text += f"   p {words.chance(slot.chance)}"
            axes.annotate(text, (high, place), (5, 0), textcoords="offset points", va="center", color=colour)
        axes.set_xlim(0, max(wilson(slot.failed, slot.units)[1] for slot in shown) * 1.3)
        _percent_axis(axes.xaxis, words)
    return made[0]


def _cycles(figures: Figures, words: Words) -> str | None:
    shown = figures.cycles
    if not shown:
        return None
    with _canvas("cycles", 0.55 + 0.2 * len(shown)) as (axes, made):
        places = _rows(axes, [words.step(cycle.step) for cycle in shown])
        for place, cycle in zip(places, shown, strict=True):
            median, p95 = cycle.median_ms / 1000, cycle.p95_ms / 1000
            late = cycle.target_s is not None and p95 > cycle.target_s
            colour = _AMBER if late else _BLUE
            axes.barh([place], [p95], color=colour, alpha=0.3, height=0.6)
            axes.plot([median], [place], "o", color=colour, markersize=4.5)
            if cycle.target_s is not None:
                axes.plot([cycle.target_s] * 2, [place - 0.36, place + 0.36], color=_BAD, linewidth=1.4)
            text = f"{words.seconds(median)} · {words.seconds(p95)}"
            right = max(p95, cycle.target_s or 0)
            axes.annotate(text, (right, place), (5, 0), textcoords="offset points", va="center", color=_SOFT)
        axes.set_xlim(0, max(max(c.p95_ms / 1000, c.target_s or 0) for c in shown) * 1.25 or 1)
        axes.set_xlabel(words.say("seconds"))
        axes.xaxis.set_major_formatter(lambda value, _: words.number(value, 0 if value % 1 < 0.01 else 1))
    return made[0]


def _waiting(figures: Figures, words: Words) -> str | None:
    shown = [slot for slot in figures.waiting if slot.planned_s > 0][: _MOST * 2]
    if not shown:
        return None
    with _canvas("waiting", 0.62 + 0.2 * len(shown)) as (axes, made):
        places = _rows(axes, [f"{slot.station}/{slot.slot}" for slot in shown])
        left = [0.0] * len(shown)
        for name in ("running", *CAUSES):
            parts = [(slot.running_s if name == "running" else slot.waited_s[name]) / slot.planned_s for slot in shown]
            label = words.say("running_time" if name == "running" else name)
            axes.barh(places, parts, left=left, color=_CAUSES.get(name, GOOD), height=0.66, label=label)
            for place, start, part in zip(places, left, parts, strict=True):
                if part > 0.06:
                    light = name in {"no board", "no order", "trouble"}
                    text = words.percent(part, 0)
                    colour = _INK if light else "#ffffff"
                    axes.annotate(text, (start + part / 2, place), ha="center", va="center", color=colour, fontsize=6.5)
            left = [start + part for start, part in zip(left, parts, strict=True)]
        axes.set_xlim(0, 1)
        _percent_axis(axes.xaxis, words)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, borderaxespad=0.2, handlelength=1)
    return made[0]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
