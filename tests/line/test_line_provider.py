"""The provider activates, and knows what only from the sealed feed: station, feed and activator, each as it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from whole_line import Bench, MakeStation, make_seal

from station.sim.jig import SimJig
from station.sim.line import Provider, Station, wait_for


@pytest.fixture
def feeding(make_station: MakeStation, own_token: Provider, tmp_path: Path) -> Station:
    """A station with a seal of its own in the token, that tells a folder."""
    (tmp_path / "feed").mkdir()
    station = make_station(where=own_token)
    station.settings["seal"] = make_seal(own_token)
    station.settings["aws"]["activation"] = {
        "by": "provider",
        "feed": {"at": {"kind": "folder", "folder": str(tmp_path / "feed")}},
    }
    station.settings["aws"]["connect_deadline_s"] = 60.0
    station.write_config()
    station.start()
    return station


@pytest.fixture
def activator(feeding: Station, own_token: Provider, tmp_path: Path) -> Iterator[Path]:
    """An activator at work that polls each second, and has nothing but the feed to go by; gives its file."""
    file = tmp_path / "activator.yaml"
    file.write_text(
        json.dumps(
            {
                "state": "activator-state",
                "region": own_token.cloud["region"],
                "ca_certificate_id": own_token.registration["ca_certificate_id"],
                "policy": "station-device",
                "register": {
                    "kind": "feed",
                    "at": {"kind": "folder", "folder": "feed"},
                    "seals": [str(own_token.folder / "seal.pem")],
                },
                "poll_s": 1,
                "grace_s": 3600,
                "simulator": {"api_url": own_token.cloud["api_url"]},
            }
        )
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "station", "activator", "run", str(file)],
        env=dict(own_token.environment),
        stderr=subprocess.DEVNULL,
    )
    yield file
    process.terminate()
    assert process.wait(30) == 0


def test_a_unit_passes_by_the_provider_s_hand_and_its_permission_ends_with_the_run(
    feeding: Station, activator: Path, jig: SimJig, cloud_api: Any, tmp_path: Path
) -> None:
    feeding.order("WO-1", "console-station-key", 5)
    bench = Bench(feeding, jig, cloud_api)
    result = bench.run("SN-1")
    assert result["outcome"] == "PASS", result
    assert bench.certificate_states("SN-1") == ["ACTIVE"]
    (line,) = (tmp_path / "feed").rglob("*.jsonl")

    def told() -> dict[str, Any]:
        body: dict[str, Any] = json.loads(json.loads(line.read_text())["body"])
        return body

    assert told()["certificate"] == line.stem
    wait_for("the end of the permission", lambda: told()["state"] == "passed")
