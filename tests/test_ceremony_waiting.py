"""A CA stays in service while anything waits for it: open orders built under it, units that have still to register."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cloud import Device, ProviderCA, SimCloud, provider_ca, state
from desk import Desk, refusal
from ledgers import PRODUCT, end, open_ledger, production, rework
from postgres import PASSWORD
from postgres import Line as Shared
from provider_side import Line, connect

from station.aws.registry import Registry
from station.cli import main
from station.faults import Fault
from station.ledger import Outbox, SqliteLedger
from station.ledger.readers import line_reader
from station.ledger.waiting import waiting_for
from station.model import FirstContact

IN_SERVICE, OUT = ("ACTIVE", "ENABLE"), ("INACTIVE", "DISABLE")
Perform = Callable[[], int]


def registered(desk: Desk, name: str, ca: ProviderCA) -> None:
    """What `register` writes, of a CA whose key is in this process."""
    said = {
        "ca_certificate_id": ca.id,
        "ca_certificate_arn": f"arn:aws:iot:{desk.cloud.said['region']}:000000000000:cacert/{ca.id}",
        "region": desk.cloud.said["region"],
        "mode": "DEFAULT",
        "endpoint": desk.cloud.said["endpoint"],
        "registered_at": datetime.now(UTC).isoformat(),
        "rehearsal": True,
        "simulator": desk.cloud.said["api_url"],
    }
    (desk.folder / name).write_text(json.dumps(said))


@pytest.fixture(params=["rotate", "retire"])
def act(request: pytest.FixtureRequest, desk: Desk, cloud: SimCloud, ca: ProviderCA) -> str:
    """One of the two acts, with its registrations in place; ``ca`` is the one that goes out."""
    if request.param == "rotate":
        registered(desk, "old.json", ca)
        registered(desk, "registration.json", provider_ca(cloud))
    else:
        registered(desk, "registration.json", ca)
    return str(request.param)


@pytest.fixture
def station(desk: Desk) -> Iterator[SqliteLedger]:
    """The ledger that the act names, with the order WO-1."""
    ledger = open_ledger(desk.folder / "line.sqlite", simulated=True)
    ledger.add_order(production(), "linh")
    yield ledger
    ledger.dispose()


def performed(desk: Desk, act: str, **changes: Any) -> int:
    return main(["ceremony", str(desk.write(act, **changes)), "--yes", "--by", "Lan"])


def provisioned(line: Line, serial: str) -> Device:
    """A unit that leaves without its first contact."""
    run, made = line.run(serial)
    run.product = replace(PRODUCT, first_contact=FirstContact.NONE)
    end(line.ledger, run)
    return made


def test_it_waits_for_open_orders_and_for_units_and_goes_on_when_there_are_none(
    *,
    desk: Desk,
    act: str,
    station: SqliteLedger,
    ca: ProviderCA,
    cloud: SimCloud,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = Line(station, ca, tmp_path / "devices")
    units = [provisioned(line, f"SN-{number}") for number in range(7)]
    lost, _ = line.run("SN-LOST")
    end(station, lost, Fault.LIFTED)

    assert performed(desk, act) == 4
    said = capsys.readouterr().out
    assert "1 open order(s) built under it: WO-1\n" in said
    assert "7 PROVISIONED unit(s) that have still to register: SN-0, SN-1, SN-2, SN-3, SN-4, ...\n" in said
    assert desk.described(ca.id) == IN_SERVICE
    assert not (desk.folder / f"minutes-{act}.md").exists()

    station.close_order("WO-1", "linh")
    connect(cloud, *units[:6])
    assert performed(desk, act) == 4
    said = capsys.readouterr().out
    assert "0 open order(s) built under it\n" in said
    assert "1 PROVISIONED unit(s) that have still to register: SN-6\n" in said
    assert desk.described(ca.id) == IN_SERVICE

    connect(cloud, units[6])
    assert performed(desk, act) == 0
    assert desk.described(ca.id) == OUT
    steps = [step["result"] for step in desk.minutes(act)["steps"]]
    assert "no open order built under it and no PROVISIONED unit waits for it, by 1 ledger(s)" in steps
    assert len(desk.minutes(act)["sittings"]) == 3


def test_the_new_ca_is_in_service_beside_the_old_one_while_that_waits(
    *, desk: Desk, station: SqliteLedger, ca: ProviderCA, tmp_path: Path
) -> None:
    registered(desk, "old.json", ca)
    Line(station, ca, tmp_path / "devices").run("SN-1")
    file = desk.write("rotate by key")
    assert not desk.go_on(file)
    assert [desk.described(), desk.described(ca.id)] == [IN_SERVICE, IN_SERVICE]
    made = desk.ca().public_key()
    station.close_order("WO-1", "linh")
    assert desk.go_on(file)
    assert [desk.described(), desk.described(ca.id)] == [IN_SERVICE, OUT]
    assert desk.ca().public_key() == made == desk.public_key()
    minutes = desk.minutes("rotate")
    assert (minutes["aws"]["id"], minutes["aws"]["new id"]) == (ca.id, desk.registration()["ca_certificate_id"])
    assert minutes["token"]["attributes"]["LOCAL"]
    assert set(minutes["outputs"]) == {"ca.pem", "registration.json"}

    new = desk.registration()["ca_certificate_id"]
    desk.undo("rotate by key")
    assert [desk.described(new), desk.described(ca.id)] == [IN_SERVICE, IN_SERVICE]
    assert desk.said[-1].endswith("to rotate again, name the new CA's registration")


def test_what_is_wrong_with_a_rotation_is_told_before_a_key_is_made(desk: Desk, ca: ProviderCA) -> None:
    registered(desk, "old.json", ca)
    old = json.loads((desk.folder / "old.json").read_text())
    elsewhere, unknown = {"endpoint": "other.iot.us-east-1.amazonaws.com"}, {"ca_certificate_id": "0" * 64}
    for wrong, fault in ((elsewhere, Fault.WRONG_ACCOUNT), (unknown, Fault.CA_UNKNOWN_HERE)):
        (desk.folder / "old.json").write_text(json.dumps({**old, **wrong}))
        refusal(lambda: desk.perform("rotate by key"), fault)
        assert desk.public_key() is None
    (desk.folder / "old.json").write_text(json.dumps(old))
    desk.cloud.troubles(api={"RegisterCACertificate": "LimitExceededException"})
    refusal(lambda: desk.perform("rotate by key"), Fault.CA_SUBJECT_FULL)
    made = desk.public_key()
    desk.cloud.troubles()
    assert desk.perform("rotate by key"), "with the key that is there"
    assert desk.ca().public_key() == made


def test_a_unit_that_was_made_again_waits_under_its_later_certificate_alone(
    desk: Desk, station: SqliteLedger, ca: ProviderCA, cloud: SimCloud, tmp_path: Path
) -> None:
    newer = provider_ca(cloud)
    provisioned(Line(station, ca, tmp_path / "old"), "SN-1")
    station.add_order(rework("RW-1", "SN-1"), "linh")
    again = provisioned(Line(station, newer, tmp_path / "new"), "SN-1")
    read = station.store.read
    assert waiting_for(read, ca.id, simulated=True).units == {}
    assert waiting_for(read, newer.id, simulated=True).units == {again.id: "SN-1"}
    assert waiting_for(read, ca.id, simulated=True).orders == ("WO-1",)


def test_an_orphan_of_the_old_ca_is_taken_out_of_service_under_it(
    *, station: SqliteLedger, ca: ProviderCA, cloud: SimCloud, registry: Registry, api: Any, tmp_path: Path
) -> None:
    """That never connected: it is registered INACTIVE, with the certificate of the CA that signed it."""
    run, orphan = Line(station, ca, tmp_path / "old").run("SN-1")
    end(station, run, Fault.LIFTED)
    _, passed = Line(station, provider_ca(cloud), tmp_path / "new").run("SN-2")
    assert passed.leaf.issuer != orphan.leaf.issuer
    drained = threading.Event()
    outbox = Outbox(station, registry.retire, lambda waiting: None if waiting else drained.set())
    outbox.start()
    try:
        assert drained.wait(10)
    finally:
        outbox.stop()
    assert state(api, orphan) == "INACTIVE"


def test_an_order_before_its_first_board_is_asked_about_at_the_prompt(
    *,
    desk: Desk,
    station: SqliteLedger,
    ca: ProviderCA,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Under which CA its station builds is in no record: a person says it, and --yes is no person."""
    registered(desk, "registration.json", ca)
    file = str(desk.write("retire"))
    assert main(["ceremony", file, "--by", "Lan", "--yes"]) == 4
    assert "1 open order(s) of which no board was built under it yet: WO-1\n" in capsys.readouterr().out
    for typed, code in (("", 1), ("no\n", 1), ("y\n", 1), ("yes\n", 4), ("yes\nyes\n", 4)):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert main(["ceremony", file, "--by", "Lan"]) == code, typed
        assert desk.described(ca.id) == IN_SERVICE
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\nadopted\n"))
    assert main(["ceremony", file, "--by", "Lan"]) == 0
    assert desk.described(ca.id) == OUT
    steps = {step["name"]: step["result"] for step in desk.minutes("retire")["steps"]}
    assert steps["adopted"] == "Lan confirms that no station builds these under it: WO-1"


@pytest.mark.parametrize("before", [IN_SERVICE, ("ACTIVE", "DISABLE"), OUT])
def test_undone_a_ca_is_what_it_was_and_one_that_was_not_touched_stays(
    *, desk: Desk, station: SqliteLedger, ca: ProviderCA, api: Any, tmp_path: Path, before: tuple[str, str]
) -> None:
    registered(desk, "registration.json", ca)
    Line(station, ca, tmp_path / "devices").run("SN-1")
    api.update_ca_certificate(certificateId=ca.id, newStatus=before[0], newAutoRegistrationStatus=before[1])
    assert not desk.perform("retire"), "an order waits"
    desk.undo("retire")
    assert desk.described(ca.id) == before
    assert "  the act had taken nothing out of service" in "\n".join(desk.said)
    assert desk.perform("retire", reason="compromised", ledgers=None)
    desk.undo("retire")
    assert desk.described(ca.id) == before


def test_a_compromised_ca_waits_for_nobody(desk: Desk, station: SqliteLedger, ca: ProviderCA, tmp_path: Path) -> None:
    registered(desk, "registration.json", ca)
    provisioned(Line(station, ca, tmp_path / "devices"), "SN-1")
    assert performed(desk, "retire", reason="compromised", ledgers=None) == 0
    assert desk.described(ca.id) == OUT


def test_a_ledger_that_is_missing_or_of_the_other_kind_is_no_word_that_nothing_waits(
    desk: Desk, act: str, ca: ProviderCA
) -> None:
    refusal(lambda: desk.perform(act, ledgers=["line.sqlite", "gone.sqlite"]), Fault.LEDGER_DOWN)
    open_ledger(desk.folder / "real.sqlite").dispose()
    refusal(lambda: desk.perform(act, ledgers=["line.sqlite", "real.sqlite"]), Fault.SIMULATION_MIXED)
    assert desk.described(ca.id) == IN_SERVICE


@pytest.fixture
def url_file(shared_line: Shared, desk: Desk) -> Path:
    file = desk.folder / "line-url"
    at = f"127.0.0.1:{shared_line.server.port}/{shared_line.name}"
    file.write_text(f"postgresql+psycopg://line_boss:{PASSWORD.replace(' ', '%20')}@{at}\n")
    file.chmod(0o600)
    return file


def of_a_rehearsal(line: Shared, *, yes: bool) -> None:
    """The database's kind: the stations of the tests' line are real ones, the acts a rehearsal's."""
    with closing(line.server.owner(line.name)) as owner:
        owner.execute("ALTER TABLE ledger DISABLE TRIGGER ALL")
        owner.execute("UPDATE ledger SET simulated = %s", (yes,))


@pytest.mark.parametrize("act", ["rotate"], indirect=True)
def test_the_line_s_postgresql_is_asked_for_all_its_stations_at_once(
    *,
    desk: Desk,
    act: str,
    ca: ProviderCA,
    cloud: SimCloud,
    shared_line: Shared,
    url_file: Path,
    make_stations: Callable[..., list[SqliteLedger]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two = make_stations("s1", "s2")
    syncs = [shared_line.sync(ledger, ledger.store.path.stem) for ledger in (one, two)]
    one.add_order(production(), "linh")
    for sync in (*syncs, *syncs):
        sync.round()
    waiting = [
        provisioned(Line(ledger, ca, tmp_path / ledger.store.path.stem), f"SN-{ledger.store.path.stem}")
        for ledger in (one, two)
    ]
    for sync in syncs:
        sync.round()
    with line_reader(url_file) as read:
        found = waiting_for(read, ca.id, simulated=False)
    assert found.orders == ("WO-1",)
    assert found.units == {waiting[0].id: "SN-s1", waiting[1].id: "SN-s2"}

    only = {"ledgers": None, "line": "line-url"}
    refusal(lambda: desk.perform(act, **only), Fault.SIMULATION_MIXED)
    of_a_rehearsal(shared_line, yes=True)
    assert performed(desk, act, **only) == 4
    assert "2 PROVISIONED unit(s) that have still to register: SN-s1, SN-s2\n" in capsys.readouterr().out
    connect(cloud, *waiting)
    assert performed(desk, act, **only) == 4, "the order is open"
    of_a_rehearsal(shared_line, yes=False)
    one.close_order("WO-1", "linh")
    for sync in syncs:
        sync.round()
    of_a_rehearsal(shared_line, yes=True)
    assert performed(desk, act, **only) == 0
    assert desk.described(ca.id) == OUT
    assert PASSWORD not in capsys.readouterr().out


@pytest.mark.parametrize("act", ["retire"], indirect=True)
def test_a_url_that_others_may_read_is_refused(desk: Desk, act: str, ca: ProviderCA, url_file: Path) -> None:
    url_file.chmod(0o644)
    said = refusal(lambda: desk.perform(act, line="line-url"), Fault.CONFIG)
    assert "others may read" in said
    assert desk.described(ca.id) == IN_SERVICE
