"""One unit on two stations, and a station that lost a part of its record: what the line knows of it still counts."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import admitted, certify, production, rework, rows, unit, whole_run
from line_bed import PASSED, MakeStations, Pair, build, everything, refused
from postgres import Line

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, verify
from station.ledger.backup import backup, restore
from station.ledger.line.pull import give_back
from station.model import Unit


@pytest.fixture
def line(shared_line: Line) -> Line:
    return shared_line


def test_what_passed_on_one_station_is_refused_on_another(pair: Pair) -> None:
    one, first, two, second = pair
    whole_run(one, unit("SN-1"), "k1")
    first.round()
    second.round()
    with pytest.raises(FaultError, match="has passed before at s1") as error:
        admitted(two, unit("SN-1"))
    assert error.value.fault is Fault.ALREADY_PASSED
    assert refused(lambda: admitted(two, unit("SN-1", "OTHER-CHIP"))) is Fault.IDENTITY_CLASH
    assert refused(lambda: admitted(two, unit("SN-2", "CHIP-SN-1"))) is Fault.IDENTITY_CLASH
    run = admitted(two, unit("SN-3"))
    assert refused(lambda: certify(two, run, "k1")) is Fault.KEY_CLONED


def test_a_unit_of_another_station_is_reworked_here_once(pair: Pair) -> None:
    one, first, two, second = pair
    whole_run(one, unit("SN-1"))
    one.add_order(rework("RW-1", "SN-1"), "linh")
    first.round()
    second.round()
    whole_run(two, unit("SN-1"), "a new key")
    second.round()
    first.round()
    assert refused(lambda: admitted(one, unit("SN-1"))) is Fault.ALREADY_PASSED
    assert rows(one.store.path, "SELECT * FROM clashes") == []


def test_the_line_knows_a_retest_though_its_first_run_comes_late_and_from_another_station(
    line: Line, pair: Pair
) -> None:
    one, first, two, second = pair
    runs = [whole_run(one, unit("SN-1"), fault=Fault.KEY_WEAK), whole_run(two, unit("SN-1"))]
    runs += [whole_run(one, unit("SN-2"), fault=Fault.KEY_WEAK), whole_run(one, unit("SN-2"))]
    known = "SELECT run, station, outcome FROM retests ORDER BY serial"
    second.round()
    assert line.rows(known) == []
    first.round()
    assert rows(one.store.path, known) == [(runs[3].id, "s1", "PASS")]
    assert line.rows(known) == [(runs[1].id, "s2", "PASS"), (runs[3].id, "s1", "PASS")]
    everything(line, one, two)


@pytest.mark.parametrize(
    ("later", "key_name", "kind"),
    [
        (unit("SN-1"), "k2", "serial"),
        (unit("SN-1", "OTHER"), "k2", "chip of serial"),
        (unit("SN-2", "CHIP-SN-1"), "k2", "serial of chip"),
        (unit("SN-2"), "k1", "key"),
    ],
)
def test_a_clash_found_later_is_named_and_the_later_certificate_goes_out_of_service(
    line: Line, pair: Pair, later: Unit, key_name: str, kind: str
) -> None:
    one, first, two, second = pair
    whole_run(one, unit("SN-1"), "k1")
    whole_run(two, later, key_name)  # out of touch: it cannot know
    first.round()
    second.round()
    first.round()
    for ledger in (one, two):
        found = rows(ledger.store.path, "SELECT kind, earlier_station, later_station FROM clashes")
        assert (kind, "s1", "s2") in found
        assert verify.ledger_file(ledger.store.path).findings == []
    assert rows(two.store.path, "SELECT reason FROM outbox") == [("clash",)]
    assert rows(two.store.path, "SELECT * FROM live_certificates") == []
    assert rows(one.store.path, "SELECT * FROM outbox") == []
    second.round()
    everything(line, one, two)


# The past of a station.


def test_a_ledger_that_was_rolled_back_is_found_by_the_line(
    line: Line, make_stations: MakeStations, tmp_path: Path
) -> None:
    (one,) = make_stations("s1")
    one.add_order(production(), "linh")
    line.sync(one, "s1").round()
    one.dispose()
    old = one.store.path.read_bytes()
    build(one, "SN", 2)
    line.sync(one, "s1").round()
    one.dispose()
    one.store.path.write_bytes(old)
    assert refused(line.sync(one, "s1").round) is Fault.LINE_FORKED
    build(one, "XX", 2)  # as many links as were there, of another past
    assert refused(line.sync(one, "s1").round) is Fault.LINE_FORKED


def put_back(ledger: SqliteLedger, name: str, folder: Path) -> None:
    """Restore ``b.sqlite`` of the folder in the place of a station's ledger."""
    state = folder / "state"
    state.mkdir()
    restore(folder / "b.sqlite", state, folder / "archives", "linh", name)
    ledger.dispose()
    shutil.copy(state / "ledger.sqlite", ledger.store.path)  # into the same file, which the station's parts hold open
    ledger.store.path.with_name(f"{ledger.store.path.name}-wal").unlink(missing_ok=True)


def test_a_restored_station_goes_on_and_what_it_lost_still_counts(
    line: Line, make_stations: MakeStations, tmp_path: Path
) -> None:
    (one,) = make_stations("s1")
    one.add_order(production(quantity=6), "linh")
    line.sync(one, "s1", block=6).round()
    whole_run(one, unit("SN-0"))
    backup(one.store.path, tmp_path / "b.sqlite")
    assert build(one, "LOST", 3) == 3
    line.sync(one, "s1").round()
    put_back(one, "s1", tmp_path)
    # The server is away: nobody here knows what was lost.
    assert refused(lambda: admitted(one, unit("SN-1"))) is Fault.LEASE_SPENT
    assert give_back(one.store, "s1", "WO-1") == 0
    line.sync(one, "s1", block=6).round()
    assert refused(lambda: admitted(one, unit("LOST-1"))) is Fault.ALREADY_PASSED
    assert build(one, "SN-NEW", 9) == 2
    line.sync(one, "s1", block=6).round()
    assert line.rows(PASSED) == [(6,)]
    assert verify.ledger_file(one.store.path).findings == []


def test_a_station_that_was_restored_twice_goes_on(line: Line, make_stations: MakeStations, tmp_path: Path) -> None:
    (one,) = make_stations("s1")
    one.add_order(production(quantity=30), "linh")
    sync = line.sync(one, "s1", block=30)
    sync.round()
    for turn, after in (("A", 4), ("B", 2)):
        folder = tmp_path / turn
        folder.mkdir()
        assert build(one, turn, 2) == 2
        sync.round()
        backup(one.store.path, folder / "b.sqlite")
        assert build(one, f"LOST-{turn}", after) == after
        sync.round()
        put_back(one, "s1", folder)
        sync.round()  # the second time the server has links of these numbers from two pasts of this station
    assert build(one, "C", 30) == 30 - 4 - 6
    sync.round()
    assert line.rows(PASSED) == [(30,)]
    with closing(line.server.owner(line.name)) as owner:  # what it came through is held against the server's
        owner.execute("DELETE FROM line_links WHERE epoch = (SELECT max(epoch) FROM line_links)")
        owner.execute("UPDATE line_links SET hash = '' WHERE epoch = (SELECT max(epoch) FROM line_links)")
    assert refused(line.sync(one, "s1").round) is Fault.LINE_FORKED


def test_a_certificate_that_must_go_goes_though_its_run_was_lost_with_the_disk(pair: Pair, tmp_path: Path) -> None:
    one, first, two, second = pair
    backup(two.store.path, tmp_path / "b.sqlite")
    whole_run(one, unit("SN-1"))
    whole_run(two, unit("SN-1"), "another key")  # out of touch: it cannot know
    whole_run(two, unit("SN-2"), fault=Fault.CLOUD_SILENT)
    first.round()
    with second._server.transaction() as server:
        second._pusher.begin(server)
    second.push()  # the last that the disk lives: the clash is found on the server, and not heard of here
    signed = "SELECT number, der FROM issued ORDER BY number"
    before = rows(two.store.path, signed)
    put_back(two, "s2", tmp_path)
    assert rows(two.store.path, signed) == []
    second.round()
    assert rows(two.store.path, signed) == before
    assert rows(two.store.path, "SELECT reason FROM outbox ORDER BY number") == [("clash",), ("ERROR",)]
    assert two.recover() == []
    assert verify.ledger_file(two.store.path).findings == []
    second.round()
    assert build(two, "C", 9) == 3


def test_what_a_station_gave_back_before_a_restore_it_does_not_build_after_it(
    line: Line, make_stations: MakeStations, tmp_path: Path
) -> None:
    one, two = make_stations("s1", "s2")
    one.add_order(production(quantity=6), "linh")
    first, second = line.sync(one, "s1", block=6), line.sync(two, "s2", block=6)
    first.round()
    assert build(one, "A", 1) == 1
    backup(one.store.path, tmp_path / "b.sqlite")
    give_back(one.store, "s1", "WO-1")
    first.round()
    second.round()
    assert build(two, "B", 4) == 4
    put_back(one, "s1", tmp_path)
    first.round()
    assert build(one, "C", 9) == 0
    assert build(two, "D", 9) == 1
    second.round()
    assert line.rows(PASSED) == [(6,)]
