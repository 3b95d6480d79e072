"""`station report` as a person and the timer run it: of the station's record and of a whole line's, by exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from cloud import SimCloud
from ledgers import open_ledger, production, unit, whole_run
from month import RunFact, put
from postgres import PASSWORD, Line
from test_yields_files import DAY, NOON, orders

from station.cli import main
from station.faults import Fault
from station.ledger import SqliteLedger


def report(settings: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "station", "--config", str(settings), "report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def told(settings: Path, *arguments: str) -> dict[str, Any]:
    """The JSON file of a report that was made with these arguments."""
    done = report(settings, "--format", "json", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    (name,) = (one for one in said["files"] if one.endswith(".json"))
    found: dict[str, Any] = json.loads((Path(said["folder"]) / name).read_text())
    return found


def test_a_day_is_made_in_every_form_and_an_empty_one_too(settings: Path, tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    put(ledger, orders(), [RunFact("r1", "SN-1", NOON, "PASS"), RunFact("r2", "SN-2", NOON, "FAIL", fault="U101")])
    ledger.dispose()
    done = report(settings, "--day", f"{DAY}", "--format", "html,pdf,csv,json", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    sentence, folder = done.stdout.splitlines()
    assert "50,0" in sentence  # the station speaks Vietnamese
    assert folder == str(tmp_path / "out" / f"{DAY}")
    made = {file.suffix: file.read_bytes() for file in Path(folder).iterdir()}
    assert set(made) == {".html", ".pdf", ".csv", ".json"}
    assert made[".pdf"].startswith(b"%PDF-")
    assert b"SN-2" in made[".csv"]
    assert json.loads(made[".json"])["figures"]["yields"]["fpy"] == 0.5
    assert "50,0" in made[".html"].decode()

    empty = report(settings, "--day", f"{DAY - timedelta(days=9)}", "--format", "html", "--json")
    said = json.loads(empty.stdout)
    assert (empty.returncode, len(said["files"])) == (0, 1)
    assert (Path(said["folder"]) / said["files"][0]).stat().st_size > 1000


def refused(settings: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a report that is exit 1 says; in this process, which is quicker."""
    assert main(["--config", str(settings), "report", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_a_report_that_cannot_be_is_exit_1_or_2_with_what_to_write(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(settings, capsys, "--day", "2026-11-24").startswith("S601")
    assert not (settings.parent / "ledger.sqlite").exists()
    both = refused(settings, capsys, "--day", "2026-11-24", "--from", "2026-11-01")
    assert both.startswith("S640")
    assert "Next: " in both
    assert "stands alone" in refused(settings, capsys, "--line", "boss")
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(settings), "report", "--day", "2026-11-31"])
    assert ended.value.code == 2
    assert "'2026-11-31' is no day; write it as 2026-11-24" in capsys.readouterr().err


def test_a_report_that_s3_does_not_take_is_exit_1_kept_and_sent_later(
    settings: Path, tmp_path: Path, cloud: SimCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    s3 = {"bucket": "nightly", "region": "us-east-1", "prefix": "line-1/", "simulator": cloud.said["api_url"]}
    text = settings.read_text()
    settings.write_text(text.replace("  expiring_days: 90", f"  s3: {json.dumps(s3)}\n  expiring_days: 90"))
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    put(ledger, orders(), [RunFact("r1", "SN-1", NOON, "PASS")])
    ledger.dispose()
    away = report(settings, "--day", f"{DAY}", "--format", "csv", "--deliver")
    assert away.returncode == 1
    assert f"{DAY}: s3 nightly: s3://nightly: " in away.stderr
    assert "S642" in away.stderr
    assert "NoSuchBucket" in away.stderr
    (made,) = (tmp_path / "reports" / f"{DAY}").glob("*.csv")
    with closing(boto3.client("s3", region_name="us-east-1", endpoint_url=cloud.said["api_url"])) as boss:
        boss.create_bucket(Bucket="nightly")
        there = report(settings, "deliver")
        assert (there.returncode, there.stderr) == (0, f"{DAY}: s3 nightly: delivered\n")
        key = f"line-1/{DAY}/{made.name}"
        assert boss.get_object(Bucket="nightly", Key=key)["Body"].read() == made.read_bytes()
    again = report(settings, "deliver")
    assert (again.returncode, again.stderr) == (0, "")


def test_the_lines_report_has_the_figures_of_both_stations(
    settings: Path,
    shared_line: Line,
    make_stations: Callable[..., list[SqliteLedger]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two = make_stations("s1", "s2")
    day = datetime.now(UTC).date()
    one.add_order(production(quantity=20), "linh")
    syncs = [shared_line.sync(one, "s1"), shared_line.sync(two, "s2")]
    for sync in syncs:
        sync.round()
    for ledger, serial, fault in (
        (one, "A-1", None),
        (one, "A-2", None),
        (one, "A-3", Fault.CLOUD_SILENT),
        (two, "B-1", Fault.UNIT_SILENT),
        (two, "B-2", None),
    ):
        whole_run(ledger, unit(serial), fault=fault)
    for sync in syncs:
        sync.round()
    for name in ("boss", "password"):
        (tmp_path / name).write_text(PASSWORD)
        (tmp_path / name).chmod(0o600)
    here = {"host": "127.0.0.1", "port": shared_line.server.port, "database": shared_line.name, "user": "login_s1"}
    with settings.open("a") as file:
        file.write(f"\nline: {json.dumps({**here, 'password': {'file': str(tmp_path / 'password')}})}\n")
    days = ["--from", f"{day}", "--to", f"{datetime.now(UTC).date()}"]  # midnight may have passed
    line = ["--line", "line_boss", "--password-file", str(tmp_path / "boss"), *days]

    whole = told(settings, *line)
    yields = whole["figures"]["yields"]
    assert (yields["units"], yields["passed_first"], yields["fpy"]) == (4, 3, 0.75)
    assert whole["figures"]["runs"]["outcomes"] == {"PASS": 3, "FAIL": 1, "ERROR": 1}
    assert {unit["serial"]: unit["station"] for unit in whole["units"]} == {
        "A-1": "s1",
        "A-2": "s1",
        "A-3": "s1",
        "B-1": "s2",
        "B-2": "s2",
    }
    assert whole["figures"]["orders"][0]["passed"] == 3
    second = told(settings, *line, "--station", "s2")
    assert (second["figures"]["yields"]["units"], second["figures"]["yields"]["fpy"]) == (2, 0.5)

    (tmp_path / "boss").write_text("wr0ng")
    capsys.readouterr()
    said = refused(settings, capsys, *line)
    assert said.startswith("S635")
    assert "wr0ng" not in said
