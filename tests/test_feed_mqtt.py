"""The feed by MQTT: station and activator meet at a topic of the simulated AWS IoT, over real TLS."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cloud import ProviderCA, SimCloud, activate, device
from ledgers import end
from provider_side import Line, connect
from structlog.testing import capture_logs
from test_feed import SEAL, KeyInHand

from station.activator.daemon import _register
from station.aws.shelf import TopicShelf
from station.config.activator import ActivatorFile
from station.faults import Fault, FaultError
from station.feed.lines import FeedLine, sealed
from station.feed.shelf import FolderShelf
from station.feed.writer import FeedWriter
from station.interfaces import Register
from station.ledger.standing import LedgerRegister
from station.model import Standing, StandingState
from station.sim.line import wait_for
from station.status import StatusBoard

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["iot:Connect", "iot:Subscribe", "iot:Receive"], "Resource": "*"},
    ],
}


@pytest.fixture
def settings(*, cloud: SimCloud, ca: ProviderCA, api: Any, tmp_path: Path) -> ActivatorFile:
    """An activator's settings whose register is the topic; its name is its CA's, for all tests share a broker."""
    own = device(ca, tmp_path / "own", "station-activator")
    connect(cloud, own)
    activate(api, own, POLICY)
    (tmp_path / "seal.pem").write_bytes(SEAL.public)
    (tmp_path / "state").mkdir()
    events = {
        "endpoint": cloud.said["endpoint"],
        "port": cloud.mqtt_port,
        "client_id": f"activator-{ca.id[:8]}",
        "certificate": str(own.chain),
        "key_file": str(own.key),
        "server_roots": str(cloud.server_roots),
    }
    return ActivatorFile.model_validate_json(
        json.dumps(
            {
                "state": str(tmp_path / "state"),
                "region": cloud.said["region"],
                "ca_certificate_id": ca.id,
                "policy": "p",
                "register": {
                    "kind": "feed",
                    "at": {"kind": "mqtt", "topic": f"feed/{ca.id[:8]}"},
                    "seals": [str(tmp_path / "seal.pem")],
                },
                "events": events,
                "simulator": {"api_url": cloud.said["api_url"]},
            }
        )
    )


@pytest.fixture
def topic(registry: object, cloud: SimCloud, ca: ProviderCA) -> TopicShelf:
    """The station's side; ``registry`` for the credentials that it sets."""
    return TopicShelf(f"feed/{ca.id[:8]}", "line-1", cloud.said["region"], cloud.said["api_url"])


Tell = Callable[..., int]


@pytest.fixture
def tell(line: Line, topic: TopicShelf) -> Tell:
    """One round of the station's writer, under a seal."""
    status = StatusBoard("line-1", ("1",), simulated=False)

    def told(seal: KeyInHand = SEAL, to: TopicShelf = topic) -> int:
        writer = FeedWriter("line-1", line.ledger, to, seal.public, seal.sign, status=status, connect_valid_s=600)
        return writer.round()

    return told


@pytest.fixture
def running(settings: ActivatorFile) -> Iterator[Callable[[], tuple[Register, ExitStack]]]:
    """Starts the register as the daemon does; it listens once the call has returned."""
    with ExitStack() as parts:

        def start() -> tuple[Register, ExitStack]:
            own = ExitStack()
            parts.callback(own.close)
            return _register(settings, own, None), own

        yield start


def stands(register: Register, certificate_id: str) -> StandingState | None:
    known: Standing | None = register.standing(certificate_id)
    return known.state if known else None


def told_until_heard(tell: Tell, register: Register, line: Line, serial: str) -> str:
    """Units until one is heard of: the subscription stands since, and so does its session."""
    names: list[str] = []

    def heard() -> bool:
        _, made = line.run(f"{serial}-{len(names)}")
        names.append(made.id)
        tell()
        return any(stands(register, name) is StandingState.CONNECTING for name in names)

    wait_for("a line by the topic", heard, 30)
    return next(name for name in names if stands(register, name))


def test_what_a_station_tells_is_known_and_what_came_while_the_activator_was_away_too(
    *, line: Line, tell: Tell, running: Callable[[], tuple[Register, ExitStack]]
) -> None:
    first, parts = running()
    told_until_heard(tell, first, line, "SN-A")
    parts.close()

    run, passing = line.run("SN-B")
    _, waiting = line.run("SN-C")
    tell()
    end(line.ledger, run, Fault.LIFTED)
    assert tell() == 1
    assert stands(first, waiting.id) is None, "nobody listened"

    again, _ = running()
    wait_for("the line of while it was away", lambda: stands(again, waiting.id) is StandingState.CONNECTING, 30)
    wait_for("the later line", lambda: stands(again, passing.id) is StandingState.OUT, 30)
    record = LedgerRegister(line.ledger.store.read)
    assert [again.standing(one.id) for one in (waiting, passing)] == [
        record.standing(one.id) for one in (waiting, passing)
    ]


def test_a_line_that_could_not_be_kept_is_not_acknowledged_and_comes_again(
    *, settings: ActivatorFile, line: Line, tell: Tell, running: Callable[[], tuple[Register, ExitStack]]
) -> None:
    register, _ = running()
    told_until_heard(tell, register, line, "SN-A")
    _, made = line.run("SN-B")
    in_the_way = settings.state / "feed" / made.id[:2]
    shutil.rmtree(in_the_way, ignore_errors=True)
    in_the_way.write_text("no line can be kept here")
    with capture_logs() as logs:
        assert tell() == 1
        wait_for("a try to keep it", lambda: any("feed's folder" in str(one.get("state")) for one in logs), 30)
    in_the_way.unlink()
    wait_for("the line once more", lambda: stands(register, made.id) is StandingState.CONNECTING, 30)


def test_an_activator_that_is_killed_while_it_keeps_a_line_gets_it_again(
    *, line: Line, tell: Tell, running: Callable[[], tuple[Register, ExitStack]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, parts = running()
    told_until_heard(tell, first, line, "SN-A")
    parts.close()
    _, made = line.run("SN-B")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the worker's other thread only listens to xdist
        pid = os.fork()
    if not pid:
        monkeypatch.setattr(FolderShelf, "put", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        running()
        time.sleep(30)
        os._exit(1)
    tell()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert stands(first, made.id) is None
    again, _ = running()
    wait_for("the line once more", lambda: stands(again, made.id) is StandingState.CONNECTING, 30)


def test_what_a_station_s_doctor_publishes_is_passed_over(
    *,
    settings: ActivatorFile,
    line: Line,
    topic: TopicShelf,
    tell: Tell,
    running: Callable[[], tuple[Register, ExitStack]],
) -> None:
    register, _ = running()
    with capture_logs() as logs:
        topic.prove()
        told_until_heard(tell, register, line, "SN-A")
        topic.prove()
        _, made = line.run("SN-B")
        tell()
        wait_for("the line after it", lambda: stands(register, made.id) is StandingState.CONNECTING, 30)
    assert not [one for one in logs if one["log_level"] == "warning"]


def test_an_unknown_seal_s_line_and_one_about_another_ca_are_not_laid_down(
    *,
    settings: ActivatorFile,
    line: Line,
    topic: TopicShelf,
    tell: Tell,
    running: Callable[[], tuple[Register, ExitStack]],
) -> None:
    register, _ = running()
    told_until_heard(tell, register, line, "SN-A")
    _, made = line.run("SN-FORGED")
    assert tell(KeyInHand()) == 1
    now = datetime.now(UTC)
    elsewhere = Standing("e" * 64, "f" * 64, "SN-1", StandingState.CONNECTING)
    topic.put("", sealed(FeedLine("line-1", 1, elsewhere, now, now + timedelta(hours=1)), SEAL.public, SEAL.sign))
    _, after = line.run("SN-AFTER")
    tell()
    wait_for("the line after it", lambda: stands(register, after.id) is StandingState.CONNECTING, 30)
    assert register.standing(made.id) is None
    laid = {file.stem for file in (settings.state / "feed").glob("*/*")}
    assert after.id in laid
    assert not laid & {made.id, "e" * 64}


def test_a_topic_needs_the_connection_that_it_comes_by(settings: ActivatorFile) -> None:
    with ExitStack() as parts, pytest.raises(FaultError) as error:
        _register(settings.model_copy(update={"events": None}), parts, None)
    assert error.value.fault is Fault.CONFIG


def test_a_cloud_that_is_away_leaves_the_line_on_the_station(
    line: Line, tell: Tell, topic: TopicShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("station.aws.calls._PATIENCE_S", 0.2)
    line.run("SN-1")
    with pytest.raises(FaultError) as error:
        tell(to=TopicShelf("feed", "line-1", "us-east-1", "http://127.0.0.1:9"))
    assert error.value.fault is Fault.CLOUD_UNREACHABLE
    assert tell(to=topic) == 1
