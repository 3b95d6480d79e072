"""The owner's side of the line's database: its schema, its rules, and who may do what there.

A station may add rows of its own and read what admission needs; nothing else. PostgreSQL itself keeps it to that, by
rights and row-level policies: a station that was taken over cannot change a row, nor speak for another station.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from station.faults import Fault, FaultError
from station.ledger import schema
from station.ledger.line.push import PUSHED
from station.ledger.line.standing import RULES
from station.ledger.store import migrate
from station.model import NAME, Outcome

WRITERS: Final = "line_stations"
READERS: Final = "line_readers"

# Orders are the whole line's: a station reads all, opens any and closes any; `line_acts` says which one did.
_ORDERS: Final = {
    "orders": "line_time(opened_at)",
    "order_units": "true",
    "order_closures": "line_time(closed_at)",
}
# Tables of the server's own that a station writes its rows of.
_LINE: Final = ("line_links", "line_seen")

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS line_members (
    name text PRIMARY KEY, role text NOT NULL UNIQUE, since timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS line_links (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, station text NOT NULL, epoch text NOT NULL, seq bigint NOT NULL,
    at text NOT NULL, rows text NOT NULL, hash bytea NOT NULL, received_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (station, epoch, seq));
CREATE TABLE IF NOT EXISTS line_seen (
    station text PRIMARY KEY, seen_at timestamptz NOT NULL DEFAULT now(), clock text NOT NULL,
    backlog bigint NOT NULL, software text NOT NULL);
CREATE TABLE IF NOT EXISTS line_sources (station text NOT NULL, epoch text NOT NULL, PRIMARY KEY (station, epoch));
CREATE TABLE IF NOT EXISTS line_claims (
    kind text NOT NULL, value text NOT NULL, says text NOT NULL, run text NOT NULL, station text NOT NULL,
    PRIMARY KEY (kind, value));
CREATE TABLE IF NOT EXISTS line_step_days (day text PRIMARY KEY, runs bigint NOT NULL);
CREATE TABLE IF NOT EXISTS line_step_times (
    day text NOT NULL, step text NOT NULL, ms bigint NOT NULL, count bigint NOT NULL, PRIMARY KEY (day, step, ms));
CREATE TABLE IF NOT EXISTS line_acts (
    act text NOT NULL, order_number text NOT NULL, station text NOT NULL, at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (act, order_number));
"""

# pg_temp is last in each: unnamed it would be first, and a station's temporary table would stand before ours
# ("Writing SECURITY DEFINER Functions Safely" in PostgreSQL's manual).
_FUNCTIONS: Final = """
CREATE OR REPLACE FUNCTION line_me() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS
$$ SELECT name FROM line_members WHERE role = session_user $$;

-- A time as every station writes and reads it (`station.ledger.schema.UtcTime`): one that is none would end the syncs
-- of all that read it.
CREATE OR REPLACE FUNCTION line_time(said text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = public, pg_temp AS
$$ SELECT CASE WHEN said ~ '^\\d{4}-\\d\\d-\\d\\dT([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d[.]\\d{6}[+]00:00$'
    THEN CAST(said AS timestamptz) IS NOT NULL ELSE false END $$;

CREATE OR REPLACE FUNCTION line_seen_now() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS
$$ BEGIN NEW.seen_at := now(); RETURN NEW; END $$;
CREATE OR REPLACE TRIGGER line_seen_now BEFORE INSERT OR UPDATE ON line_seen
    FOR EACH ROW EXECUTE FUNCTION line_seen_now();

-- The first to claim a serial, chip or key on the line has it; whoever comes later with another tie clashes. The
-- primary key decides between two that come at once, and the order of arrival here between clocks that differ.
CREATE OR REPLACE FUNCTION line_claim() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
DECLARE
    claim record;
    first record;
BEGIN
    INSERT INTO line_sources VALUES (NEW.station, NEW.epoch) ON CONFLICT DO NOTHING;
    FOR claim IN SELECT * FROM (VALUES
        (CASE WHEN NEW.kind = 'rework' THEN 'rework' ELSE 'serial' END,
         CASE WHEN NEW.kind = 'rework' THEN NEW.order_number || ' ' || NEW.serial ELSE NEW.serial END, NEW.run),
        ('chip of serial', NEW.serial, NEW.chip_id),
        ('serial of chip', NEW.chip_id, NEW.serial),
        ('key', NEW.key_id, NEW.serial)) AS c(kind, value, says)
    LOOP
        INSERT INTO line_claims VALUES (claim.kind, claim.value, claim.says, NEW.run, NEW.station)
            ON CONFLICT (kind, value) DO NOTHING;
        SELECT * INTO first FROM line_claims c WHERE c.kind = claim.kind AND c.value = claim.value;
        IF first.says <> claim.says AND first.run <> NEW.run THEN
            INSERT INTO clashes VALUES (claim.kind || '/' || NEW.run, claim.kind, claim.value, first.run, first.station,
                NEW.run, NEW.station, NEW.number,
                to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')) ON CONFLICT DO NOTHING;
        END IF;
    END LOOP;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER line_claim AFTER INSERT ON passes FOR EACH ROW EXECUTE FUNCTION line_claim();

-- `station.ledger.tally` for the whole line: a unit's retest may be another station's, and come here before its first
-- run. The lock parts two stations that push runs of one unit at once: neither would see the other's.
CREATE OR REPLACE FUNCTION line_retest() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.serial, 0));
    INSERT INTO retests (run, at, serial, kind, outcome, station, slot)
        SELECT t.run, t.at, t.serial, t.kind, t.outcome, t.station, t.slot FROM tally t
        WHERE t.serial = NEW.serial AND t.kind = NEW.kind AND NOT t.simulated AND t.outcome IN ('PASS', 'FAIL')
        ORDER BY t.at, t.run OFFSET 1
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER line_retest AFTER INSERT ON tally FOR EACH ROW
    WHEN (NEW.serial IS NOT NULL AND NOT NEW.simulated AND NEW.kind <> 'golden' AND NEW.outcome IN ('PASS', 'FAIL'))
    EXECUTE FUNCTION line_retest();

-- How long the steps of a day (UTC) took, in a twentieth of the rows, for a year's report: a day a call, the next that
-- has a run and ended a day ago. A run that comes later is not in it, and the report sees that: it believes a day whose
-- runs are still as many as were counted here (`station.yields.steps`); first, so that one that comes between is seen.
CREATE OR REPLACE FUNCTION line_sum_steps() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
DECLARE
    this text;
    ends text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('line_sum_steps', 0)) THEN RETURN NULL; END IF;
    SELECT left(t.at, 10) INTO this FROM tally t
        WHERE t.at >= coalesce((SELECT max(d.day) || 'T99' FROM line_step_days d), '') ORDER BY t.at LIMIT 1;
    ends := to_char(this::date + 1, 'YYYY-MM-DD');
    IF this IS NULL OR ends::date > (now() AT TIME ZONE 'UTC')::date - 1 THEN RETURN NULL; END IF;
    INSERT INTO line_step_days SELECT this, count(*) FROM tally t WHERE t.at >= this AND t.at < ends;
    INSERT INTO line_step_times
        SELECT this, s.step, CAST(round(s.duration_ms) AS bigint), count(*) FROM tally t JOIN steps s ON s.run = t.run
        WHERE t.at >= this AND t.at < ends AND NOT t.simulated AND t.kind IN ('production', 'rework')
            AND s.fault IS NULL GROUP BY 2, 3;
    RETURN this;
EXCEPTION WHEN data_exception THEN
    RETURN NULL; -- one station's time that is none keeps no other station out of touch; the report counts by itself
END
$$;

-- A block of an order for the asking station. The order's row is the lock: of all stations that ask at once, one counts
-- and takes at a time, so what is given out never exceeds the quantity. The same id gives the same answer again.
CREATE OR REPLACE FUNCTION line_lease(lease text, wanted_order text, wanted integer, OUT quantity integer, OUT at text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
DECLARE
    me text := line_me();
    whole integer;
BEGIN
    IF me IS NULL OR split_part(lease, '/', 1) <> me OR wanted < 1 THEN
        RAISE insufficient_privilege USING MESSAGE = 'not a lease of this station';
    END IF;
    SELECT o.quantity INTO whole FROM orders o WHERE o.number = wanted_order AND o.kind = 'production' FOR UPDATE;
    SELECT l.quantity, l.at INTO quantity, at FROM leases l WHERE l.id = lease AND l.order_number = wanted_order;
    IF whole IS NULL OR quantity IS NOT NULL THEN RETURN; END IF;
    IF EXISTS (SELECT 1 FROM order_closures c WHERE c.order_number = wanted_order) THEN RETURN; END IF;
    SELECT least(wanted, whole - coalesce(sum(l.quantity), 0)) INTO quantity
        FROM leases l WHERE l.order_number = wanted_order;
    IF quantity < 1 THEN quantity := NULL; RETURN; END IF;
    at := to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"');
    INSERT INTO leases VALUES (lease, me, wanted_order, quantity, at);
END
$$;

-- By its login, whatever name the station wrote into the row.
CREATE OR REPLACE FUNCTION line_act() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
BEGIN
    INSERT INTO line_acts VALUES (TG_ARGV[0], to_jsonb(NEW) ->> TG_ARGV[1], coalesce(line_me(), session_user));
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER line_opened AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION line_act('opened', 'number');
CREATE OR REPLACE TRIGGER line_closed AFTER INSERT ON order_closures
    FOR EACH ROW EXECUTE FUNCTION line_act('closed', 'order_number');

-- Units come with their order, from the station that opened it. Another's are left out and not refused: a station
-- pushes what it pulled too, and the units of an order of its own whose number another station used first.
CREATE OR REPLACE FUNCTION line_order_unit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
BEGIN
    IF line_me() IS NULL OR EXISTS (SELECT 1 FROM line_acts a
        WHERE a.act = 'opened' AND a.order_number = NEW.order_number AND a.station = line_me())
    THEN RETURN NEW; END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER line_order_unit BEFORE INSERT ON order_units
    FOR EACH ROW EXECUTE FUNCTION line_order_unit();

-- A station gives back what it holds and has not built, and no more: else the line would build too many.
CREATE OR REPLACE FUNCTION line_given_back() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS
$$
BEGIN
    PERFORM 1 FROM orders o WHERE o.number = NEW.order_number FOR UPDATE;
    IF (SELECT sum(l.quantity) FROM leases l WHERE l.order_number = NEW.order_number AND l.station = NEW.station)
        < (SELECT count(DISTINCT p.serial) FROM passes p
           WHERE p.order_number = NEW.order_number AND p.station = NEW.station)
    THEN RAISE insufficient_privilege USING MESSAGE = 'more is given back than the station holds'; END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER line_given_back AFTER INSERT ON leases FOR EACH ROW
    WHEN (NEW.quantity < 0) EXECUTE FUNCTION line_given_back();

-- What admission needs of the other stations, and of this one's own past before a backup was restored: who passed.
CREATE OR REPLACE VIEW line_passes AS SELECT * FROM passes;
CREATE OR REPLACE VIEW line_schema AS
    SELECT (SELECT version_num FROM alembic_version) AS version, simulated, rules_of_this_software AS rules FROM ledger;
"""

# What makes a pass, as `station.ledger.line.push` derives it: nobody claims a unit without a run of it.
_MADE: Final = ", ".join(f"'{outcome.value}'" for outcome in Outcome if outcome.made)
_DERIVED: Final = f"""EXISTS (
    SELECT 1 FROM tally t JOIN identified i ON i.run = t.run JOIN uses u ON u.run = t.run
    JOIN certificates c ON c.number = u.number
    WHERE t.run = passes.run AND t.outcome IN ({_MADE}) AND t.kind = passes.kind AND t.kind <> 'golden'
    AND t.at = passes.at AND line_time(passes.at) AND t.order_number = passes.order_number AND i.serial = passes.serial
    AND i.chip_id = passes.chip_id AND c.number = passes.number AND c.key_id = passes.key_id)"""  # noqa: S608 - our own names


def prepare(connection: sa.Connection, *, simulated: bool) -> None:
    """Make or upgrade the line's database, as its owner. May be repeated.

    Raises:
        FaultError: `Fault.SIMULATION_MIXED` where it is the other kind of line's.
    """
    migrate(connection)
    made = connection.execute(sa.select(schema.ledger.c.simulated)).scalar()
    if made is None:
        row = {"id": 1, "simulated": simulated, "made_at": datetime.now(UTC)}
        connection.execute(sa.insert(schema.ledger).values(**row))
    elif made is not simulated:
        raise FaultError(Fault.SIMULATION_MIXED, "simulated and real stations never share a line")
    connection.exec_driver_sql(_TABLES)
    connection.exec_driver_sql(_FUNCTIONS.replace("rules_of_this_software", str(RULES)))
    for role in (WRITERS, READERS):
        if not connection.execute(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).first():
            connection.exec_driver_sql(f"CREATE ROLE {role} NOLOGIN")
    _grant(connection)


def _grant(connection: sa.Connection) -> None:
    said = [
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC",
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"REVOKE TEMPORARY ON DATABASE {_database(connection)} FROM PUBLIC",
        f"GRANT EXECUTE ON FUNCTION line_me, line_lease, line_sum_steps, line_time TO {WRITERS}",
        f"GRANT SELECT ON line_passes, line_schema, line_sources TO {WRITERS}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READERS}",
    ]
    own = dict.fromkeys(_LINE, "station = (SELECT line_me())") | {
        table.name: _own(table) for table in (*PUSHED, schema.passes) if table.name not in _ORDERS
    }
    for table in (*own, *_ORDERS, "clashes", "line_members", "line_claims", "line_acts", "ledger"):
        said.append(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        said += _policy(table, "read_all", "SELECT", READERS, "USING (true)")
    for table, mine in own.items():
        # Leases are given by `line_lease` alone; what a station may say itself is that it gives some back.
        more = {
            "leases": "quantity < 0 AND split_part(id, '/', 1) = station",
            "passes": _DERIVED,
            "line_seen": "line_time(clock)",
        }
        adds = f"{mine} AND {more.get(table, 'true')}"
        said.append(f"GRANT SELECT, INSERT ON {table} TO {WRITERS}")
        said += _policy(table, "own_read", "SELECT", WRITERS, f"USING ({mine})")
        said += _policy(table, "own_add", "INSERT", WRITERS, f"WITH CHECK ({adds})")
    # When a link arrived is the server's word.
    said.append(f"REVOKE INSERT ON line_links FROM {WRITERS}")
    said.append(f"GRANT INSERT (station, epoch, seq, at, rows, hash) ON line_links TO {WRITERS}")
    for table, sound in _ORDERS.items():
        said.append(f"GRANT SELECT, INSERT ON {table} TO {WRITERS}")
        said += _policy(table, "line_read", "SELECT", WRITERS, "USING (true)")
        said += _policy(
            table, "line_add", "INSERT", WRITERS, f"WITH CHECK ((SELECT line_me()) IS NOT NULL AND {sound})"
        )
    said.append(f"GRANT SELECT ON line_acts TO {WRITERS}")
    said += _policy("line_acts", "line_read", "SELECT", WRITERS, "USING (true)")
    said.append(f"GRANT UPDATE ON line_seen TO {WRITERS}")
    said += _policy(
        "line_seen",
        "own_change",
        "UPDATE",
        WRITERS,
        f"USING ({own['line_seen']}) WITH CHECK ({own['line_seen']} AND line_time(clock))",
    )
    said.append(f"GRANT SELECT ON clashes TO {WRITERS}")
    said += _policy(
        "clashes", "own_read", "SELECT", WRITERS, "USING ((SELECT line_me()) IN (earlier_station, later_station))"
    )
    for statement in said:
        connection.exec_driver_sql(statement)


def _database(connection: sa.Connection) -> str:
    return str(connection.execute(sa.text("SELECT quote_ident(current_database())")).scalar_one())


def _own(table: sa.Table) -> str:
    """How a row is known to be the station's own: by its name, by its run's, by that of its certificate's run."""
    if "station" in table.columns:
        return "station = (SELECT line_me())"
    if "run" in table.columns:
        return "EXISTS (SELECT 1 FROM runs r WHERE r.id = run AND r.station = (SELECT line_me()))"
    certified = f"certificates c JOIN runs r ON r.id = c.run WHERE c.number = {table.name}.number"
    return f"EXISTS (SELECT 1 FROM {certified} AND r.station = (SELECT line_me()))"  # noqa: S608 - our own names


def _policy(table: str, name: str, command: str, role: str, rule: str) -> list[str]:
    return [
        f"DROP POLICY IF EXISTS {name} ON {table}",
        f"CREATE POLICY {name} ON {table} FOR {command} TO {role} {rule}",
    ]


def admit(connection: sa.Connection, station: str, role: str, password: str) -> None:
    """Give a station its login. A login that is there gets the new password.

    Raises:
        FaultError: `Fault.LINE_SETUP` for a name that no station can have, or one that another login has.
    """
    if not NAME.fullmatch(station):
        raise FaultError(Fault.LINE_SETUP, f"{station!r} is no station's name")
    _login(connection, role, password, WRITERS)
    held = sa.text("SELECT role FROM line_members WHERE name = :name")
    found = connection.execute(held, {"name": station}).scalar()
    if found is None:
        insert = sa.text("INSERT INTO line_members (name, role) VALUES (:name, :role)")
        connection.execute(insert, {"name": station, "role": role})
    elif found != role:
        raise FaultError(Fault.LINE_SETUP, f"{station} has the login {found} already")


def admit_reader(connection: sa.Connection, role: str, password: str) -> None:
    """A login that reads everything and writes nothing: for reports and `station line status`."""
    _login(connection, role, password, READERS)


def _login(connection: sa.Connection, role: str, password: str, group: str) -> None:
    # What is sent is the verifier: a server that logs its statements must not learn the password.
    raw: Any = connection.connection.driver_connection
    verifier = raw.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    # A role's name and password cannot be bound parameters in DDL; format() with %I and %L quotes them.
    known = connection.execute(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}).first()
    verb = "ALTER" if known else "CREATE"
    quote = sa.text(
        f"SELECT format('{verb} ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD %L',"
        " CAST(:role AS text), CAST(:password AS text)),"
        " format('GRANT %I TO %I', CAST(:grp AS text), CAST(:role AS text))"
    )
    for statement in connection.execute(quote, {"role": role, "password": verifier, "grp": group}).one():
        connection.exec_driver_sql(statement)
