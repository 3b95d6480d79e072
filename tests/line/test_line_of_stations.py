"""A line of two stations: real daemons on simulators, a real PostgreSQL between them, and a network that is cut."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from ledgers import rows
from postgres import OWNER, OWNER_PASSWORD, Network, Postgres
from whole_line import Bench, MakeStation

from station.cli import main
from station.sim.jig import SimJig
from station.sim.line import Station, wait_for


class Hall:
    """Two stations that share a line's database, which they reach over a wire that can be cut."""

    def __init__(self, postgres: Postgres, network: Network, make: MakeStation, folder: Path) -> None:
        self._postgres, self.network, self._folder = postgres, network, folder
        self._database = f"hall_{uuid4().hex[:12]}"
        self._owner = ["--as", OWNER, "--password-file", str(self._secret("owner", OWNER_PASSWORD))]
        self.a, self.b = (make(name, station=name, line=self._line(name)) for name in ("line-a", "line-b"))
        with closing(postgres.owner("postgres")) as owner:
            owner.execute(f"CREATE DATABASE {self._database}")
        self.command("init")
        for name in ("line-a", "line-b"):
            self.command("admit", name, "--new-password", str(folder / name / "password"))
        self.command("admit-reader", f"boss_{self._database}", "--new-password", str(folder / "boss"))

    def _line(self, name: str) -> dict[str, Any]:
        """A share of two units, an exchange five times a second."""
        return {
            "host": "127.0.0.1",
            "port": self.network.port,
            "database": self._database,
            "user": name,
            "password": {"file": str(self._folder / name / "password")},
            "outage_h": 1.0,
            "units_per_h": 2.0,
            "sync_s": 0.2,
            "deadline_s": 3.0,
        }

    def _secret(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.touch(0o600)
        path.write_text(text + "\n")
        return path

    def command(self, *arguments: str) -> None:
        assert main(["--config", str(self.a.config), "line", *arguments, *self._owner]) == 0

    def status(self, *more: str) -> str:
        """As somebody with a reader's login asks at any station."""
        login = ["--as", f"boss_{self._database}", "--password-file", str(self._folder / "boss")]
        return self.b.run("line", "status", *login, *more)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(self._postgres.owner(self._database)) as owner:
            return owner.execute(query).fetchall()

    def missing(self, station: Station) -> int:
        """Links of a station that the server does not have."""
        ((here,),) = rows(station.state / "ledger.sqlite", "SELECT count(*) FROM chain")
        name = station.settings["station"]
        ((there, last),) = self.rows(f"SELECT count(*), max(seq) FROM line_links WHERE station = '{name}'")  # noqa: S608
        assert there == last, "a link is there twice, or not at all"
        return int(here) - int(there)


def link(station: Station) -> dict[str, Any]:
    found: dict[str, Any] = station.control.status()["line"]
    return found


def left(station: Station) -> int:
    return int(dict(link(station)["left"]).get("WO-1", 0))


def up_to_date(station: Station) -> None:
    """What the server knew when this was called, the station knows when it returns: a round began and ended since."""
    seen = {link(station)["synced_at"]}

    def two_more() -> bool:
        seen.add(link(station)["synced_at"])
        return len(seen) == 3

    wait_for("two syncs", two_more)


def in_touch(station: Station) -> bool:
    return link(station)["fault"] is None and link(station)["backlog"] == 0


@pytest.fixture
def hall(postgres: Postgres, network: Network, make_station: MakeStation, tmp_path: Path) -> Iterator[Hall]:
    made = Hall(postgres, network, make_station, tmp_path)
    made.a.start()
    made.b.start()
    yield made
    network.mend()
    assert (made.a.stop(), made.b.stop()) == (0, 0)


@pytest.mark.timeout(240)
def test_two_stations_build_one_order_through_a_cut_and_never_one_unit_too_many(
    hall: Hall, jig: SimJig, cloud_api: Any
) -> None:
    a, b = Bench(hall.a, jig, cloud_api), Bench(hall.b, jig, cloud_api)
    hall.a.order("WO-1", "console-board-key", 5)
    wait_for("a share for each", lambda: left(hall.a) and left(hall.b))

    # In touch: who passed at A is refused at B, and A's share is topped up by what B does not hold.
    assert a.run("SN-1")["outcome"] == "PASS"
    wait_for("A's next share", lambda: in_touch(hall.a) and left(hall.a) == 2)
    up_to_date(hall.b)
    refused = b.run("SN-1")
    assert (refused["outcome"], refused["fault"]) == ("ERROR", "O503")
    assert "has passed before at line-a" in refused["detail"]
    assert left(hall.b) == 2

    # Cut off: both build on, each what it holds and not one unit more. One unit is built twice; nobody can know yet.
    hall.network.cut()
    wait_for("both stations' notice", lambda: link(hall.a)["fault"] == link(hall.b)["fault"] == "S633")
    assert [a.run(f"SN-{number}")["outcome"] for number in (2, 3)] == ["PASS", "PASS"]
    assert [b.run(f"SN-{number}")["outcome"] for number in (3, 4)] == ["PASS", "PASS"]
    assert [a.run("SN-5")["fault"], b.run("SN-6")["fault"]] == ["O510", "O510"]
    waits = wait_for(
        "A's word of what waits", lambda: hall.missing(hall.a) == (told := link(hall.a)["backlog"]) and told
    )
    said = hall.a.run("status")
    assert "line: out of touch since" in said
    assert f"records kept here for it: {waits}; may still be built: WO-1: 0. Check the network cable." in said
    asked = subprocess.run(
        [*hall.a.command, "doctor", "--json"],
        env=dict(hall.a.provider.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    doctor = {one["part"]: one for one in json.loads(asked.stdout)}["line"]
    assert (asked.returncode, doctor["level"], doctor["fault"]) == (1, "bad", "O510")
    assert f"unreachable since {link(hall.a)['since'][:19]} UTC" in doctor["text"]
    assert f"{waits} records kept here for it" in doctor["text"]

    # Mended: everything is there, once; and B knows what A built meanwhile.
    hall.network.mend()
    wait_for("the backlog's end", lambda: in_touch(hall.a) and in_touch(hall.b))
    wait_for("every link to be there", lambda: hall.missing(hall.a) == hall.missing(hall.b) == 0)
    passed = "SELECT i.serial, t.station FROM tally t JOIN identified i ON i.run = t.run WHERE t.outcome = 'PASS'"
    assert sorted(hall.rows(passed)) == [
        ("SN-1", "line-a"),
        ("SN-2", "line-a"),
        ("SN-3", "line-a"),
        ("SN-3", "line-b"),
        ("SN-4", "line-b"),
    ]
    assert hall.rows("SELECT sum(quantity) FROM leases") == [(5,)]
    up_to_date(hall.b)
    assert b.run("SN-2")["fault"] == "O503"

    # The unit that was built twice is named, and the cloud no longer takes its later certificate.
    ((kind, value, earlier, later),) = hall.rows("SELECT kind, value, earlier_station, later_station FROM clashes")
    assert (kind, value, {earlier, later}) == ("serial", "SN-3", {"line-a", "line-b"})
    named = f"clash of serial SN-3: {earlier}, then {later}; the later certificate is out of service"
    wait_for("the later certificate's end", lambda: hall.rows("SELECT count(*) FROM outbox_done") == [(1,)])
    assert named in hall.status()
    by_name = {"line-a": a, "line-b": b}
    states = [by_name[name].certificate_states("SN-3") for name in (earlier, later)]
    assert states == [["ACTIVE"], ["INACTIVE"]]

    found = {one["station"]: one for one in json.loads(hall.status("--json"))["stations"]}
    assert {name: one["shares"] for name, one in found.items()} == {
        "line-a": [{"order": "WO-1", "leased": 3, "passed": 3}],
        "line-b": [{"order": "WO-1", "leased": 2, "passed": 2}],
    }
    assert all(one["seen_at"] and one["software"] for one in found.values())
    shown = [line.split() for line in hall.status().splitlines()]
    assert [words[0] for words in shown] == ["station", "line-a", "line-b", "order", "clash"]
    assert "WO-1 3/3" in " ".join(shown[1])
    assert "line: in touch, last sync" in hall.b.run("status")
