"""A line of three stations on a real PostgreSQL: no row lost, none twice, no order over-produced by one unit."""

from __future__ import annotations

import itertools
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
import sqlalchemy as sa
from ledgers import end, golden, production, rows, started, unit, whole_run
from line_bed import PASSED, MakeStations, build, built, everything, refused, until
from postgres import STATIONS, Line, Network, Postgres

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger
from station.ledger.line import LineServer, pull, push
from station.ledger.line.pull import give_back


@pytest.fixture
def line(shared_line: Line) -> Line:
    return shared_line


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
