"""The page as it is looked at: drawn by a browser and on A4, and what it says of a bad day, of targets, of lifts."""

from __future__ import annotations

import html
import json
import re
import subprocess
import time
import unicodedata
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from month import OrderFact, RunFact, put
from test_yields_files import DAY, NOON, NOW, SETTINGS, Outline, day_facts, made, maker, only, orders

from station.config.messages import LANGUAGES, report_texts
from station.config.report import Report
from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, schema
from station.yields.making import Wanted
from station.yields.printer import Printer
from station.yields.words import Words


def said(folder: Path) -> str:
    """The page's text, as one line with plain spaces."""
    outline = Outline()
    outline.feed(only(folder, "html").read_text())
    return " ".join(outline.text.split())


# What does not fit says its tag and its text: wider than the window, or than its own cell.
_TOO_WIDE = """
const bad = [...document.querySelectorAll("body *")].filter(it => {
  const box = it.getBoundingClientRect();
  return box.right > innerWidth || box.left < 0 || (it.matches("td, th, .tile") && it.scrollWidth > it.clientWidth + 1);
}).map(it => it.tagName + " " + it.textContent.trim().slice(0, 60));
const whole = document.documentElement.scrollWidth;
document.body.textContent = "MEASURED " + JSON.stringify([innerWidth, whole, bad]) + " END";
"""


@pytest.fixture
def longest(ledger: SqliteLedger) -> SqliteLedger:
    """Names as long as they may be, without a place to break."""
    name = "W" * 64
    put(ledger, [*orders(), OrderFact(name, quantity=9, product=name)], day_facts())
    facts = [
        RunFact("l1", name, NOON, "PASS"),
        RunFact("l2", "V" * 64, NOON, "FAIL", "U101", detail="D" * 300),
        RunFact("l3", "V" * 64, NOON, "ABORTED", "J201"),
    ]
    put(ledger, [], [replace(fact, order=name, product=name, operator=name, slot="9" * 16) for fact in facts])
    return ledger


@pytest.mark.parametrize("language", LANGUAGES)
def test_in_a_browser_as_wide_as_a4_nothing_is_wider(longest: SqliteLedger, tmp_path: Path, language: str) -> None:
    page = only(made(longest, tmp_path, "html", language=language).folder, "html").read_text()
    policy = re.compile(r"<meta http-equiv=.Content-Security-Policy.[^>]*>")  # it lets no script run, not even ours
    measured = tmp_path / "measured.html"
    measured.write_text(policy.sub("", page).replace("</body>", f"<script>{_TOO_WIDE}</script></body>"))
    here = [f"--user-data-dir={tmp_path}", "--window-size=794,1123", "--dump-dom", measured.as_uri()]
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    plain = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *quiet, *here]
    dumped = subprocess.run(plain, capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r"MEASURED (.*) END", dumped)
    assert found is not None
    window_px, whole_px, bad = json.loads(html.unescape(found[1]))
    assert bad == []
    assert whole_px <= window_px == 794


def test_the_pdf_is_the_page_on_a4_with_every_section(longest: SqliteLedger, tmp_path: Path) -> None:
    folder = made(longest, tmp_path, "pdf", language="vi").folder
    printed = only(folder, "pdf")
    facts = subprocess.run(["pdfinfo", printed], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^Page size: .*\(A4\)$", facts, re.MULTILINE)
    count = re.search(r"^Pages: +(\d+)$", facts, re.MULTILINE)
    assert count is not None
    assert 3 <= int(count[1]) <= 8
    boxes = subprocess.run(["pdftotext", "-bbox", printed, "-"], capture_output=True, text=True, check=True).stdout
    edges = [(float(left), float(right)) for left, right in re.findall(r'<word xMin="(\S+)".*? xMax="(\S+)"', boxes)]
    assert len(edges) > 500
    assert min(left for left, _ in edges) > 36  # points: the margins are 15 mm
    assert max(right for _, right in edges) < 595.3 - 36
    text = subprocess.run(["pdftotext", printed, "-"], capture_output=True, text=True, check=True).stdout
    flat = " ".join(unicodedata.normalize("NFC", text).split())
    titles = {key: title for key, title in report_texts("vi").items() if key.startswith("s_")}
    assert [key for key, title in titles.items() if title not in flat] == []
    assert len(titles) == 14


def test_a_day_out_of_control_names_its_fault_and_its_slot(ledger: SqliteLedger, tmp_path: Path) -> None:
    facts = []
    for back in range(12):
        for number in range(40):
            bad = number < (22 if back == 0 else 8 if back % 2 else 2)  # on both sides of the mean
            facts.append(
                RunFact(
                    f"{back}/{number}",
                    f"SN-{back}-{number}",
                    NOON - timedelta(days=back, minutes=number),
                    "FAIL" if bad else "PASS",
                    None if not bad else "U101" if number == 0 else "U110",
                    slot="2" if bad and number else "1",
                )
            )
    put(ledger, orders(), facts)
    report = made(ledger, tmp_path, "html")
    (point,) = [point for point in report.figures.chart if point.broken]
    assert (point.day, point.units, point.failed, point.broken) == (DAY, 40, 22, "above")
    assert point.faults == (("U110", 21), ("U101", 1))
    assert point.slots == (("line-1/2", 21), ("line-1/1", 1))
    text = said(report.folder)
    assert re.search(r"22 of 40 \(55\.0 %\), limits .*; above the control limit\.", text)
    assert "Mostly U110, U101, slots line-1/2, line-1/1." in text
    assert "55.0 % failed at first, above the control limit." in text


@pytest.mark.parametrize(("target", "missed"), [(10, False), (11, True)])
def test_output_and_steps_are_held_against_their_targets(
    ledger: SqliteLedger, tmp_path: Path, target: int, missed: bool
) -> None:
    """120 units in twelve hours of shift; of twenty times of CONNECT, the slowest is in no p95."""
    steps = [*([2_000.0] * 114), *([9_000.0] * 6)]
    facts = [
        RunFact(f"r{n}", f"SN-{n}", NOON + timedelta(minutes=n), "PASS", steps=(("connect", took, None),))
        for n, took in enumerate(steps)
    ]
    put(ledger, orders(), facts)
    targets = {"units_per_hour": target, "steps_s": {"connect": 1.9 if missed else 2}}
    told = Report.model_validate_json(json.dumps({**SETTINGS.model_dump(mode="json"), "targets": targets}))
    report = maker(ledger, tmp_path, "en", told).make(Wanted(day=DAY, formats=("html",)), NOW)
    assert report.figures.rate == 10.0
    (connect, whole) = report.figures.cycles
    assert (connect.median_ms, connect.p95_ms, whole.p95_ms) == (2_000, 2_000, 20_000)
    page = only(report.folder, "html").read_text()
    assert (f"10.0 units an hour, target {target}." in said(report.folder)) is missed
    assert ('class="n bad">2.00' in page.replace("\u00a0", " ")) is missed


def test_who_lifts_boards_is_named_with_what_they_were(ledger: SqliteLedger, tmp_path: Path) -> None:
    """Hoa lifts a third of hers, in slot 1; of these two fail and one passes when next counted."""
    facts = [
        RunFact(f"l{n}", f"SN-{n}", NOON + timedelta(minutes=n), "PASS", operator="linh", slot="2") for n in range(60)
    ]
    for n in range(30):
        at, lifted = NOON + timedelta(minutes=n), n < 10
        outcome, fault = ("ABORTED", "J201") if lifted else ("PASS", None)
        facts.append(RunFact(f"h{n}", f"H-{n}", at, outcome, fault, operator="hoa", slot="1"))
    facts.append(RunFact("s", "H-20", NOON, "ABORTED", "J202", operator="hoa", slot="1"))
    for n, (outcome, fault) in enumerate((("FAIL", "U110"), ("FAIL", "U110"), ("PASS", None))):
        facts.append(RunFact(f"n{n}", f"H-{n}", NOON + timedelta(hours=1), outcome, fault, operator="linh", slot="2"))
    put(ledger, orders(), facts)
    report = made(ledger, tmp_path, "html")
    rows = {(x.kind, x.name): (x.runs, x.lifted, x.swapped, x.then_failed, x.suspect) for x in report.figures.lifts}
    assert rows == {
        ("slot", "line-1/1"): (31, 10, 1, 2, True),
        ("slot", "line-1/2"): (63, 0, 0, 0, False),
        ("operator", "hoa"): (31, 10, 1, 2, True),
        ("operator", "linh"): (63, 0, 0, 0, False),
    }
    text = said(report.folder)
    assert report_texts("en")["s_lifts"] in text
    for name in ("hoa", "line-1/1"):
        assert re.search(rf"{name} lifted 10 of 31 running boards, .*; 2 of them failed when next counted", text), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_station_of_a_line_says_that_the_progress_is_its_own(
    ledger: SqliteLedger, tmp_path: Path, language: str
) -> None:
    put(ledger, orders(), [RunFact("r", "SN-1", NOON, "PASS")])
    note = Words(language, SETTINGS.zone).say("orders_shared", station="line-1")
    assert note not in said(made(ledger, tmp_path, "html", language=language).folder)
    share = {"id": "s1/WO-1/1", "station": "s1", "order_number": "WO-1", "quantity": 4, "at": NOON}
    with ledger.store.write() as connection:
        connection.execute(sa.insert(schema.leases).values(share))
    report = made(ledger, tmp_path, "html", language=language)
    assert note in said(report.folder)
    assert report.figures.orders_shared
    whole = replace(maker(ledger, tmp_path, language), line=True).make(Wanted(day=DAY, formats=("html",)), NOW)
    assert note not in said(whole.folder)


def test_certificates_that_need_somebody_are_told(ledger: SqliteLedger, tmp_path: Path) -> None:
    facts = [
        RunFact("a", "SN-1", NOON, "PASS", certified=True, life_days=30),
        RunFact("b", "SN-2", NOON, "PASS", certified=True),
        RunFact("c", "SN-2", NOON + timedelta(hours=1), "PASS", certified=True, supersedes="b", revoked=False),
        RunFact("d", "SN-3", NOON - timedelta(days=40), "PASS", certified=True, life_days=30),
    ]
    put(ledger, orders(), facts)
    text = said(made(ledger, tmp_path, "html").folder)
    texts, days = report_texts("en"), SETTINGS.expiring_days
    counts = {"signed": 3, "passed": 3, "orphaned": 0, "superseded": 1, "waiting": 1, "expiring": 1, "expired": 1}
    for name, count in counts.items():
        assert re.search(rf"{re.escape(texts[f'c_{name}'].format(days=days))} ?{count}(?!\d)", text), name
    words = Words("en", SETTINGS.zone)
    since = words.moment(NOON + timedelta(hours=1))
    for look in (words.say("look_waiting", count="1", since=since), words.say("look_expiring", count="1", days=days)):
        assert " ".join(look.split()) in text


def test_where_a_slots_twelve_hours_went_by_the_clock(ledger: SqliteLedger, tmp_path: Path) -> None:
    """The shift is 6 to 18. The order opens at 7 and is filled at 14:30; the CA fails at 13, the jig at 14."""
    facts = [
        RunFact(f"r{n}", f"SN-{n}", NOON + timedelta(minutes=minute), outcome, fault, took_s=60.0)
        for n, (minute, outcome, fault) in enumerate(
            (
                (0, "PASS", None),
                (60, "ERROR", "C303"),
                (90, "PASS", None),
                (120, "ERROR", "J203"),
                (150, "PASS", None),
            )
        )
    ]
    put(ledger, [OrderFact("WO-1", quantity=3, opened_at=NOON - timedelta(hours=5))], facts)
    figures = made(ledger, tmp_path, "html").figures
    (slot,) = figures.waiting
    assert (slot.planned_s, slot.running_s) == (12 * 3600, 5 * 60)
    andon = trouble = 29 * 60  # from the run's end to the next one's start
    no_order = 3600 + 3.5 * 3600
    no_board = 12 * 3600 - 5 * 60 - andon - trouble - no_order
    assert slot.waited_s == {"no board": no_board, "andon": andon, "trouble": trouble, "no order": no_order}
    assert [(one.code, one.runs, one.seconds) for one in figures.lost] == [("C303", 1, 1800), ("J203", 1, 1800)]


def test_a_page_that_cannot_be_printed_says_why_and_an_idle_printer_is_ended(tmp_path: Path) -> None:
    with closing(Printer()) as printer:
        printer.begin("<p>words</p>", tmp_path / "nowhere" / "page.pdf")
        with pytest.raises(FaultError, match="No such file") as error:
            printer.end()
        assert error.value.fault is Fault.REPORT_UNWRITTEN
    began = time.monotonic()
    Printer().close()
    assert time.monotonic() - began < 5
