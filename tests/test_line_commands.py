"""The commands and settings of a line of stations."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import psycopg
import pytest
from ledgers import Clock, production, rows, unit, whole_run
from postgres import OWNER, OWNER_PASSWORD, PASSWORD, Line, station_ledger
from pydantic import ValidationError

from station import views
from station.cli import main
from station.config.line import LineSettings
from station.config.messages import LANGUAGES, Messages
from station.config.secrets import Password, read_password
from station.doctor import Doctor, Finding, Level, examine
from station.faults import Fault, FaultError
from station.ledger import SqliteLedger
from station.ledger.backup import backup
from station.service import SlotService
from station.status import LineLink, StatusBoard
from station.web import ControlServer, application

if TYPE_CHECKING:
    from station.config import Config


@pytest.fixture
def line(shared_line: Line) -> Line:
    return shared_line


class Settings:
    """What the commands and the doctor read of the station's settings."""

    def __init__(self, line: LineSettings | None, state: Path) -> None:
        self.line, self.state, self.simulate, self.station = line, state, False, "s1"
        self.runtime = state / "run"


@pytest.fixture
def configured(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    found = Settings(line.settings(), tmp_path)
    monkeypatch.setattr("station.config.load", lambda _path: found)
    return found


@pytest.fixture
def owner(tmp_path: Path) -> list[str]:
    return ["--as", OWNER, "--password-file", str(secret(tmp_path / "owner", OWNER_PASSWORD))]


def secret(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def test_a_station_is_admitted_with_a_password_that_nobody_sees(
    line: Line, configured: Settings, owner: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["line", "init", *owner]) == 0
    fresh = tmp_path / "fresh"
    assert main(["line", "admit", "hall.4-line-9", *owner, "--new-password", str(fresh)]) == 0
    password = read_password(fresh)
    said = capsys.readouterr()
    assert password not in said.out + said.err
    assert fresh.stat().st_mode & 0o777 == 0o600
    role = "hall_4-line-9"
    with psycopg.connect(
        host="127.0.0.1", port=line.server.port, dbname=line.name, user=role, password=password
    ) as station:
        assert station.execute("SELECT line_me()").fetchone() == ("hall.4-line-9",)
    assert main(["line", "admit", "x", *owner, "--new-password", str(fresh)]) == 1
    assert "name a new file" in capsys.readouterr().err
    assert password not in (line.server.folder / "log").read_text()


def test_the_status_shows_every_station(
    line: Line, configured: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    one, two = station_ledger(tmp_path, "s1"), station_ledger(tmp_path, "s2", clock=clock)
    one.add_order(production(quantity=20), "linh")
    first, second = line.sync(one, "s1"), line.sync(two, "s2")
    first.round()
    second.round()
    whole_run(one, unit("SN-1"))
    clock.now -= timedelta(hours=30)
    whole_run(two, unit("SN-OLD"), fault=Fault.UNIT_SILENT)
    clock.now = datetime.now(UTC)
    whole_run(two, unit("SN-OLD"))  # a retest: its first run was not of this day
    whole_run(two, unit("SN-1"), "another key")
    whole_run(two, unit("SN-2"), fault=Fault.UNIT_SILENT)
    first.round()
    second.round()
    one.dispose()
    two.dispose()
    reader = ["--as", "line_boss", "--password-file", str(secret(tmp_path / "boss", PASSWORD))]
    assert main(["line", "status", "--json", *reader]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    by_name = {one["station"]: one for one in found["stations"]}
    assert by_name["s1"]["shares"] == [{"order": "WO-1", "leased": 4, "passed": 1}]
    assert (by_name["s2"]["units"], by_name["s2"]["first_passed"], by_name["s2"]["backlog"]) == (
        1,
        0,
        0,
    )  # SN-1 was s1's first
    assert by_name["s3"]["seen_at"] is None
    assert [(one["kind"], one["later_station"], one["out_of_service"]) for one in found["clashes"]] == [
        ("serial", "s2", False)
    ]
    assert main(["line", "status", *reader]) == 0
    said = capsys.readouterr().out
    assert "never" in said
    assert "order WO-1 opened at s1 by linh" in said
    assert "clash of serial SN-1: s1, then s2; the later one is still to go" in said
    assert main(["line", "status", "--as", "line_boss", "--password-file", str(secret(tmp_path / "b", "no"))]) == 1
    assert "S635" in capsys.readouterr().err


def test_the_server_s_last_links_are_anchors_of_each_station(
    line: Line, configured: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = station_ledger(tmp_path, "s1")
    one.add_order(production(), "linh")
    line.sync(one, "s1").round()
    pushed = tmp_path / "older.sqlite"
    backup(one.store.path, pushed)
    whole_run(one, unit("SN-1"))
    line.sync(one, "s1").round()
    one.dispose()
    boss = ["--line", "line_boss", "--password-file", str(secret(tmp_path / "boss", PASSWORD))]
    assert main(["ledger", "anchor", *boss]) == 0
    anchor = tmp_path / "anchors.txt"
    anchor.write_text(capsys.readouterr().out)
    assert main(["ledger", "verify", str(one.store.path), "--anchor", str(anchor), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["proved_to"] > said["unproved"] >= 0
    assert main(["ledger", "verify", str(pushed), "--anchor", str(anchor)]) == 1
    assert "it was rolled back" in capsys.readouterr().out
    configured.line = None
    assert main(["ledger", "anchor", *boss]) == 1
    assert "this station stands alone" in capsys.readouterr().err


def test_the_rest_of_an_order_is_given_back_beside_a_running_station(
    line: Line, configured: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = station_ledger(tmp_path, "ledger")
    one._facts["station"] = "s1"
    one.add_order(production(), "linh")
    line.sync(one, "s1").round()
    assert main(["line", "give-back", "WO-1"]) == 0
    assert "4 unit(s) of WO-1" in capsys.readouterr().out
    assert main(["line", "give-back", "WO-1"]) == 1
    one.dispose()


def test_a_station_alone_is_told_so(configured: Settings, owner: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    configured.line = None
    assert main(["line", "init", *owner]) == 1
    assert "this station stands alone" in capsys.readouterr().err


# What the doctor says of the line, and what the station's status does.


class Asked(NamedTuple):
    """A station that has a share of four units and passed one, and its doctor's answer."""

    ledger: SqliteLedger
    configured: Settings

    def line(self) -> Finding:
        (found,) = examine({"line": Doctor(cast("Config", self.configured)).line}, limit_s=30)
        return found


@pytest.fixture
def asked(line: Line, configured: Settings, tmp_path: Path) -> Iterator[Asked]:
    secret(tmp_path / "password", PASSWORD)
    ledger = station_ledger(tmp_path, "ledger")
    ledger._facts["station"] = "s1"
    ledger.add_order(production(), "linh")
    line.sync(ledger, "s1").round()
    whole_run(ledger, unit("SN-1"))
    yield Asked(ledger, configured)
    ledger.dispose()


def no_server(line: LineSettings) -> LineSettings:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        return line.model_copy(update={"port": free.getsockname()[1]})


def test_the_doctor_tells_last_sync_backlog_and_share(line: Line, asked: Asked) -> None:
    waits = (
        rows(asked.ledger.store.path, "SELECT count(*) FROM chain")[0][0]
        - line.rows("SELECT max(seq) FROM line_links")[0][0]
    )
    before = asked.line()
    assert before.level is Level.GOOD
    assert re.search(rf"last sync 20\d\d-\S+ \S+ \S+, {waits} records not there yet; .* WO-1: 3$", before.text)
    assert waits > 0
    line.sync(asked.ledger, "s1").round()
    assert " 0 records not there yet" in asked.line().text
    assert line.rows("SELECT count(*) FROM line_seen") == [(1,)]  # the doctor left no trace


def test_away_from_the_server_the_doctor_says_what_may_still_be_built(line: Line, asked: Asked) -> None:
    asked.configured.line = no_server(line.settings())
    found = asked.line()
    assert (found.level, found.fault) == (Level.WARN, Fault.LINE_AWAY)
    assert found.text.endswith("may still be built without it: WO-1: 3")
    for number in (2, 3, 4):
        whole_run(asked.ledger, unit(f"SN-{number}"))
    found = asked.line()
    assert (found.level, found.fault) == (Level.BAD, Fault.LEASE_SPENT)


def test_a_daemon_at_work_tells_the_doctor_how_it_stands_with_the_line(asked: Asked, tmp_path: Path) -> None:
    asked.configured.line = no_server(asked.configured.line or plain())  # who asks the server itself finds none
    status = StatusBoard("s1", (), simulated=False)
    asked.configured.runtime.mkdir()
    slots = SlotService(tmp_path / "out.json", ())
    server = ControlServer(
        application(status, asked.ledger, frozenset(), slots), asked.configured.runtime / "control.sock"
    )
    server.start()
    at = datetime(2026, 11, 26, 5, 0, tzinfo=UTC)
    try:
        status.post_line(LineLink())
        assert asked.line().fault is Fault.LINE_AWAY  # the daemon does not know yet
        status.post_line(LineLink(at, 7))
        good = asked.line()
        assert (good.level, good.text[:52]) == (Level.GOOD, "in touch with the line; last sync 2026-11-26T05:00:0")
        assert "7 records not there yet; may still be built without it: WO-1: 3" in good.text
        status.post_line(LineLink(at, 9, fault=Fault.LINE_AWAY, detail="no route", since=at))
        away = asked.line()
        assert (away.level, away.fault) == (Level.WARN, Fault.LINE_AWAY)
        assert away.text.startswith(
            "no route, unreachable since 2026-11-26T05:00:00 UTC, last sync 2026-11-26T05:00:00"
        )
        assert "9 records kept here for it; may still be built without it: WO-1: 3" in away.text
    finally:
        server.stop()


def test_the_doctor_names_what_keeps_the_line_from_taking_this_station(line: Line, asked: Asked) -> None:
    asked.configured.station = "s9"
    found = asked.line()
    assert (found.level, found.fault) == (Level.BAD, Fault.LINE_SETUP)
    assert found.text == "the login is s1's, this is s9; its owner runs: station line admit s9"
    asked.configured.station = "s1"
    line.sync(asked.ledger, "s1").round()
    asked.ledger.dispose()
    for file in asked.configured.state.glob("ledger.sqlite*"):
        file.unlink()
    station_ledger(asked.configured.state, "ledger").dispose()
    assert asked.line().fault is Fault.LINE_FORKED


@pytest.mark.parametrize("language", LANGUAGES)
def test_how_the_line_stands_is_one_sentence_in_each_language(language: str) -> None:
    at, messages = "2026-11-26T05:00:00+00:00", Messages.load(language)
    link = {"synced_at": at, "backlog": 31, "left": [["WO-1", 7]], "fault": None, "detail": "", "since": at}
    in_touch = views.line_sentence(link, messages)
    away = views.line_sentence({**link, "fault": "S633", "detail": "no route"}, messages)
    for said in (in_touch, away):
        assert "31" in said
        assert "WO-1: 7" in said
        assert "{" not in said
    assert away.endswith(messages.remedy(Fault.LINE_AWAY))
    assert f"S633 {messages.title(Fault.LINE_AWAY)} (no route)" in away
    never = views.line_sentence({**link, "fault": "S633", "synced_at": None, "left": []}, messages)
    assert messages.word("line never") in never
    assert messages.word("line none") in never
    assert views.line_sentence({**link, "synced_at": None}, messages) == messages.word("line begins")


def test_watch_tells_when_the_line_is_lost_and_when_it_is_back(capsys: pytest.CaptureFixture[str]) -> None:
    at = "2026-11-26T05:00:00+00:00"
    link = {"synced_at": at, "backlog": 0, "left": [], "fault": None, "detail": "", "since": at}
    away = {**link, "fault": "S633", "backlog": 9}
    views.print_changes({"andon": None, "slots": [], "line": each} for each in (link, link, away, away, link, None))
    said = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0][:19] for line in said] == ["line: out of touch ", "line: in touch"]


# Settings.


def plain(**more: object) -> LineSettings:
    values = {"host": "127.0.0.1", "user": "s1", "password": Password(credential="p"), **more}
    return LineSettings.model_validate(values)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "/var/run/postgresql"])
def test_a_server_on_this_machine_needs_no_certificate(host: str) -> None:
    assert plain(host=host).is_here


def test_any_other_server_is_reached_over_verified_tls(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="server_roots"):
        plain(host="db.factory.example")
    from station.ledger.line.server import _libpq

    found = _libpq(plain(host="db.factory.example", server_roots=tmp_path / "ca.pem"), "secret", "s1")
    assert (found["sslmode"], found["sslrootcert"]) == ("verify-full", str(tmp_path / "ca.pem"))


def test_the_block_lasts_for_the_outage() -> None:
    assert plain(outage_h=8.0, units_per_h=60.0).block == 480
    assert plain(outage_h=0.1, units_per_h=1.0).block == 1


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("p\n", 0o644, "chmod 0600"),
        ("", 0o600, "should hold the password"),
        ("a\nb\n", 0o600, "should hold the password"),
        ("", 0, "cannot be read"),
    ],
)
def test_a_password_file_that_is_not_right_is_refused(tmp_path: Path, text: str, mode: int, said: str) -> None:
    path = tmp_path / "password"
    path.write_text(text)
    path.chmod(mode)
    if not mode:
        path.unlink()
    with pytest.raises(FaultError, match=said) as error:
        Password(file=path).read()
    assert error.value.fault is Fault.CONFIG


def test_a_credential_is_systemds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(FaultError, match="LoadCredential"):
        Password(credential="line").read()
    secret(tmp_path / "line", "p4ss")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Password(credential="line").read() == "p4ss"
