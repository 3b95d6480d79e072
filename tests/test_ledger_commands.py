"""The record's commands as an auditor and an engineer run them: exit codes, sentences, JSON, on files alone."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from ledgers import MakeLedger, command, environment, open_ledger, production, rows, stranger, unit, whole_run

from station.cli import main
from station.ledger import anchors

_RUNS = """\
import sys, itertools; from pathlib import Path; import ledgers as l
l._numbers = itertools.count(0x900000)
ledger = l.open_ledger(Path(sys.argv[1]))
for i in itertools.count():
    l.whole_run(ledger, l.unit(f'BUSY-{i}'))
    print(i, flush=True)
"""


class Desk:
    """A station's folder with a record of two days, and its commands."""

    def __init__(self, settings: Path) -> None:
        self._settings, self.folder = settings, settings.parent
        self.ledger = self.folder / "ledger.sqlite"

    def __call__(self, *arguments: str | Path) -> int:
        return main(["--config", str(self._settings), "ledger", *map(str, arguments)])

    def anchored(self, capsys: pytest.CaptureFixture[str]) -> Path:
        """The newest anchor, as the command prints it."""
        capsys.readouterr()
        assert self("anchor") == 0
        file = self.folder / "anchor.txt"
        file.write_text(capsys.readouterr().out)
        return file


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ledger = open_ledger(tmp_path_factory.mktemp("days") / "ledger.sqlite")
    ledger.add_order(production(quantity=10_000), "linh")
    for serial in ("SN-1", "SN-2", "SN-3"):
        whole_run(ledger, unit(serial))
        if serial != "SN-3":
            anchors.add_head(ledger.store, "s1", f"2026-11-2{serial[-1]}")
    ledger.dispose()
    return ledger.store.path


@pytest.fixture
def desk(settings: Path, two_days: Path) -> Desk:
    settings.write_text(settings.read_text().replace("station: line-1", "station: s1", 1))
    shutil.copy(two_days, settings.parent / "ledger.sqlite")
    return Desk(settings)


def in_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_an_export_is_proved_on_a_machine_that_has_no_station(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anchor, export = desk.anchored(capsys), desk.folder / "all.jsonl.gz"
    assert desk("export", export) == 0
    assert f"verify it: station ledger verify {export}" in capsys.readouterr().out
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copies = [shutil.copy(file, elsewhere) for file in (export, anchor)]
    done = subprocess.run(
        [sys.executable, "-m", "station", "ledger", "verify", copies[0], "--anchor", copies[1]],
        env={"PATH": "/usr/bin:/bin"},  # no STATION_CONFIG, no home
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "is as station s1 wrote it" in done.stdout
    assert "of 2026-11-22." in done.stdout
    assert "cannot be proved (" in done.stdout  # SN-3 came after the anchor
    assert sorted(path.name for path in elsewhere.iterdir()) == ["all.jsonl.gz", "anchor.txt"]
    assert desk("export", export) == 1  # never over another file
    assert "is there already; name a new file" in capsys.readouterr().err


def test_one_byte_edited_in_a_copy_is_found_and_named(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    data, copy = desk.ledger.read_bytes(), desk.folder / "copy.sqlite"
    for word, where in ((b"CHIP-SN-2", "identities"), (b"identify", "steps "), (b"closures:1", "chain")):
        place = data.rindex(word)
        copy.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert desk("verify", copy) == 1
        said = capsys.readouterr().out
        assert f"{copy} is NOT as the station wrote it. Keep the file, and every anchor; call the auditor." in said
        assert where in said
        assert desk("verify", copy, "--json") == 1
        found = in_json(capsys)
        assert found["whole"] is False
        assert found["findings"]


def test_a_file_from_before_its_last_anchor_is_found(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    older = Path(shutil.copy(desk.ledger, desk.folder / "older.sqlite"))
    ledger = open_ledger(desk.ledger)
    whole_run(ledger, unit("SN-4"))
    anchors.add_head(ledger.store, "s1", "2026-11-23")
    ledger.dispose()
    anchor = desk.anchored(capsys)
    assert desk("verify", older) == 0  # by itself it cannot know, and says so
    assert "What happened in it cannot be proved" in capsys.readouterr().out
    assert desk("verify", older, "--anchor", anchor) == 1
    assert "was anchored on 2026-11-23: it was rolled back" in capsys.readouterr().out
    assert desk("verify", "--anchor", anchor, "--json") == 0  # the station's own
    found = in_json(capsys)
    assert found["proved_to"] == found["links"] - found["unproved"] > 0
    assert (found["heads"], found["sealed"]) == (3, None)


@pytest.mark.parametrize("coding", ["base64", "quoted-printable", "8bit"])
def test_an_anchor_is_read_from_a_mail_as_it_was_saved(
    desk: Desk, capsys: pytest.CaptureFixture[str], coding: str
) -> None:
    text = desk.anchored(capsys).read_text()
    mail = EmailMessage()
    mail.set_content(f"Tỷ lệ đạt\n\n{text}", cte=coding)
    mail.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="yield.pdf")
    saved = desk.folder / "mail.eml"
    saved.write_bytes(mail.as_bytes())
    assert desk("verify", "--anchor", saved, "--json") == 0
    assert in_json(capsys)["proved_to"] > 0


def test_what_is_no_anchor_and_no_seal_is_told(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((("--anchor", desk.ledger), "S631"), (("--seal", "/nowhere"), "S620")):
        assert desk("verify", *arguments) == 1
        said = capsys.readouterr().err
        assert said.startswith(code)
        assert "Next:" in said


def test_no_anchor_before_a_day_is_over(make_ledger: MakeLedger, settings: Path, capsys: Any) -> None:
    make_ledger().dispose()
    assert Desk(settings)("anchor") == 1
    assert "no day is over yet" in capsys.readouterr().err


def test_a_backup_of_a_line_at_work_and_the_way_back(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    backup = desk.folder / "backup.sqlite"
    line = subprocess.Popen(command(_RUNS, desk.ledger), env=environment(), stdout=subprocess.PIPE, text=True)
    assert line.stdout is not None
    try:
        assert line.stdout.readline() == "0\n"
        assert desk("backup", backup) == 0
        assert line.poll() is None
        line.stdout.readline()  # what it wrote meanwhile, and writes on
    finally:
        line.kill()
        line.wait()
        line.stdout.close()
    assert "links, verified" in capsys.readouterr().out
    assert desk("backup", backup) == 1
    assert "a backup never overwrites another file" in capsys.readouterr().err
    with (desk.folder / "station.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as a running station does
        assert desk("restore", backup) == 1
        assert "S608" in capsys.readouterr().err
    assert desk("restore", backup, "--by", "Nguyễn Thị Hoa") == 0
    said = capsys.readouterr().out
    (kept,) = desk.folder.glob("ledger.sqlite.replaced-*Z")
    assert f"the replaced one is kept: {kept}" in said
    assert desk("verify", "--json") == 0
    assert in_json(capsys)["runs"] >= 4
    assert rows(desk.ledger, "SELECT restored_by FROM restorations") == [("Nguyễn Thị Hoa",)]
    with stranger(backup) as file:
        file.execute("DROP TRIGGER orders_no_update")
        file.execute("UPDATE orders SET quantity = 11")
    assert desk("restore", backup) == 1
    assert "S632" in capsys.readouterr().err


def test_any_byte_of_a_backup_counts(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    backup = desk.folder / "backup.sqlite"
    assert desk("backup", backup) == 0
    assert "its SHA-256 is in" in capsys.readouterr().out
    subprocess.run(["sha256sum", "--check", f"{backup.name}.sha256"], cwd=desk.folder, check=True, capture_output=True)
    data = backup.read_bytes()
    free = data.index(bytes(64), 4096)  # in no row
    for place in (27, free, len(data) - 1):  # 27: the file's change counter
        backup.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert desk("verify", backup) == 1
        assert "has another SHA-256 than backup.sqlite.sha256 says" in capsys.readouterr().out
    assert desk("restore", backup) == 1
    assert "S632" in capsys.readouterr().err
    backup.write_bytes(data)
    assert desk("restore", backup) == 0
    assert not (desk.folder / "ledger.sqlite.restoring.sha256").exists()


def test_a_record_that_is_gone_is_begun_anew_by_a_person_alone(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk("begin", "--by", "linh") == 1  # it is there
    assert "S632" in capsys.readouterr().err
    desk.ledger.unlink()
    with pytest.raises(SystemExit) as ended:
        desk("begin", "--by", "linh\u202e")
    assert ended.value.code == 2
    assert desk("begin", "--by", "linh") == 0
    assert "which units passed before is not known to it" in capsys.readouterr().out
    assert desk("verify") == 0
    assert rows(desk.ledger, "SELECT seq, restored_by FROM restorations") == [(0, "linh")]


def test_long_work_counts_on_a_terminal_and_nowhere_else(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert desk("verify") == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    links = rows(desk.ledger, "SELECT count(*) FROM chain")[0][0]
    export = desk.folder / "all.jsonl"
    for arguments, end in (
        (("verify",), f"\rlinks: {links} of {links}\n"),
        (("export", export), f"\rlinks: {links} of {links}\n"),
        (("verify", export), "\rbytes: {size} of {size}\n"),
        (("backup", desk.folder / "b.sqlite"), f"\rlinks: {links} of {links}\n"),
    ):
        assert desk(*arguments) == 0
        size = export.stat().st_size if export.exists() else 0
        assert capsys.readouterr().err.endswith(end.format(size=size))
