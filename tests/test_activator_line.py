"""The activator of a line: what it knows, it reads in the PostgreSQL that the stations share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cloud import ProviderCA, SimCloud, state
from ledgers import PRODUCT, end, production
from postgres import PASSWORD
from postgres import Line as Shared
from provider_side import Line, connect
from test_reconcile import ca as ca  # noqa: PLC0414 - a fixture
from test_reconcile import station_file as station_file  # noqa: PLC0414 - a fixture

from station.aws.registry import Registry
from station.cli import main
from station.faults import Fault
from station.ledger import SqliteLedger
from station.model import FirstContact

Run = Callable[[], dict[str, int]]


@pytest.fixture
def once(
    *,
    registry: Registry,
    cloud: SimCloud,
    ca: ProviderCA,
    policy: str,
    shared_line: Shared,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """`station activator once`, with a login that may only read."""
    del registry  # its credentials are wanted
    monkeypatch.setattr("station.activator.daemon.log_as_json", lambda **_: None)  # this process's log is the tests'
    url = tmp_path / "url"
    at = f"127.0.0.1:{shared_line.server.port}/{shared_line.name}"
    url.write_text(f"postgresql+psycopg://line_boss:{PASSWORD.replace(' ', '%20')}@{at}\n")
    url.chmod(0o600)
    file = tmp_path / "activator.yaml"
    file.write_text(
        json.dumps(
            {
                "state": "activator-state",
                "region": cloud.said["region"],
                "ca_certificate_id": ca.id,
                "policy": policy,
                "register": {"kind": "postgres", "url_file": "url"},
                "grace_s": 0,
                "simulator": {"api_url": cloud.said["api_url"]},
            }
        )
    )

    def ran() -> dict[str, int]:
        main(["activator", "once", str(file), "--json"])
        said = capsys.readouterr()
        assert PASSWORD not in said.out + said.err
        counted: dict[str, int] = json.loads(said.out.splitlines()[-1])  # before it, in this process, the log
        return counted

    return ran


def test_what_any_station_of_the_line_pushed_is_activated_and_nothing_else(
    *,
    once: Run,
    station_file: Path,
    capsys: pytest.CaptureFixture[str],
    shared_line: Shared,
    make_stations: Callable[..., list[SqliteLedger]],
    cloud: SimCloud,
    ca: ProviderCA,
    api: Any,
    tmp_path: Path,
) -> None:
    ledgers = make_stations("s1", "s2")
    syncs = [shared_line.sync(ledger, ledger.store.path.stem) for ledger in ledgers]
    ledgers[0].add_order(production(), "linh")
    for sync in (*syncs, *syncs):
        sync.round()
    one, two = (Line(ledger, ca, tmp_path / ledger.store.path.stem) for ledger in ledgers)
    _, connecting = one.run("SN-1")
    boxed, later = two.run("SN-2")
    boxed.product = replace(PRODUCT, first_contact=FirstContact.NONE)
    end(two.ledger, boxed)
    lost, orphan = two.run("SN-3")
    end(two.ledger, lost, Fault.STILL_PENDING)
    for sync in syncs:
        sync.round()
    _, not_pushed = one.run("SN-4")
    connect(cloud, connecting, later, orphan, not_pushed)

    assert once() == {"activated": 2, "refused": 1, "stranger": 1}
    assert [state(api, made) for made in (connecting, later)] == ["ACTIVE"] * 2
    assert [state(api, made) for made in (orphan, not_pushed)] == ["PENDING_ACTIVATION"] * 2
    syncs[0].round()
    assert once() == {"activated": 1, "refused": 1}
    assert state(api, not_pushed) == "ACTIVE"

    (tmp_path / "ledger.sqlite").symlink_to(one.ledger.store.path)
    settings = json.loads(station_file.read_text())
    (tmp_path / "boss").write_text(PASSWORD)
    (tmp_path / "boss").chmod(0o600)
    settings["line"] = {
        "host": "127.0.0.1",
        "port": shared_line.server.port,
        "database": shared_line.name,
        "user": "login_s1",
        "password": {"file": "none"},
    }
    station_file.write_text(json.dumps(settings))
    capsys.readouterr()
    counts = []
    for more in ([], ["--line", "line_boss", "--password-file", str(tmp_path / "boss")]):
        main(["--config", str(station_file), "reconcile", "--json", *more])
        told = capsys.readouterr()
        assert told.out, told.err
        counts.append(json.loads(told.out)["counts"])
    assert [(one["elsewhere"], one["unknown here"]) for one in counts] == [(0, 2), (2, 0)]
