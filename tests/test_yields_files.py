"""The report as people and programs get it: page, PDF, CSV, JSON, OpenHTF; and what makes each of them trustworthy."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ledgers import MakeLedger
from month import OrderFact, RunFact, put

from station.config.messages import LANGUAGES, report_texts
from station.config.report import Report
from station.faults import Fault, FaultError
from station.ledger import SqliteLedger
from station.yields.making import Made, Maker, Wanted
from station.yields.stats import fisher, holm, p_chart, percentile, wilson
from station.yields.window import window
from station.yields.words import Words

DAY = date(2026, 11, 24)
NOON = datetime(2026, 11, 24, 5, tzinfo=UTC)  # twelve in Saigon
NOW = datetime(2026, 11, 25, 1, tzinfo=UTC)
SETTINGS = Report.model_validate_json(
    '{"timezone": "Asia/Ho_Chi_Minh", "targets": {"fpy_percent": 98, "units_per_hour": 10, "steps_s": {"connect": 1}},'
    ' "shifts": [{"name": "<b>ca</b>", "starts": "06:00", "ends": "18:00"}]}'
)
STEPS = (("identify", 120.0, None), ("connect", 2100.0, None))


def day_facts() -> list[RunFact]:
    """Slot 3 fails a third of its boards, which pass in slot 1; the others fail none."""
    facts = []
    for number in range(120):
        at, slot = NOON + timedelta(minutes=number / 2), "123"[number % 3]
        bad = slot == "3" and number % 9 == 2
        facts.append(
            RunFact(
                f"r{number}",
                f"SN-{number}",
                at,
                "FAIL" if bad else "PASS",
                "U101" if bad else None,
                slot=slot,
                steps=STEPS,
                certified=not bad,
                detail='said <script>alert("x")</script> & more' if bad else "",
            )
        )
        if bad:
            facts.append(RunFact(f"r{number}b", f"SN-{number}", at + timedelta(minutes=9), "PASS", steps=STEPS))
    facts.append(RunFact("e1", "SN-900", NOON, "ERROR", "N402", slot="2"))
    facts.append(RunFact("a1", "SN-901", NOON, "ABORTED", "J201", operator="tuan"))
    facts.append(RunFact("g1", "GOLD", NOON, "FAIL", "U110", order="GO-1", kind="golden"))
    facts.append(RunFact("s1", "SIM", NOON, "PASS", simulated=True))
    return facts


def orders() -> list[OrderFact]:
    return [OrderFact("WO-1", quantity=200), OrderFact("GO-1", "golden", 1, ("GOLD",))]


def maker(ledger: SqliteLedger, folder: Path, language: str = "en", settings: Report = SETTINGS) -> Maker:
    return Maker(ledger.store.read, settings, "line-1", "0.1.0", language, folder)


def made(ledger: SqliteLedger, folder: Path, *formats: str, language: str = "en", day: date = DAY) -> Made:
    return maker(ledger, folder, language).make(Wanted(day=day, formats=formats), NOW)


def only(folder: Path, ending: str) -> Path:
    (found,) = folder.glob(f"*.{ending}")
    return found


@pytest.fixture
def full(ledger: SqliteLedger) -> SqliteLedger:
    put(ledger, orders(), day_facts())
    return ledger


class Outline(HTMLParser):
    """What a browser would run, fetch or nest wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "data"}]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in {"meta", "br", "col", "link", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_is_one_file_that_runs_and_fetches_nothing(full: SqliteLedger, tmp_path: Path, language: str) -> None:
    page = only(made(full, tmp_path, "html", language=language).folder, "html").read_text()
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert not outline.tags & {"script", "link", "img", "iframe", "object", "b>ca<"}
    assert [link for link in outline.links if not link.startswith("#")] == []
    assert not re.search(r"url\((?!#)|@import", page)
    assert "<script>" not in page
    assert "<b>ca</b>" in outline.text  # as text, which it is
    assert 'said <script>alert("x")</script> & more'[:60] in outline.text
    # 120 new units; 14, all of slot 3, failed at first.
    assert Words(language, SETTINGS.zone).percent(106 / 120) in outline.text.replace("\n", " ")


def test_the_verdict_and_what_to_look_at_say_what_happened(full: SqliteLedger, tmp_path: Path) -> None:
    report = made(full, tmp_path, "html")
    page = only(report.folder, "html").read_text()
    assert (
        report.sentence == "88.3\u00a0% of 120 new units passed at the first try: the target of 98.0\u00a0% is missed."
    )
    assert report.sentence in page
    assert "Slot line-1/3 fails 35.0\u00a0% of its units, the others 0.0\u00a0%" in page
    assert "look at its pogo pins and wiring before the boards" in page


def test_the_same_figures_give_the_same_page(full: SqliteLedger, tmp_path: Path) -> None:
    pages = [only(made(full, tmp_path / name, "html").folder, "html").read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_an_empty_day_is_a_page_too(ledger: SqliteLedger, tmp_path: Path) -> None:
    report = made(ledger, tmp_path, "html", "csv", "json")
    assert report.sentence == "Nothing was made."
    assert "No run ended in this window" in only(report.folder, "html").read_text()
    assert len(only(report.folder, "csv").read_text().splitlines()) == 1
    assert json.loads(only(report.folder, "json").read_text())["units"] == []


def diary_of(folder: Path) -> Path:
    """The line stood twice, once across the day's end; a slot was out, the station off, boards were refused."""

    def line(minute: float, event: str, **more: str) -> str:
        at = (NOON + timedelta(minutes=minute)).isoformat()
        return json.dumps({"at": at, "event": event, **({"began": at} if "fault" in more else {}), **more})

    def began(minute: float, what: str, place: str, fault: str, detail: str = "") -> str:
        return line(minute, "began", what=what, place=place, fault=fault, detail=detail)

    day = 24 * 60
    file = folder / "diary.jsonl"
    lines = [
        line(-2 * day, "on", alive=NOON.isoformat()),
        line(-day, "off"),  # before the day: in no figure of it
        line(-day + 1, "on", alive=NOON.isoformat()),
        began(10, "slot", "2", "J210", "kim bị cong (by <b>Hoa</b>)"),
        began(15, "line", "", "C301"),
        line(30, "over", what="line", place=""),
        *(line(40 + i, "refused", what="refused", place="1", fault="O501", detail="none") for i in range(3)),
        line(70, "over", what="slot", place="2"),
        line(120, "off"),
        line(150, "on", alive=NOON.isoformat()),
        began(11 * 60, "line", "", "C301"),  # an hour of it is this day's; none of it a shift's
        line(13 * 60, "over", what="line", place=""),
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_kept_the_station_from_working_is_told_with_its_time(
    ledger: SqliteLedger, tmp_path: Path, language: str
) -> None:
    folder = tmp_path / "reports"
    told = replace(maker(ledger, folder, language), diary=diary_of(tmp_path))
    report = told.make(Wanted(day=DAY, formats=("html", "json")), NOW).folder  # a day without one run
    said = json.loads(only(report, "json").read_text())["figures"]["troubles"]
    rows = [tuple(row.values()) for row in said["downtime"]]
    assert rows == [
        ("line", "", "C301", 2, 900.0 + 3600.0, 900.0),
        ("off", "", "", 1, 1800.0, 1800.0),
        ("slot", "2", "J210", 1, 3600.0, 3600.0),
        ("refused", "", "O501", 3, None, None),
    ]
    assert [one["what"] for one in said["events"]] == ["slot", "line", "refused", "refused", "refused", "off", "line"]
    outline = Outline()
    outline.feed(only(report, "html").read_text())
    texts = report_texts(language)
    places = [outline.text.index(texts[key], outline.text.index(texts["s_troubles"])) for key in ("d_line", "d_off")]
    assert places == sorted(places)
    assert "kim bị cong (by <b>Hoa</b>)" in outline.text
    assert texts["look_stood"].split("{")[0] in outline.text


def test_a_diary_that_cannot_be_read_keeps_no_report_from_being_made(full: SqliteLedger, tmp_path: Path) -> None:
    told = replace(maker(full, tmp_path / "reports"), diary=tmp_path)  # a folder
    page = only(told.make(Wanted(day=DAY, formats=("html",)), NOW).folder, "html").read_text()
    assert "1 line(s) of the diary cannot be read." in page


def test_the_diary_tells_when_the_line_stood_better_than_the_runs_do(full: SqliteLedger, tmp_path: Path) -> None:
    told = replace(maker(full, tmp_path / "reports"), diary=diary_of(tmp_path))
    waited = told.make(Wanted(day=DAY, formats=("json",)), NOW).figures.waiting
    assert {slot.waited_s["andon"] <= 900 and slot.waited_s["andon"] > 0 for slot in waited} == {True}


def test_csv_and_json_tell_the_same_units(full: SqliteLedger, tmp_path: Path) -> None:
    folder = made(full, tmp_path, "csv", "json").folder
    document = json.loads(only(folder, "json").read_text())
    with only(folder, "csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert document["schema"] == 1
    assert [{name: str(value) for name, value in unit.items()} for unit in document["units"]] == rows
    units = {row["serial"]: row for row in rows}
    assert "SIM" not in units
    assert (units["SN-2"]["first_outcome"], units["SN-2"]["last_outcome"], units["SN-2"]["runs"]) == (
        "FAIL",
        "PASS",
        "2",
    )
    assert units["SN-0"]["certificate_id"] == "r0"
    assert document["figures"]["yields"]["fpy"] == pytest.approx(106 / 120)


def test_every_key_of_the_json_is_documented(full: SqliteLedger, tmp_path: Path) -> None:
    document = json.loads(only(made(full, tmp_path, "json").folder, "json").read_text())
    page = (Path(__file__).parent.parent / "docs/report.md").read_text()
    for name in (*document["figures"], *document["units"][0]):
        assert f"`{name}`" in page, name


def test_openhtf_records_have_the_keys_that_openhtf_itself_writes(full: SqliteLedger, tmp_path: Path) -> None:
    folder = made(full, tmp_path, "openhtf").folder / "openhtf"
    theirs = json.loads((Path(__file__).parent / "data/openhtf_record.json").read_text())
    records = [json.loads(file.read_text()) for file in folder.iterdir()]
    # All but the golden sample and the simulated run.
    assert len(records) == len(day_facts()) - 2
    ours = next(one for one in records if one["dut_id"] == "SN-2" and one["outcome"] == "FAIL")
    assert set(ours) == set(theirs)
    phase, their_phase = ours["phases"][0], theirs["phases"][1]
    assert set(phase) == set(their_phase)
    assert set(phase["measurements"]["duration"]) == set(their_phase["measurements"]["duration"])
    assert phase["measurements"]["duration"]["units"] == their_phase["measurements"]["duration"]["units"]
    assert (ours["end_time_millis"] - ours["start_time_millis"], ours["outcome_details"][0]["code"]) == (20_000, "U101")
    assert [one["name"] for one in ours["phases"]] == ["identify", "connect"]


def test_a_cell_is_no_formula(ledger: SqliteLedger, tmp_path: Path) -> None:
    put(ledger, orders(), [RunFact("r", "SN-1", NOON, "PASS", operator="=cmd|x")])
    assert "'=cmd|x" in only(made(ledger, tmp_path, "csv").folder, "csv").read_text()


def test_a_folder_that_cannot_be_written_is_said_and_nothing_is_left(full: SqliteLedger, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FaultError) as error:
        made(full, tmp_path / "file" / "reports", "csv")
    assert error.value.fault is Fault.REPORT_UNWRITTEN


def test_a_report_made_again_replaces_the_older_one_whole(full: SqliteLedger, tmp_path: Path) -> None:
    made(full, tmp_path, "csv", "html")
    again = made(full, tmp_path, "csv")
    assert [file.suffix for file in again.folder.iterdir()] == [".csv"]
    assert [one.name for one in tmp_path.iterdir() if one.is_dir()] == ["2026-11-24"]


@pytest.mark.parametrize(
    ("first", "last"), [(date(2026, 11, 2), date(2026, 11, 1)), (date(2024, 1, 1), date(2026, 1, 1))]
)
def test_days_that_make_no_window_are_refused(first: date, last: date) -> None:
    with pytest.raises(FaultError) as error:
        window(SETTINGS, NOW, first=first, last=last)
    assert error.value.fault is Fault.REPORT_WINDOW


def test_a_day_is_by_the_wall_clock_and_has_23_or_25_hours_where_clocks_change() -> None:
    berlin = Report(timezone="Europe/Berlin", day_starts="06:00")
    hours = {
        day: window(berlin, NOW, day=date.fromisoformat(day)).span.seconds / 3600
        for day in ("2026-03-28", "2026-03-29", "2026-10-24", "2026-10-25")
    }
    assert hours == {"2026-03-28": 23, "2026-03-29": 24, "2026-10-24": 25, "2026-10-25": 24}
    # At half past five on the 29th, "yesterday" is the 27th: the 28th is not over.
    early = datetime(2026, 3, 29, 3, 30, tzinfo=UTC)
    assert window(berlin, early).first == date(2026, 3, 27)


def test_a_shift_across_midnight_is_the_days_on_both_sides() -> None:
    night = Report.model_validate_json('{"shifts": [{"name": "n", "starts": "22:00", "ends": "06:00"}]}')
    spans = window(night, NOW, day=DAY).shift(night.shifts[0])
    assert [(span.start.hour, span.seconds / 3600) for span in spans] == [(0, 6), (22, 2)]


def test_the_statistics_are_those_of_the_books() -> None:
    # SciPy 1.16's fisher_exact and R's p.adjust gave these.
    assert fisher(1, 9, 11, 3) == pytest.approx(0.0027594561852200836)
    assert fisher(8, 2, 1, 5) == pytest.approx(0.03496503496503495)
    assert fisher(0, 5, 0, 9) == pytest.approx(1.0)
    # A year's: every table of 48,000 added up one by one gave this.
    assert fisher(1000, 47_000, 195_000, 9_700_000) == pytest.approx(0.07822192474148378, rel=1e-9)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert wilson(0, 10)[1] == pytest.approx(0.2775, abs=1e-4)
    assert percentile({10: 1, 20: 18, 500: 1}, 0.95) == 20
    centre, limits = p_chart([(100, 2)] * 20 + [(100, 20)])
    assert centre == pytest.approx(60 / 2100)
    assert [limit.broken for limit in limits][-1] == "above"
    assert [limit.broken for limit in limits][7] == "run"


def test_every_language_says_the_same_things_of_the_same_figures() -> None:
    texts = [report_texts(language) for language in LANGUAGES]
    assert set(texts[0]) == set(texts[1])
    for key, text in texts[0].items():
        assert set(re.findall(r"\{(\w+)\}", text)) == set(re.findall(r"\{(\w+)\}", texts[1][key])), key


def test_a_share_is_not_rounded_to_all_or_nothing() -> None:
    words = Words("vi", SETTINGS.zone)
    assert words.percent(0.99999) == "> 99,9\u00a0%"
    assert words.percent(0.00001) == "< 0,1\u00a0%"
    assert words.percent(1.0) == "100,0\u00a0%"


def test_a_simulated_station_has_no_yield(make_ledger: MakeLedger, tmp_path: Path) -> None:
    ledger = make_ledger(simulated=True)
    put(ledger, orders(), [RunFact("r", "SN-1", NOON, "PASS", simulated=True)])
    report = made(ledger, tmp_path, "html")
    assert report.sentence == "1 runs ended, and none of them counts."
    assert report.figures.runs.simulated == 1


def test_every_query_of_a_report_begins_at_an_index(full: SqliteLedger, tmp_path: Path) -> None:
    """Not one reads a table that grows with the history from end to end; what does would make a day cost a year."""
    asked: list[tuple[str, Any]] = []
    with full.store.read() as connection:
        engine = connection.engine
        sa.event.listen(engine, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
        made(full, tmp_path, "csv", "json", "openhtf")
        plans = [
            (sql, row[3])
            for sql, values in list(asked)
            if sql.startswith("SELECT")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
        ]
    grow = ("runs", "tally", "steps", "closures", "identified", "admissions", "certificates", "issued", "uses")
    scans = [
        (plan, sql)
        for sql, plan in plans
        if re.match(rf"SCAN ({'|'.join((*grow, 'earlier', 'later', 'passing'))})\b", plan)
    ]
    assert len(plans) > 100
    assert scans == []
