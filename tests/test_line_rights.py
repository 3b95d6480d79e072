"""Who may what on a line's server, and what a station says where it is refused there."""

from __future__ import annotations

import socket
from contextlib import closing

import psycopg
import pytest
from ledgers import production, rows, unit, whole_run
from line_bed import MakeStations, Pair, refused
from postgres import PASSWORD, Line, Postgres, station_ledger

from station.faults import Fault, FaultError
from station.ledger import chain
from station.ledger.line import LineServer, LineSync, setup
from station.ledger.line.push import NOT_PUSHED, PUSHED


@pytest.fixture
def line(shared_line: Line) -> Line:
    return shared_line


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
