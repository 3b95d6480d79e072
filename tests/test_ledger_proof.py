"""The proof: one byte changed anywhere, one row more, less or moved, one day cut off: each is found and named."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import (
    MakeLedger,
    admitted,
    certify,
    open_ledger,
    production,
    rework,
    rows,
    stranger,
    taken_back,
    unit,
    whole_run,
)

from station.cli import main
from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, anchors, chain, export, verify
from station.ledger.anchors import Anchor
from station.seal import seal_id

Edit = Callable[[sqlite3.Connection], object]


@pytest.fixture(scope="module")
def line_of_two_days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Anchor]]:
    """A ledger with passes, failures, rework, and the heads of two days; one file, nothing beside it."""
    ledger = open_ledger(tmp_path_factory.mktemp("days") / "ledger.sqlite")
    ledger.add_order(production(quantity=20), "linh")
    found = []
    for day in ("2026-11-23", "2026-11-24"):
        for index in range(4):
            whole_run(ledger, unit(f"SN-{day[-1]}{index}"), fault=Fault.CLOUD_SILENT if index == 2 else None)
        head = anchors.add_head(ledger.store, "s1", day)
        assert head is not None
        found.append(head)
    ledger.add_order(rework("RW-1", "SN-30"), "linh")
    whole_run(ledger, unit("SN-30"), "another key")
    ledger.dispose()
    return ledger.store.path, found


@pytest.fixture
def copy(line_of_two_days: tuple[Path, list[Anchor]], tmp_path: Path) -> Path:
    return Path(shutil.copy(line_of_two_days[0], tmp_path / "copy.sqlite"))


@pytest.fixture
def heads(line_of_two_days: tuple[Path, list[Anchor]]) -> list[Anchor]:
    return line_of_two_days[1]


def content(path: Path) -> list[Any]:
    """Everything that a reader of SQL could ever see in the file, by plain means of our own."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        connection.text_factory = bytes
        seen: list[Any] = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        for kind, name, *_ in list(seen):
            if kind == b"table":
                query = f"SELECT rowid, * FROM {name.decode()} NOT INDEXED"  # noqa: S608 - a test's own file
                seen += connection.execute(query).fetchall()
        return seen


def changed(path: Path, *statements: str, guarded: bool = False) -> None:
    """What somebody with the file does, guards and all."""
    with stranger(path) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        connection.execute("PRAGMA foreign_keys = OFF")
        for name, _ in [] if guarded else triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in [] if guarded else triggers:
            connection.execute(sql)


def named(path: Path, *held: Anchor) -> str:
    verdict = verify.ledger_file(path, held)
    return "\n".join(f"{found.link} {found.where}: {found.what}" for found in verdict.findings)


def test_a_ledger_as_it_was_written_is_whole_and_says_what_is_not_proved(copy: Path, heads: list[Anchor]) -> None:
    verdict = verify.ledger_file(copy, heads)
    assert verdict.findings == []
    assert (verdict.station, verdict.runs, verdict.anchor) == ("s1", 9, heads[1])
    assert verdict.links > heads[1].seq
    assert verdict.unproved == verdict.links - heads[1].seq
    assert verify.ledger_file(copy).unproved == verdict.links


def test_every_row_of_every_run_is_under_the_link_of_its_own_transaction(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    run = whole_run(ledger, unit())
    last = rows(ledger.store.path, "SELECT rows FROM chain ORDER BY seq DESC LIMIT 1")
    assert last[0][0].startswith("closures:1 ")
    chained: dict[str, int] = {}
    for (text,) in rows(ledger.store.path, "SELECT rows FROM chain"):
        for name, more in chain.Link(1, "", text, b"").counts():
            chained[name] = chained.get(name, 0) + more
    count = "SELECT count(*) FROM "
    there = {name: rows(ledger.store.path, count + name)[0][0] for name in chain.record_tables()}
    assert chained == {name: found for name, found in there.items() if found}
    assert run.id


@settings(max_examples=150, deadline=None, database=None)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_one_byte_changed_anywhere_is_found_or_was_in_no_row(
    line_of_two_days: tuple[Path, list[Anchor]], tmp_path_factory: pytest.TempPathFactory, place: float, mask: int
) -> None:
    whole, held = line_of_two_days
    data = bytearray(whole.read_bytes())
    data[int(place * len(data))] ^= mask
    changed_file = tmp_path_factory.getbasetemp() / "flipped.sqlite"
    changed_file.write_bytes(data)
    if not verify.ledger_file(changed_file, held).findings:
        assert content(changed_file) == content(whole), "a row is another, and nothing was found"


def test_the_bytes_of_every_row_are_found_each(copy: Path, heads: list[Anchor]) -> None:
    """The property above hits free space often; here each hit is inside of something that was written."""
    data = copy.read_bytes()
    words = [b"CHIP-SN-31", b"linh", b"WO-1", b"identify", b"pkcs11:token=t", b"N403", b"closures:1"]
    for word in words:
        place = data.index(word)
        copy.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert named(copy, *heads), word


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE closures SET outcome = 'PASS' WHERE outcome <> 'PASS'", "closures "),
        ("UPDATE steps SET duration_ms = 1 WHERE rowid = 3", "steps "),
        ("UPDATE orders SET quantity = 21", "orders WO-1: was changed"),
        ("UPDATE issued SET der = x'00' WHERE rowid = 1", "issued "),
        ("UPDATE heads SET seq = seq - 1", "heads 2026-11-23: was changed"),
        ("DELETE FROM steps WHERE rowid = 5", "steps: row 5 is missing"),
        ("DELETE FROM closures WHERE rowid = 9", "closures: row 9 is missing"),
        ("INSERT INTO orders SELECT 'WO-9', product, kind, 1, '', 'x', opened_at FROM orders LIMIT 1", "in no link"),
        ("UPDATE identified SET rowid = CASE rowid WHEN 1 THEN -2 ELSE 1 END WHERE rowid IN (1, 2)", "identified"),
        ("DELETE FROM chain WHERE seq = 7", "link 7 is missing"),
        ("UPDATE chain SET at = '2020-01-01' WHERE seq = 7", "7 "),
        ("UPDATE chain SET rows = 'nonsense' WHERE seq = 7", "nothing sensible"),
        ("UPDATE chain SET rows = replace(rows, ':1', ':01') WHERE seq = 7", "nothing sensible"),
        ("UPDATE chain SET hash = x'00' WHERE seq = 7", "8 "),
        ("DELETE FROM live_certificates WHERE serial = 'SN-30'", "live_certificates SN-30: is missing"),
        ("UPDATE live_certificates SET key_id = 'k' WHERE serial = 'SN-30'", "does not follow from the record"),
        ("INSERT INTO live_runs SELECT run, serial, chip_id FROM identified LIMIT 1", "live_runs"),
        ("UPDATE alembic_version SET version_num = '0001'", "alembic_version: is of schema"),
        ("DROP INDEX identified_serial", "identified_serial: is missing"),
        ("CREATE VIEW v AS SELECT 1", "view v: was added"),
    ],
)
def test_an_edit_is_found_and_named(copy: Path, statement: str, found: str) -> None:
    changed(copy, statement)
    assert found in named(copy)


def test_a_guard_that_was_taken_away_is_named(copy: Path) -> None:
    changed(copy, "DROP TRIGGER steps_no_delete", guarded=True)
    assert "trigger steps_no_delete: is missing" in named(copy)


def test_one_edit_is_named_once_and_not_in_every_link_behind_it(copy: Path) -> None:
    changed(copy, "UPDATE steps SET duration_ms = 1 WHERE rowid = 3")
    assert len(verify.ledger_file(copy).findings) == 1


def test_a_file_rolled_back_before_its_last_anchor_is_found(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit("SN-1"))
    ledger.dispose()
    older = Path(shutil.copy(ledger.store.path, tmp_path / "older.sqlite"))
    whole_run(ledger, unit("SN-2"))
    anchor = anchors.add_head(ledger.store, "s1", "2026-11-24")
    assert anchor is not None
    assert named(older) == ""  # by itself it cannot know
    assert f"but link {anchor.seq} was anchored on 2026-11-24: it was rolled back" in named(older, anchor)


def test_a_past_made_anew_with_all_its_hashes_differs_from_the_anchor(copy: Path, heads: list[Anchor]) -> None:
    changed(copy, "UPDATE closures SET outcome = 'PASS', fault = NULL", "DELETE FROM outbox", "DELETE FROM outbox_done")
    changed(copy, "DELETE FROM chain")
    engine = sa.create_engine(f"sqlite:///{copy}")
    with engine.begin() as connection:
        chain.extend(connection, {})
    engine.dispose()
    assert "was changed" not in named(copy)
    assert "the chain up to it was made anew" in named(copy, heads[0]) or "rolled back" in named(copy, heads[0])


def test_an_anchor_of_another_station_is_named(copy: Path, heads: list[Anchor]) -> None:
    other = Anchor("s2", heads[0].day, heads[0].seq, heads[0].hash, heads[0].at)
    assert "is of station s2, not s1" in named(copy, other)


def test_an_old_ledger_is_chained_when_it_is_migrated(
    make_ledger: MakeLedger, ledger_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "_ROWS_A_LINK", 7)
    ledger = make_ledger()
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit("SN-1"))
    ledger.dispose()
    taken_back(ledger_path, "0001")
    again = make_ledger()
    whole_run(again, unit("SN-2"))
    again.dispose()
    assert named(ledger_path) == ""
    assert verify.ledger_file(ledger_path).runs == 2


# Anchors as text.


def test_an_anchor_survives_a_mail(heads: list[Anchor]) -> None:
    mail = "Dear all,\r\n\r\n" + "".join(f"> {line}\r\n" for line in heads[0].text.splitlines()) + "\r\nthe station"
    (again,) = anchors.parse(mail, "mail")
    assert (again.station, again.seq, again.hash) == (heads[0].station, heads[0].seq, heads[0].hash)


@pytest.mark.parametrize("text", ["", "hello", "station ledger anchor 1\nstation: ../x\n"])
def test_what_is_no_anchor_is_refused(text: str) -> None:
    with pytest.raises(FaultError) as error:
        anchors.parse(text, "mail")
    assert error.value.fault is Fault.ANCHOR_INVALID


def test_an_anchor_is_signed_and_the_seal_is_asked_for(
    ledger: SqliteLedger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = tmp_path / "seal.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit())

    def sign(message: bytes) -> bytes:  # as the token does, `station.seal`
        return key.sign(b"provisioning-station seal v1\n" + message, ec.ECDSA(hashes.SHA256()))

    pem = public.read_bytes()
    head = anchors.add_head(ledger.store, "s1", "2026-11-24", sign, seal_id(pem))
    assert head is not None
    with ledger.store.read() as connection:
        assert anchors.last_heads(connection) == [head]
    text = tmp_path / "anchor.txt"
    text.write_text(head.text)
    command = ["ledger", "verify", str(ledger.store.path), "--anchor", str(text), "--seal", str(public)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"Proved to link {head.seq}" in said
    assert "Sealed: 1 of the 1 head(s) in it" in said
    forged = export.export(ledger.store.path, tmp_path / "all.jsonl", head=head).path
    lines = forged.read_text().splitlines(keepends=True)
    last = json.loads(lines[-1])
    last["head"] = head.text.replace("2026-11-24", "2026-11-25")  # of the same link, and another day
    forged.chmod(0o640)
    forged.write_text("".join([*lines[:-1], chain.canonical(last) + "\n"]))
    assert main(["ledger", "verify", str(forged)]) == 0
    assert main(["ledger", "verify", str(forged), "--seal", str(public)]) == 1
    assert "does not carry the signature of seal" in capsys.readouterr().out
    text.write_text(head.text.replace("2026-11-24", "2026-11-25"))
    assert main(command) == 1
    assert "was changed since" in capsys.readouterr().err


def test_a_day_keeps_its_first_head(ledger: SqliteLedger) -> None:
    assert anchors.add_head(ledger.store, "s1", "2026-11-23") is not None
    first = anchors.add_head(ledger.store, "s1", "2026-11-24")
    ledger.add_order(production(), "linh")
    assert anchors.add_head(ledger.store, "s1", "2026-11-24") == first


# Exports and archives.


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_an_export_verifies_without_the_station(copy: Path, heads: list[Anchor], tmp_path: Path, name: str) -> None:
    written = export.export(copy, tmp_path / name)
    here, there = verify.ledger_file(copy, heads), export.verify_export(written.path, heads)
    assert there == here
    said = subprocess.run(
        [sys.executable, "-m", "station", "--config", "/nowhere", "ledger", "verify", "--json", str(written.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(said.stdout)["whole"] is True


@settings(max_examples=150, deadline=None, database=None)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_one_byte_changed_anywhere_in_an_export_is_found(
    line_of_two_days: tuple[Path, list[Anchor]], tmp_path_factory: pytest.TempPathFactory, place: float, mask: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = folder / "whole.jsonl"
    if not whole.exists():
        export.export(line_of_two_days[0], whole)
    data = bytearray(whole.read_bytes())
    data[int(place * len(data))] ^= mask
    flipped = folder / "flipped.jsonl"
    flipped.write_bytes(data)
    assert export.verify_export(flipped).findings


def test_an_export_cut_anywhere_is_found(copy: Path, tmp_path: Path) -> None:
    lines = export.export(copy, tmp_path / "all.jsonl").path.read_text().splitlines(keepends=True)
    for kept in (lines[:-1], lines[:5] + lines[6:], [*lines[:5], lines[6], lines[5], *lines[7:]], [*lines, "x"], []):
        cut = tmp_path / "cut.jsonl"
        cut.write_text("".join(kept))
        assert export.verify_export(cut).findings


def test_a_damaged_ledger_is_not_exported(copy: Path, tmp_path: Path) -> None:
    changed(copy, "DELETE FROM steps WHERE rowid = 5")
    with pytest.raises(FaultError, match="row 5 is missing"):
        export.export(copy, tmp_path / "all.jsonl")
    assert list(tmp_path.glob("*all*")) == []


def test_days_close_into_archives_that_join(copy: Path, heads: list[Anchor], tmp_path: Path) -> None:
    first, second = (export.archive(copy, tmp_path / "archives", head) for head in heads)
    assert first is not None
    assert second is not None
    assert (first.first, first.last, second.first, second.last) == (1, heads[0].seq, heads[0].seq + 1, heads[1].seq)
    assert export.archive(copy, tmp_path / "archives", heads[1]) is None
    for written in (first, second):
        assert export.verify_export(written.path).findings == []
        assert written.path.stat().st_mode & 0o222 == 0
    opened = [gzip.decompress(written.path.read_bytes()).splitlines() for written in (first, second)]
    assert json.loads(opened[0][-1])["hash"] == json.loads(opened[1][0])["before"]


def test_the_folder_of_archives_is_the_record_without_a_gap(
    copy: Path, heads: list[Anchor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "archives"
    first, second = (written.path for head in heads if (written := export.archive(copy, folder, head)) is not None)
    newest = tmp_path / "anchor.txt"
    newest.write_text(heads[1].text)
    verify_all = ["ledger", "verify", str(folder), "--anchor", str(newest)]
    assert main([*verify_all, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["links"], said["proved_to"], said["unproved"], said["runs"]) == (heads[1].seq, heads[1].seq, 0, 8)
    # An archive alone may end before an anchor; the last of the folder may not.
    assert main(["ledger", "verify", str(first), "--anchor", str(newest)]) == 0
    away = tmp_path / "away"
    for gone, where in ((first, f"begins at link {heads[0].seq + 1}"), (second, "it was rolled back")):
        gone.rename(away)
        assert main(verify_all) == 1
        assert where in capsys.readouterr().out
        away.rename(gone)


def test_a_ledger_that_does_not_go_on_from_its_archives_gets_no_further_one(
    copy: Path, heads: list[Anchor], tmp_path: Path
) -> None:
    export.archive(copy, tmp_path / "archives", heads[0])
    other = open_ledger(tmp_path / "ledger.sqlite")  # the station's, after somebody began it anew
    for index in range(12):
        other.add_order(production(f"WO-{index}"), "linh")
    other.dispose()
    for ledger in (other.store.path, tmp_path / "empty.sqlite"):
        if not ledger.exists():
            open_ledger(ledger).dispose()
        with pytest.raises(FaultError, match="has another link") as error:
            export.archive(ledger, tmp_path / "archives", heads[1])
        assert error.value.fault is Fault.LEDGER_CHANGED


def test_a_damaged_archive_stops_the_next_one(copy: Path, heads: list[Anchor], tmp_path: Path) -> None:
    first = export.archive(copy, tmp_path, heads[0])
    assert first is not None
    data = bytearray(first.path.read_bytes())
    data[len(data) // 2] ^= 1
    first.path.chmod(0o640)
    first.path.write_bytes(data)
    with pytest.raises(FaultError) as error:
        export.archive(copy, tmp_path, heads[1])
    assert error.value.fault is Fault.LEDGER_CHANGED


# The commands.


def test_the_command_names_what_it_finds_and_says_so_by_its_code(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ledger", "verify", str(copy)]) == 0
    assert "What happened in it cannot be proved" in capsys.readouterr().out
    changed(copy, "UPDATE orders SET quantity = 21")
    assert main(["ledger", "verify", str(copy)]) == 1
    assert "orders WO-1: was changed" in capsys.readouterr().out
    assert main(["ledger", "verify", "--json", str(copy)]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["where"] == "orders WO-1"
    assert main(["ledger", "verify", "/nowhere/l.sqlite"]) == 1
    assert "S601" in capsys.readouterr().err


def test_a_ledger_at_work_is_verified(ledger: SqliteLedger) -> None:
    ledger.add_order(production(), "linh")
    run = admitted(ledger, unit())
    certify(ledger, run, "k")
    assert verify.ledger_file(ledger.store.path).findings == []
