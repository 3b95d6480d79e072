"""A day is closed once: its head, its archive, its anchors; and what fails is tried again, with nothing done twice."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from cloud import SimCloud
from ledgers import production, rows, unit, whole_run

from station import views
from station.aws.bucket import Bucket
from station.config.messages import LANGUAGES, Messages
from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, export, keeper
from station.ledger.anchors import Anchor, parse
from station.ledger.keeper import Keeper
from station.status import StatusBoard


class Days:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 25, 0, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def heads(ledger: SqliteLedger) -> list[tuple[str]]:
    return rows(ledger.store.path, "SELECT day FROM heads ORDER BY day")


def test_each_day_that_is_over_is_closed_archived_and_anchored_once(ledger: SqliteLedger, tmp_path: Path) -> None:
    days = Days()
    anchored: list[Anchor] = []
    one = Keeper(ledger.store, "s1", tmp_path / "archives", clock=days, places={"s3": anchored.append})
    ledger.add_order(production(), "linh")
    whole_run(ledger, unit("SN-1"))
    one.look()
    one.look()
    days.now = datetime(2026, 11, 26, 0, 1, tzinfo=UTC)
    whole_run(ledger, unit("SN-2"))
    one.look()
    assert heads(ledger) == [("2026-11-24",), ("2026-11-25",)]
    assert [head.day for head in anchored] == ["2026-11-24", "2026-11-25"]
    archives = sorted((tmp_path / "archives").iterdir())
    assert [path.name for path in archives] == ["2026-11-24.jsonl.gz", "2026-11-25.jsonl.gz"]
    assert sum(export.verify_export(path).runs for path in archives) == 2


def test_an_anchor_that_cannot_be_delivered_is_delivered_later(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.add_order(production(), "linh")
    answers: list[Anchor] = []
    away = [FaultError(Fault.CLOUD_UNREACHABLE, "no network"), FaultError(Fault.AWS_DENIED, "no rights")]

    def put(head: Anchor) -> None:
        if away:
            raise away.pop(0)
        answers.append(head)

    one = Keeper(ledger.store, "s1", tmp_path / "archives", clock=Days(), places={"s3": put})
    for fault in (Fault.CLOUD_UNREACHABLE, Fault.AWS_DENIED):
        with pytest.raises(FaultError) as error:
            one.look()
        assert error.value.fault is fault
    one.look()
    assert [head.day for head in answers] == ["2026-11-24"]
    assert heads(ledger) == [("2026-11-24",)]


def test_a_bucket_that_was_away_for_days_gets_each_day_and_a_restart_changes_nothing_there(
    ledger: SqliteLedger, tmp_path: Path, cloud: SimCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    s3 = boto3.client("s3", region_name="us-east-1", endpoint_url=cloud.said["api_url"])
    bucket, days = Bucket("us-east-1", "anchors-of-days", api_url=cloud.said["api_url"]), Days()

    def keeper_at_work() -> Keeper:
        places = {"s3": lambda head: bucket.put(f"{head.day}.txt", head.text.encode())}
        seal: dict[str, Any] = {"sign": lambda message: message[-32:], "seal": "5e" * 32}
        return Keeper(ledger.store, "s1", tmp_path / "a", clock=days, places=places, **seal)

    one = keeper_at_work()
    for day in (25, 26, 27):
        days.now = datetime(2026, 11, day, 0, 1, tzinfo=UTC)
        ledger.add_order(production(f"WO-{day}"), "linh")
        with pytest.raises(FaultError, match="NoSuchBucket"):
            one.look()
    with closing(s3):
        s3.create_bucket(Bucket="anchors-of-days")
        one.look()
        keeper_at_work().look()
        found = [each["Key"] for each in s3.list_objects_v2(Bucket="anchors-of-days")["Contents"]]
        assert found == ["2026-11-24.txt", "2026-11-25.txt", "2026-11-26.txt"]
        for key in found:
            (anchor,) = parse(s3.get_object(Bucket="anchors-of-days", Key=key)["Body"].read().decode(), key)
            assert (f"{anchor.day}.txt", anchor.seal) == (key, "5e" * 32)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_day_that_is_not_closed_is_shown_until_it_is(
    ledger: SqliteLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    monkeypatch.setattr(keeper, "_LOOK_S", 0.01)
    ledger.add_order(production(), "linh")
    board, there = StatusBoard("s1", (), simulated=False), threading.Event()

    def put(_: Anchor) -> None:
        if not there.is_set():
            raise FaultError(Fault.AWS_DENIED, "PutObject: AccessDenied")

    def tell(error: FaultError | None) -> None:
        board.post_unclosed(error.fault if error else None, error.detail if error else "")

    one = Keeper(ledger.store, "s1", tmp_path, clock=Days(), places={"s3": put}, tell=tell)
    one.start()
    try:
        shown = board.wait(1, 30).unclosed
        assert shown is not None
        told = {**asdict(shown), "fault": shown.fault.code, "since": shown.since.isoformat()}
        said = views.unclosed_sentence(told, Messages.load(language))
        assert "PutObject: AccessDenied" in said
        assert said.endswith(Messages.load(language).remedy(Fault.AWS_DENIED))
        version = board.now().version
        assert board.wait(version, 0.2).version == version  # told once, and still so
        there.set()
        assert board.wait(version, 30).unclosed is None
    finally:
        one.stop()


def test_a_token_that_is_away_costs_a_head_nothing_but_time(
    ledger: SqliteLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_LOOK_S", 0.01)
    ledger.add_order(production(), "linh")
    away, done = [True, True], threading.Event()

    def sign(_: bytes) -> bytes:
        if away:
            away.pop()
            raise FaultError(Fault.HSM_DOWN)
        return b"signed"

    places = {"here": lambda _: done.set()}
    one = Keeper(ledger.store, "s1", tmp_path, clock=Days(), sign=sign, seal="5ea1", places=places)
    one.start()
    assert done.wait(30)
    one.stop()
    assert rows(ledger.store.path, "SELECT seal, signature FROM heads") == [("5ea1", b"signed")]


def test_a_day_that_a_place_holds_otherwise_keeps_no_later_one_back(ledger: SqliteLedger, tmp_path: Path) -> None:
    """After a restore the bucket may hold another head of the days that were lost."""
    days, taken = Days(), []

    def put(head: Anchor) -> None:
        if head.day == "2026-11-24":
            raise FaultError(Fault.STORE_DIFFERS, "it holds something else")
        taken.append(head.day)

    one = Keeper(ledger.store, "s1", tmp_path / "archives", clock=days, places={"s3": put})
    ledger.add_order(production(), "linh")
    for day in (25, 26):
        days.now = datetime(2026, 11, day, 0, 1, tzinfo=UTC)
        with pytest.raises(FaultError) as error:
            one.look()
        assert error.value.fault is Fault.STORE_DIFFERS
    assert taken == ["2026-11-25"]
