"""The record and AWS IoT compared: each kind of difference is found, and mended only where nobody decided it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cloud import ProviderCA, SimCloud, activate, device, make_ca, register, state
from ledgers import end, note
from provider_side import Line, connect

from station.aws.registry import Grant, Registry
from station.cli import main
from station.faults import Fault
from station.model import Step
from station.reconcile import Kind, Result, Sides
from station.sim.line import Provider, Station


class Mess(NamedTuple):
    """One certificate of each kind, by the kind that it should be found as."""

    ids: dict[Kind, str]


FIX = {Kind.ORPHAN, Kind.PENDING}


@pytest.fixture
def sides(line: Line, registry: Registry, ca: ProviderCA) -> Sides:
    return Sides(registry, ca.id, line.ledger.store.read)


def compared(sides: Sides) -> Result:
    return sides.compare(lambda what, count: None)


@pytest.fixture
def ca(api: Any) -> ProviderCA:
    """A registered CA that a station in a simulation takes."""
    return register(api, make_ca("Device CA REHEARSAL"))


@pytest.fixture
def mess(line: Line, cloud: SimCloud, ca: ProviderCA, api: Any, tmp_path: Any) -> Mess:
    ids: dict[Kind, str] = {}

    def passed(serial: str) -> Any:
        run, made = line.run(serial)
        note(line.ledger, run, Step.CONNECT)
        end(line.ledger, run)
        return made

    for kind, serial in (
        (Kind.PASSED, "SN-1"),
        (Kind.PENDING, "SN-2"),
        (Kind.TAKEN_OUT, "SN-3"),
        (Kind.UNKNOWN_THERE, "SN-4"),
    ):
        made = passed(serial)
        ids[kind] = made.id
        if kind is not Kind.UNKNOWN_THERE:
            connect(cloud, made)
        if kind is Kind.PASSED:
            activate(api, made)
        if kind is Kind.TAKEN_OUT:
            api.update_certificate(certificateId=made.id, newStatus="INACTIVE")
    lost, orphan = line.run("SN-5")
    end(line.ledger, lost, Fault.STILL_PENDING)
    connect(cloud, orphan)
    activate(api, orphan)
    gone, out = line.run("SN-6")
    end(line.ledger, gone, Fault.LIFTED)
    connect(cloud, out)
    api.update_certificate(certificateId=out.id, newStatus="REVOKED")
    _, working = line.run("SN-7")
    connect(cloud, working)
    stranger = device(ca, tmp_path / "stranger", "SN-66")
    connect(cloud, stranger)
    activate(api, stranger)
    ids |= {Kind.ORPHAN: orphan.id, Kind.OUT: out.id, Kind.AT_WORK: working.id, Kind.UNKNOWN_HERE: stranger.id}
    return Mess(ids)


def status(api: Any, certificate_id: str) -> str | None:
    return state(api, type("D", (), {"id": certificate_id}))  # type: ignore[arg-type]


def test_each_kind_of_difference_is_found_and_nothing_is_touched(mess: Mess, sides: Sides, api: Any) -> None:
    before = {one: status(api, one) for one in mess.ids.values()}
    result = compared(sides)
    assert {one.kind: one.certificate_id for one in result.found} == {
        kind: name for kind, name in mess.ids.items() if not kind.well
    }
    assert {kind for kind, count in result.counts.items() if count == 1} == set(mess.ids)
    assert result.left == len(result.found) == 5
    assert {one: status(api, one) for one in mess.ids.values()} == before


def test_fix_mends_orphans_and_pending_ones_and_leaves_what_somebody_decided(
    *, mess: Mess, sides: Sides, ca: ProviderCA, api: Any, policy: str
) -> None:
    result = sides.mend(compared(sides), FIX, Grant(policy))
    assert {one.kind: one.fixed for one in result.found if one.fixed} == {
        Kind.ORPHAN: "set INACTIVE",
        Kind.PENDING: "activated",
    }
    assert status(api, mess.ids[Kind.ORPHAN]) == "INACTIVE"
    assert status(api, mess.ids[Kind.PENDING]) == "ACTIVE"
    assert status(api, mess.ids[Kind.TAKEN_OUT]) == "INACTIVE"
    assert status(api, mess.ids[Kind.UNKNOWN_HERE]) == "ACTIVE"
    assert result.left == 3
    again = compared(sides)
    assert {one.kind for one in again.found} == {Kind.TAKEN_OUT, Kind.UNKNOWN_THERE, Kind.UNKNOWN_HERE}


def test_what_changed_since_it_was_compared_is_judged_anew(
    *, mess: Mess, sides: Sides, ca: ProviderCA, api: Any, policy: str
) -> None:
    result = compared(sides)
    for kind, since in ((Kind.PENDING, "REVOKED"), (Kind.ORPHAN, "INACTIVE"), (Kind.UNKNOWN_HERE, "REVOKED")):
        api.update_certificate(certificateId=mess.ids[kind], newStatus=since)
    result = sides.mend(result, {*FIX, Kind.UNKNOWN_HERE}, Grant(policy))
    now = {one.certificate_id: (one.kind, one.fixed) for one in result.found}
    assert now[mess.ids[Kind.PENDING]] == (Kind.TAKEN_OUT, "")
    assert now[mess.ids[Kind.ORPHAN]] == now[mess.ids[Kind.UNKNOWN_HERE]] == (Kind.OUT, "by itself: out by now")
    assert status(api, mess.ids[Kind.PENDING]) == "REVOKED"


def test_where_the_provider_activates_pending_ones_are_told_and_left(
    mess: Mess, sides: Sides, ca: ProviderCA, api: Any
) -> None:
    sides.mend(compared(sides), FIX, None)
    assert status(api, mess.ids[Kind.PENDING]) == "PENDING_ACTIVATION"


def test_a_stranger_is_revoked_where_that_is_asked_for_and_nothing_beside_it(
    mess: Mess, sides: Sides, ca: ProviderCA, api: Any, policy: str
) -> None:
    sides.mend(compared(sides), {Kind.UNKNOWN_HERE}, Grant(policy))
    assert status(api, mess.ids[Kind.UNKNOWN_HERE]) == "REVOKED"
    assert status(api, mess.ids[Kind.ORPHAN]) == "ACTIVE"
    assert status(api, mess.ids[Kind.PENDING]) == "PENDING_ACTIVATION"
    assert {one.kind for one in compared(sides).found} == set(mess.ids) - {
        kind for kind in mess.ids if kind.well or kind is Kind.UNKNOWN_HERE
    }


def test_an_orphan_that_never_connected_is_registered_inactive(
    line: Line, sides: Sides, ca: ProviderCA, api: Any
) -> None:
    lost, orphan = line.run("SN-1")
    end(line.ledger, lost, Fault.STILL_PENDING)
    (found,) = sides.mend(compared(sides), FIX, None).found
    assert (found.kind, found.status, found.fixed) == (Kind.ORPHAN, "absent", "set INACTIVE")
    assert state(api, orphan) == "INACTIVE"


def test_several_pages_are_read_within_the_throttle(
    sides: Sides, cloud: SimCloud, ca: ProviderCA, tmp_path: Any
) -> None:
    connect(cloud, *(device(ca, tmp_path / "many", f"M-{number}") for number in range(251)))
    counted: list[int] = []
    before = cloud.control("counts").get("ListCertificatesByCA", 0)
    result = sides.compare(lambda what, count: counted.append(count))
    assert result.counts[Kind.UNKNOWN_HERE] == 251
    assert cloud.control("counts")["ListCertificatesByCA"] - before == 2
    assert max(counted) == 251


@pytest.fixture
def station_file(*, registry: Registry, cloud: SimCloud, ca: ProviderCA, policy: str, tmp_path: Path) -> Path:
    """The settings of a station that does not run, with the tests' CA; the ledger is where ``ledger_path`` has it."""
    del registry  # its credentials are wanted
    (tmp_path / "ca.pem").write_text(ca.pem)
    provider = Provider(
        tmp_path, cloud.said, "pkcs11:token=t;object=k?module-path=/m", {"ca_certificate_id": ca.id}, {}
    )
    made = Station(tmp_path / "station", provider, state=str(tmp_path))
    made.settings["aws"]["activation"] = {"by": "station", "policy": policy}
    made.write_config()
    return made.config


def test_the_command_tells_differences_mends_them_and_revokes_only_after_a_typed_yes(
    *,
    mess: Mess,
    station_file: Path,
    api: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    def ran(*arguments: str) -> tuple[int, str]:
        code = main(["--config", str(station_file), "reconcile", *arguments])
        told = capsys.readouterr()
        asked.append(told.err)
        return code, told.out

    code, said = ran()
    assert code == 1
    for kind, name in mess.ids.items():
        assert (name in said) is not kind.well, kind
    assert status(api, mess.ids[Kind.ORPHAN]) == "ACTIVE"

    stranger = mess.ids[Kind.UNKNOWN_HERE]
    for typed, then in (("no", "ACTIVE"), (None, "ACTIVE"), ("yes", "REVOKED")):

        def answer(typed: str | None = typed) -> str:
            if typed is None:
                raise EOFError
            return typed

        monkeypatch.setattr("builtins.input", answer)
        assert ran("--revoke-unknown")[0] == 1, "what else is left is somebody's to decide"
        assert asked[-1].startswith(f"{stranger}\nRevoke these 1?"), "asked when it is known what it is about"
        assert status(api, stranger) == then
        assert status(api, mess.ids[Kind.ORPHAN]) == "ACTIVE", "that is --fix's"

    code, said = ran("--fix", "--json")
    fixed = {one["certificate_id"]: one["fixed"] for one in json.loads(said)["found"]}
    assert (code, json.loads(said)["left"]) == (1, 2)
    assert (fixed[mess.ids[Kind.ORPHAN]], fixed[mess.ids[Kind.PENDING]]) == ("set INACTIVE", "activated")
    assert asked[-1] == ""


def test_on_a_line_nothing_is_revoked_before_the_line_was_asked(
    *, line: Line, station_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del line  # its ledger is there
    settings = json.loads(station_file.read_text())
    settings["line"] = {"host": "127.0.0.1", "user": "s1", "password": {"file": "none"}}
    station_file.write_text(json.dumps(settings))
    assert main(["--config", str(station_file), "reconcile", "--revoke-unknown"]) == 1
    assert "next: add --line LOGIN" in capsys.readouterr().err


def test_the_command_says_that_both_sides_agree(
    *,
    line: Line,
    station_file: Path,
    cloud: SimCloud,
    api: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, made = line.run("SN-1")
    connect(cloud, made)
    activate(api, made)
    note(line.ledger, run, Step.CONNECT)
    end(line.ledger, run)
    for more in ([], ["--json"]):
        assert main(["--config", str(station_file), "reconcile", *more]) == 0
    said, as_json = capsys.readouterr().out.split("the ledger and AWS IoT agree\n")
    assert "passed" in said
    assert (json.loads(as_json)["left"], json.loads(as_json)["counts"]["passed"]) == (0, 1)
