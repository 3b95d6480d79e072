"""A line of three stations on a real PostgreSQL: no row lost, none twice, no order over-produced by one unit."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import psycopg
import pytest
import sqlalchemy as sa
from ledgers import admitted, certify, end, finish, golden, production, rework, rows, started, unit, whole_run
from postgres import PASSWORD, STATIONS, Line, Network, Postgres, station_ledger

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, chain, verify
from station.ledger.backup import backup, restore
from station.ledger.line import LineServer, LineSync, pull, push, setup
from station.ledger.line.pull import give_back
from station.ledger.line.push import NOT_PUSHED, PUSHED
from station.model import Unit

MakeStations = Callable[..., list[SqliteLedger]]
PASSED = "SELECT count(*) FROM tally WHERE outcome = 'PASS' AND kind = 'production'"


@pytest.fixture
def line(shared_line: Line) -> Line:
    return shared_line


def refused(call: Callable[[], object]) -> Fault:
    with pytest.raises(FaultError) as error:
        call()
    return error.value.fault


def everything(line: Line, *ledgers: SqliteLedger) -> None:
    """The line has each row that the stations have, each once and as it is there, and no other."""
    for table in PUSHED:
        query = f"SELECT {', '.join(table.columns.keys())} FROM {table.name}"  # noqa: S608 - our own names
        there = [tuple(int(value) if isinstance(value, bool) else value for value in row) for row in line.rows(query)]
        here = {row for ledger in ledgers for row in rows(ledger.store.path, query)}
        assert len(there) == len(set(there)), f"{table.name}: a row is there twice"
        assert set(there) == here, table.name
    for ledger in ledgers:
        chained = rows(ledger.store.path, "SELECT count(*) FROM chain")[0][0]
        there = line.rows("SELECT count(*), max(seq) FROM line_links WHERE station = %s", ledger.store.path.stem)
        assert there == [(chained, chained)]
        assert verify.ledger_file(ledger.store.path).findings == []


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def build(ledger: SqliteLedger, prefix: str, most: int) -> int:
    """Units one after the other, until the station's share is used up; how many passed."""
    return next((index for index in range(most) if not built(ledger, f"{prefix}-{index}")), most)


def built(ledger: SqliteLedger, serial: str, fault: Fault | None = None) -> bool:
    """A run of the unit, as far as the station has a share left for it."""
    run = started(ledger, unit(serial))
    try:
        ledger.admit(run)
    except FaultError as error:
        if error.fault not in {Fault.LEASE_SPENT, Fault.ORDER_FULL, Fault.NO_ORDER}:
            raise
        end(ledger, run, error.fault)
        return False
    finish(ledger, run, serial, fault)
    return True


# Three stations, and what befalls them.


@pytest.mark.timeout(300)
def test_three_stations_build_one_order_through_cuts_and_kills_and_never_one_unit_too_many(
    line: Line, postgres: Postgres, network: Network, make_stations: MakeStations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("station.ledger.line.sync._LONGEST_PAUSE_S", 0.5)
    apart = (timedelta(days=-3), timedelta(0), timedelta(hours=26))
    clocks = {name: {"clock": lambda by=by: datetime.now(UTC) + by} for name, by in zip(STATIONS, apart, strict=True)}
    ledgers = make_stations(*STATIONS, **clocks)
    syncs = [
        line.sync(one, name, network.port, deadline_s=3.0, every_s=0.05)
        for one, name in zip(ledgers, STATIONS, strict=True)
    ]
    ledgers[0].add_order(production(quantity=30), "linh")
    over = threading.Event()
    slots = [threading.Thread(target=work, args=(one, name, over)) for one, name in zip(ledgers, STATIONS, strict=True)]
    for thread in (*syncs, *slots):
        thread.start()
    try:
        for befalls in (network.cut, postgres.kill, network.cut, postgres.kill):
            until(lambda: all(sync.state.fault is None and sync.state.synced_at for sync in syncs))
            befalls()
            until(lambda: all(sync.state.fault is Fault.LINE_AWAY for sync in syncs))
            postgres.start()
            network.mend()
        until(lambda: line.rows(PASSED) == [(30,)])
    finally:
        over.set()
        postgres.start()
        network.mend()
        for thread in slots:
            thread.join()
        for sync in syncs:
            sync.stop()
    for one, name in zip(ledgers, STATIONS, strict=True):
        line.sync(one, name).round()
    everything(line, *ledgers)
    assert line.rows(PASSED) == [(30,)]
    assert line.rows("SELECT sum(quantity) FROM leases") == [(30,)]
    assert refused(lambda: whole_run(ledgers[1], unit("ONE-MORE"))) in {Fault.LEASE_SPENT, Fault.ORDER_FULL}


def work(ledger: SqliteLedger, name: str, over: threading.Event) -> None:
    """A slot: units one after the other, every fifth not good, for as long as there is a share."""
    index = 0
    while not over.is_set():
        if built(ledger, f"{name}-{index}", Fault.CLOUD_SILENT if index % 5 == 3 else None):
            index += 1
        else:
            over.wait(0.1)


def test_a_network_cut_at_any_byte_loses_nothing_and_gives_nothing_twice(
    line: Line, network: Network, make_stations: MakeStations
) -> None:
    (one,) = make_stations("s1")
    sync = line.sync(one, "s1", network.port)
    sync.round()
    for number, after in enumerate((0, 600, 2000, 4000, 7000, 12000), start=1):
        one.add_order(production(f"WO-{number}", 4), "linh")
        sync._server = line.login("s1", network.port, deadline_s=0.5)
        network.cut_after = network.passed + after
        suppress_all(sync.round)
        network.mend()
        sync._server = line.login("s1", network.port)
        sync.round()
        assert build(one, f"SN-{number}", 9) == 4
    sync.round()
    everything(line, one)
    assert set(line.rows("SELECT order_number, sum(quantity) FROM leases GROUP BY 1")) == {
        (f"WO-{number}", 4) for number in range(1, 7)
    }


@pytest.mark.parametrize("at", ["push", "pushed"], ids=["before it commits", "after it committed"])
def test_a_server_killed_in_a_push_has_each_row_once(
    line: Line, postgres: Postgres, make_stations: MakeStations, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    (one,) = make_stations("s1")
    one.add_order(production(quantity=9), "linh")
    sync = line.sync(one, "s1", block=9)
    sync.round()
    assert build(one, "SN", 3) == 3
    done = getattr(sync._pusher, at)

    def then_killed(*told: object) -> None:
        done(*told)
        postgres.kill()

    monkeypatch.setattr(sync._pusher, at, then_killed)
    try:
        assert refused(sync.round) is Fault.LINE_AWAY
    finally:
        postgres.start()
    monkeypatch.undo()
    assert line.rows(PASSED) == [(3 if at == "pushed" else 0,)]
    sync.round()
    everything(line, one)
    assert line.rows(PASSED) == [(3,)]


class Lossy:
    """The line's server behind a network that loses requests, and answers of what was committed."""

    def __init__(self, server: LineServer, chance: random.Random) -> None:
        self._server, self._chance = server, chance

    @contextmanager
    def transaction(self, deadline_s: float | None = None) -> Iterator[sa.Connection]:
        fate = self._chance.random()
        if fate < 0.15:
            raise FaultError(Fault.LINE_AWAY, "the request is lost")
        with self._server.transaction(deadline_s) as connection:
            yield connection
        if fate > 0.85:
            raise FaultError(Fault.LINE_AWAY, "the answer is lost")


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_lost_given_back_or_late_the_order_is_built_to_the_unit(
    line: Line, make_stations: MakeStations, seed: int
) -> None:
    chance = random.Random(seed)
    ledgers = make_stations(*STATIONS)
    syncs = [line.sync(one, name, block=3) for one, name in zip(ledgers, STATIONS, strict=True)]
    whole = [sync._server for sync in syncs]
    for sync in syncs:
        sync._server = cast("LineServer", Lossy(sync._server, chance))
    ledgers[0].add_order(production(quantity=13), "linh")
    for turn in range(90):
        index = chance.randrange(3)
        match chance.choices(("build", "sync", "give back"), (5, 4, 1))[0]:
            case "build":
                fault = Fault.CLOUD_SILENT if chance.random() < 0.2 else None
                built(ledgers[index], f"{STATIONS[index]}-{turn}", fault)
            case "sync":
                suppress_all(syncs[index].round)
            case "give back":
                give_back(ledgers[index].store, STATIONS[index], "WO-1")
        assert line.rows("SELECT coalesce(sum(quantity), 0) <= 13 FROM leases") == [(True,)]
    for sync, server in zip(syncs, whole, strict=True):
        sync._server = server
        sync.round()
    more = itertools.count()  # now the first builds what is left of it all
    for ledger, sync, name in zip(ledgers[1:], syncs[1:], STATIONS[1:], strict=True):
        give_back(ledger.store, name, "WO-1")
        sync.push()
    syncs[0].round()
    while built(ledgers[0], f"last-{next(more)}"):
        syncs[0].round()
    for sync in syncs:
        sync.round()
    assert line.rows(PASSED) == [(13,)]
    assert line.rows("SELECT sum(quantity) FROM leases") == [(13,)]
    everything(line, *ledgers)


def test_a_server_that_hangs_holds_up_no_slot(line: Line, network: Network, make_stations: MakeStations) -> None:
    (one,) = make_stations("s1")
    one.add_order(production(), "linh")
    sync = line.sync(one, "s1", network.port, deadline_s=100.0, every_s=0.05)
    sync.round()
    network.cut()
    hung = threading.Thread(target=lambda: suppress_all(sync.round))
    hung.start()
    whole_run(one, unit("SN-1"))
    whole_run(one, unit("SN-2"))
    assert hung.is_alive()  # two units were built beside it
    network.mend()
    hung.join(30)
    assert not hung.is_alive()
    sync.round()
    everything(line, one)


def test_a_connection_that_the_pool_replaces_by_itself_leaves_no_socket_behind(line: Line) -> None:
    server = line.login("s1")
    with server.transaction() as connection:
        connection.connection.invalidate(soft=True)  # as the pool does with one that it finds dead
        before = server._handle
    with server.transaction() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert before is not None
    assert (before.fileno(), server._handle is before) == (-1, False)


def test_the_server_allows_a_long_transaction_what_it_was_asked_for_and_no_other(line: Line) -> None:
    server = line.login("s1", deadline_s=0.5)
    with server.transaction(30.0) as connection:
        connection.exec_driver_sql("SELECT pg_sleep(0.7)")
        time.sleep(0.7)  # idle within the transaction, as while a report is drawn
        connection.exec_driver_sql("SELECT 1")
    assert refused(lambda: sleep_there(server)) is Fault.LINE_AWAY


def sleep_there(server: LineServer) -> None:
    with server.transaction() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(5)")


def suppress_all(call: Callable[[], object]) -> None:
    with suppress(FaultError):
        call()


def test_days_offline_are_caught_up_in_order_portion_by_portion(
    line: Line, make_stations: MakeStations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "_LINKS_A_PUSH", 7)
    (one,) = make_stations("s1")
    one.add_order(production(quantity=50), "linh")
    line.sync(one, "s1", block=20).round()
    assert build(one, "SN", 12) == 12
    line.sync(one, "s1").round()
    assert line.rows("SELECT count(*) FROM line_links l JOIN line_links e ON e.seq < l.seq AND e.id > l.id") == [(0,)]
    everything(line, one)


# Orders and their shares.


def test_a_station_works_through_an_outage_with_its_share_and_then_says_why_it_stops(
    line: Line, make_stations: MakeStations
) -> None:
    one, two = make_stations("s1", "s2")
    one.add_order(production(quantity=100), "linh")
    assert refused(lambda: whole_run(one, unit("EARLY"))) is Fault.LEASE_SPENT
    line.sync(one, "s1", block=6).round()
    line.sync(two, "s2", block=6).round()
    # Now the server is away.
    assert build(one, "A", 20) == 6
    assert build(two, "B", 20) == 6
    assert refused(lambda: whole_run(one, unit("LATE"))) is Fault.LEASE_SPENT
    line.sync(one, "s1", block=6).round()
    assert build(one, "C", 20) == 6


def test_the_last_share_is_what_is_left(line: Line, make_stations: MakeStations) -> None:
    one, two = make_stations("s1", "s2")
    one.add_order(production(quantity=5), "linh")
    for ledger, name in ((one, "s1"), (two, "s2")):
        line.sync(ledger, name, block=4).round()
    assert (build(one, "A", 9), build(two, "B", 9)) == (4, 1)


def test_what_a_station_gives_back_another_builds(line: Line, make_stations: MakeStations) -> None:
    one, two = make_stations("s1", "s2")
    one.add_order(production(quantity=5), "linh")
    first, second = line.sync(one, "s1", block=5), line.sync(two, "s2", block=5)
    first.round()
    second.round()
    assert build(one, "A", 2) == 2
    give_back(one.store, "s1", "WO-1")
    assert refused(lambda: whole_run(one, unit("A-9"))) is Fault.LEASE_SPENT
    first.push()
    second.round()
    assert build(two, "B", 9) == 3


def test_what_is_given_back_is_not_taken_again_until_a_unit_is_refused_for_it(
    line: Line, make_stations: MakeStations
) -> None:
    one, two = make_stations("s1", "s2")
    one.add_order(production(quantity=9), "linh")
    first, second = line.sync(one, "s1", block=5), line.sync(two, "s2", block=5)
    first.round()
    assert build(one, "A", 2) == 2
    give_back(one.store, "s1", "WO-1")
    first.round()
    first.round()
    assert line.rows("SELECT sum(quantity) FROM leases") == [(2,)]
    second.round()
    assert build(two, "B", 4) == 4
    second.round()
    run = started(one, unit("A-9"))
    assert refused(lambda: one.admit(run)) is Fault.LEASE_SPENT
    end(one, run, Fault.LEASE_SPENT)
    first.round()
    assert line.rows("SELECT sum(quantity) FROM leases") == [(9,)]
    assert build(one, "C", 9) + build(two, "D", 9) == 3


class Meanwhile:
    """The line's server; something befalls the station right after a share was committed there."""

    def __init__(self, server: LineServer, given: Callable[[], bool], befalls: Callable[[], object]) -> None:
        self._server, self._given, self._befalls = server, given, befalls

    @contextmanager
    def transaction(self, deadline_s: float | None = None) -> Iterator[sa.Connection]:
        with self._server.transaction(deadline_s) as connection:
            yield connection
        if self._given():
            self._befalls()


def test_what_is_given_back_while_the_next_share_is_on_its_way_is_nobodys_loss(
    line: Line, make_stations: MakeStations
) -> None:
    (one,) = make_stations("s1")
    one.add_order(production(), "linh")
    sync = line.sync(one, "s1", block=4)
    sync.round()
    assert build(one, "A", 2) == 2
    back: list[int] = []
    given = Meanwhile(
        sync._server,
        lambda: not back and line.rows("SELECT count(*) FROM leases") == [(2,)],
        lambda: back.append(give_back(one.store, "s1", "WO-1")),
    )
    sync._server = cast("LineServer", given)
    sync.round()
    assert back == [2]
    assert line.rows("SELECT quantity FROM leases ORDER BY quantity") == [(-2,), (4,), (4,)]
    everything(line, one)
    assert build(one, "B", 9) == 4


def test_any_number_of_closed_orders_is_no_burden_to_a_sync(line: Line, make_stations: MakeStations) -> None:
    one, two = make_stations("s1", "s2")
    many = 66_000  # PostgreSQL takes 65,535 parameters
    old = [(f"OLD-{index}",) for index in range(many)]
    with closing(sqlite3.connect(one.store.path)) as file, file:
        file.executemany("INSERT INTO orders VALUES (?, 'sensor-b', 'production', 1, '', 'linh', '2026-01-01')", old)
        file.executemany("INSERT INTO order_closures VALUES (?, 'linh', '2026-01-01')", old)
    two.add_order(production(), "linh")
    line.sync(two, "s2").round()
    with line.login("s1").transaction() as server:
        pull.pull_orders(server, one.store)
    assert rows(one.store.path, "SELECT number FROM orders WHERE number NOT LIKE 'OLD-%'") == [("WO-1",)]


def test_an_order_is_opened_on_one_station_and_closed_on_another(
    line: Line, make_stations: MakeStations, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = make_stations("s1", "s2")
    first, second = line.sync(one, "s1"), line.sync(two, "s2")
    one.add_order(production(), "linh")
    one.add_order(golden("GO-1", "SN-GOOD"), "linh")
    first.round()
    second.round()
    assert {found.order for found in two.orders()} == {found.order for found in one.orders()}
    two.close_order("WO-1", "linh")
    second.round()
    first.round()
    assert refused(lambda: whole_run(one, unit())) is Fault.NO_ORDER
    said = capsys.readouterr().out
    assert re.search(r"an order was closed on another station.* by=linh .*order=WO-1 .*station=s2", said)
    first.round()
    everything(line, one, two)


def test_units_of_a_lot_come_with_their_order_and_from_no_other_station(
    line: Line, make_stations: MakeStations
) -> None:
    one, two = make_stations("s1", "s2")
    first, second = line.sync(one, "s1"), line.sync(two, "s2")
    one.add_order(golden("GO-1", "SN-GOOD"), "linh")
    two.add_order(golden("GO-1", "SN-OTHER"), "minh")
    first.round()
    second.round()  # its own lot of this number is left out, and holds up nothing
    with closing(line.as_station("s3")) as other:
        other.execute("INSERT INTO order_units VALUES ('GO-1', 'SN-STRANGE')")
    assert line.rows("SELECT * FROM order_units") == [("GO-1", "SN-GOOD")]
    two.add_order(golden("GO-2", "SN-OTHER"), "minh")
    second.round()
    first.round()
    everything(line, one)


def test_a_lot_is_taken_over_when_all_its_units_are_there(
    line: Line, make_stations: MakeStations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "_LINKS_A_PUSH", 1)
    one, two = make_stations("s1", "s2")
    first, second = line.sync(one, "s1"), line.sync(two, "s2")
    one.add_order(golden("GO-1", *(f"SN-{index:04}" for index in range(1200))), "linh")  # two links
    with first._server.transaction() as server:
        first._pusher.begin(server)
    while line.rows("SELECT count(*) FROM orders") == [(0,)]:
        portion = first._pusher.next()
        assert portion is not None
        with first._server.transaction() as server:
            first._pusher.push(server, portion)
        first._pusher.pushed(portion)
    with closing(line.as_station("s3")) as other:  # nor is what is no order at all, whoever opens it
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        for kind, quantity in (("golden", 1), ("production", 0), ("party", 1)):
            other.execute("INSERT INTO orders VALUES (%s, 'sensor-b', %s, %s, '', 'x', %s)", (kind, kind, quantity, at))
    second.round()
    assert two.orders() == []
    first.round()
    second.round()
    assert [found.order for found in two.orders()] == [found.order for found in one.orders()]


def test_two_orders_under_one_number_build_nothing_on_the_second_station(
    line: Line, make_stations: MakeStations, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = make_stations("s1", "s2")
    one.add_order(production(quantity=5), "linh")
    two.add_order(production(quantity=7), "minh")
    line.sync(one, "s1").round()
    line.sync(two, "s2").round()
    assert build(one, "A", 9) == 4
    assert refused(lambda: whole_run(two, unit())) is Fault.LEASE_SPENT
    assert "another station opened another order under this number" in capsys.readouterr().out


# One unit, two stations.


@pytest.fixture
def pair(line: Line, make_stations: MakeStations) -> tuple[SqliteLedger, LineSync, SqliteLedger, LineSync]:
    """Two stations in touch, with shares of one order."""
    one, two = make_stations("s1", "s2")
    first, second = line.sync(one, "s1"), line.sync(two, "s2")
    one.add_order(production(quantity=20), "linh")
    first.round()
    second.round()
    return one, first, two, second


Pair = tuple[SqliteLedger, LineSync, SqliteLedger, LineSync]


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


# Who may what.


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE closures SET outcome = 'PASS'",
        "DELETE FROM steps",
        "UPDATE line_links SET hash = ''",
        "DELETE FROM leases",
        "TRUNCATE runs",
        "DROP TABLE runs",
        "ALTER TABLE runs DISABLE ROW LEVEL SECURITY",
        "INSERT INTO leases VALUES ('s1/WO-1/9', 's1', 'WO-1', 5, '2026')",
        "INSERT INTO leases VALUES ('s2/WO-1/9', 's2', 'WO-1', -5, '2026')",
        "INSERT INTO leases VALUES ('s2/WO-1/9', 's1', 'WO-1', -1, '2026')",
        "INSERT INTO leases VALUES ('s1/WO-1/9', 's1', 'WO-1', -4, '2026')",  # it holds four, and built one of them
        "INSERT INTO clashes VALUES ('x', 'serial', 'SN', 'r', 's2', 'r', 's1', '1', '2026')",
        "INSERT INTO line_members (name, role) VALUES ('s9', 'login_s1')",
        "INSERT INTO line_links (station, epoch, seq, at, rows, hash) VALUES ('s2', '', 999, '', '', '')",
        "INSERT INTO line_links VALUES (DEFAULT, 's1', '', 999, '', '', '', '2020-01-01')",
        "INSERT INTO line_acts VALUES ('closed', 'WO-1', 's2')",
        "INSERT INTO orders VALUES ('WO-8', 'sensor-b', 'production', 5, '', 'linh', 'yesterday')",
        "INSERT INTO order_closures VALUES ('WO-1', 'linh', '2026-11-26T24:00:00.000000+00:00')",
        "INSERT INTO passes SELECT 'y', 's1', '', 1, 'AHEAD', chip_id, key_id, '9', order_number, kind, at FROM passes",
        "INSERT INTO passes SELECT 'x', 's2', '', 1, serial, chip_id, key_id, '9', order_number, kind, at FROM passes",
        "INSERT INTO closures VALUES ((SELECT run FROM line_passes WHERE station = 's2'), 'PASS', NULL, '', '2026')",
        "INSERT INTO line_seen (station, clock, backlog, software) VALUES ('s2', '', 0, '')",
        "SELECT line_lease('s2/WO-1/9', 'WO-1', 5)",
        "SELECT * FROM line_members",
        "SELECT * FROM line_claims",
        "SELECT * FROM ledger",
        "CREATE TABLE mine (x int)",
        "CREATE TEMP TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "DELETE FROM line_seen",
        "UPDATE line_seen SET clock = 'late'",
        "DELETE FROM orders",
        "UPDATE orders SET quantity = 99",
        "DELETE FROM order_closures",
        "CREATE OR REPLACE FUNCTION line_me() RETURNS text LANGUAGE sql AS $$ SELECT 's2' $$",
        "SET SESSION AUTHORIZATION login_s2",
        "SET ROLE line_readers",
        "GRANT line_readers TO login_s1",
        "SELECT pg_read_file('postgresql.conf')",
        "SET ROLE postgres",
        "COPY runs TO PROGRAM 'true'",
    ],
)
def test_a_station_may_not(line_at_work: Line, statement: str) -> None:
    with closing(line_at_work.as_station("s1")) as station, pytest.raises(psycopg.errors.InsufficientPrivilege):
        station.execute(statement)


@pytest.fixture(scope="module")
def line_at_work(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A line on which two stations passed a unit each; nothing may change it, so one is enough."""
    folder = tmp_path_factory.mktemp("line")
    line = Line(postgres, "line_at_work", folder)
    line.prepare()  # a copy of a database has none of the rights on the database itself
    for name in ("s1", "s2"):
        ledger = station_ledger(folder, name)
        if name == "s1":
            ledger.add_order(production(quantity=20), "linh")
        sync = line.sync(ledger, name)
        sync.round()
        whole_run(ledger, unit(f"SN-{name}"))
        sync.round()
        ledger.dispose()
    line.close()
    return line


def test_a_station_sees_its_own_rows_and_who_passed(line: Line, pair: Pair) -> None:
    one, first, two, second = pair
    whole_run(one, unit("SN-1"))
    whole_run(two, unit("SN-2"))
    first.round()
    second.round()
    with closing(line.as_station("s1")) as station:
        for table in PUSHED:
            if "station" in table.columns:
                query = f"SELECT DISTINCT station FROM {table.name}"  # noqa: S608 - our own names
                assert {name for (name,) in station.execute(query)} <= {"s1"}
        assert station.execute("SELECT DISTINCT serial FROM identified").fetchall() == [("SN-1",)]
        assert station.execute("SELECT count(*) FROM issued").fetchone() == (1,)
        assert {row[0] for row in station.execute("SELECT station FROM line_passes")} == {"s1", "s2"}


def test_of_every_table_a_station_reads_its_own_rows_alone(line: Line, pair: Pair) -> None:
    one, first, two, second = pair
    whole_run(one, unit("SN-1"))
    whole_run(one, unit("SN-2"), fault=Fault.CLOUD_SILENT)
    whole_run(two, unit("SN-3"))
    first.round()
    second.round()
    with closing(line.as_station("s1")) as station:
        for table in PUSHED:
            query = f"SELECT {', '.join(table.columns.keys())} FROM {table.name}"  # noqa: S608 - our own names
            seen = {
                tuple(int(value) if isinstance(value, bool) else value for value in row)
                for row in station.execute(query.encode())
            }
            assert seen == set(rows(one.store.path, query)), table.name
        for name in ("line_links", "line_seen", "passes"):
            query = f"SELECT DISTINCT station FROM {name}"  # noqa: S608 - our own names
            assert station.execute(query.encode()).fetchall() == [("s1",)], name


def test_a_station_cannot_pass_for_another_by_a_table_of_its_own(line: Line, pair: Pair) -> None:
    with closing(line.server.owner(line.name)) as owner:
        owner.execute(f"GRANT TEMPORARY ON DATABASE {line.name} TO login_s1".encode())  # as PostgreSQL's own default
    with closing(line.as_station("s1")) as station:
        station.execute("CREATE TEMP TABLE line_members (name text, role text)")
        station.execute("INSERT INTO line_members VALUES ('s2', 'login_s1')")
        assert station.execute("SELECT line_me()").fetchone() == ("s1",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            station.execute("SELECT line_lease('s2/WO-1/9', 'WO-1', 5)")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO orders SELECT 'WO-9', product, kind, 1, reason, opened_by, opened_at FROM orders",
        "UPDATE closures SET outcome = 'PASS'",
        "DELETE FROM line_links",
        "SELECT line_lease('s1/WO-1/9', 'WO-1', 5)",
        "CREATE TEMP TABLE mine (x int)",
    ],
)
def test_a_reader_reads_everything_and_may_not(line_at_work: Line, statement: str) -> None:
    where = f"host=127.0.0.1 port={line_at_work.server.port} dbname={line_at_work.name} user=line_boss"
    with closing(psycopg.connect(where, password=PASSWORD, autocommit=True)) as boss:
        assert boss.execute("SELECT count(DISTINCT station) FROM runs").fetchone() == (2,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            boss.execute(statement.encode())


def test_a_login_of_nobody_sees_and_adds_nothing(line: Line, pair: Pair) -> None:
    with closing(line.server.owner(line.name)) as owner:
        owner.execute("DELETE FROM line_members WHERE name = 's3'")
    with closing(line.as_station("s3")) as station:
        assert station.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            station.execute("SELECT line_lease('s3/WO-1/1', 'WO-1', 5)")


# What is set up wrong.


def test_a_wrong_password_is_named_and_not_shown(line: Line, make_stations: MakeStations) -> None:
    (one,) = make_stations("s1")
    server = LineServer(line.settings("s1"), "hunter2-wrong")
    sync = LineSync(one, server, station="s1", software="1", simulated=False, block=1, every_s=1)
    with pytest.raises(FaultError) as error:
        sync.round()
    assert error.value.fault is Fault.LINE_SETUP
    assert "authentication failed" in error.value.detail
    assert "hunter2" not in error.value.detail


def test_a_server_that_is_not_there_is_away(line: Line, make_stations: MakeStations) -> None:
    (one,) = make_stations("s1")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    assert refused(line.sync(one, "s1", port, deadline_s=1.0).round) is Fault.LINE_AWAY


def test_one_stations_time_that_is_none_keeps_no_station_out_of_touch(line: Line, pair: Pair) -> None:
    one, first, two, second = pair
    whole_run(one, unit("SN-1"))
    first.round()
    line.rows("UPDATE tally SET at = '0-no-time' RETURNING 1")
    whole_run(two, unit("SN-2"))
    second.round()
    assert second.state.fault is None
    assert line.rows("SELECT count(*) FROM tally") == [(2,)]


@pytest.mark.parametrize(("version", "do"), [("0001", "station line init"), ("9999", "install the newer software")])
def test_a_line_of_other_software_is_told_what_to_do(
    line: Line, make_stations: MakeStations, version: str, do: str
) -> None:
    (one,) = make_stations("s1")
    line.rows("UPDATE alembic_version SET version_num = %s RETURNING 1", version)
    with pytest.raises(FaultError, match=do) as error:
        line.sync(one, "s1").round()
    assert error.value.fault is Fault.LINE_SETUP


def test_a_line_of_older_rules_is_told_to_its_owner(line: Line, make_stations: MakeStations) -> None:
    (one,) = make_stations("s1")
    with closing(line.server.owner(line.name)) as owner:
        owner.execute("DROP VIEW line_schema")
        owner.execute(
            "CREATE VIEW line_schema AS SELECT v.version_num AS version, l.simulated FROM ledger l, alembic_version v"
        )
        owner.execute("GRANT SELECT ON line_schema TO line_stations")
    with pytest.raises(FaultError, match="rules are of older software; its owner runs: station line init") as error:
        line.sync(one, "s1").round()
    assert error.value.fault is Fault.LINE_SETUP
    line.prepare()
    line.sync(one, "s1").round()


def test_a_simulated_station_never_joins_a_real_line(line: Line, make_stations: MakeStations) -> None:
    (one,) = make_stations("s1")
    assert refused(line.sync(one, "s1", simulated=True).round) is Fault.SIMULATION_MIXED
    with line.as_owner() as owner, pytest.raises(FaultError), owner.transaction() as connection:
        setup.prepare(connection, simulated=True)


def test_setting_up_twice_changes_nothing(line: Line, pair: Pair) -> None:
    _, first, _, _ = pair
    before = line.rows("SELECT * FROM line_links ORDER BY id")
    line.prepare()
    assert line.rows("SELECT * FROM line_links ORDER BY id") == before
    first.round()


def test_every_table_of_the_record_is_pushed_or_the_servers_own() -> None:
    assert {table.name for table in PUSHED} | NOT_PUSHED == set(chain.record_tables())
