"""The simulated cloud as a process: where it listens and writes, how it ends, and which MiniStack it refuses."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud import SimCloud, device, provider_ca
from mqtt_stranger import connection

LISTEN = "0A"  # proc(5), /proc/net/tcp
LOOPBACK = "0100007F"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A cloud of the test's own, in a home of its own."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(
        [sys.executable, "-m", "station.sim.cloud", str(tmp_path / "cloud")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=tmp_path / "home",
        text=True,
    ) as process:
        yield process
        process.kill()


def ready(process: subprocess.Popen[str], tmp_path: Path) -> SimCloud:
    assert process.stdout
    return SimCloud(tmp_path / "cloud", json.loads(process.stdout.readline()))


def sockets_of(pid: int) -> list[tuple[str, str]]:
    """Local address and state of each TCP and UDP socket of a process (proc(5))."""
    links = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:")}
    rows = [
        line.split()
        for family in ("tcp", "tcp6", "udp", "udp6")
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]
    ]
    return [(row[1].split(":")[0], row[3]) for row in rows if row[9] in inodes]


def test_it_listens_on_the_loopback_alone(process: subprocess.Popen[str], tmp_path: Path) -> None:
    provider_ca(ready(process, tmp_path))  # MiniStack loads its services when they are first called
    assert {address for address, _ in sockets_of(process.pid)} == {LOOPBACK}
    assert sum(state == LISTEN for _, state in sockets_of(process.pid)) == 3


def test_the_ready_line_says_what_a_station_needs(process: subprocess.Popen[str], tmp_path: Path) -> None:
    said = dict(ready(process, tmp_path).said)
    assert said.keys() >= {"api_url", "control_url", "endpoint", "mqtt_port", "alpn_port", "server_roots"}
    assert (said["endpoint"], said["region"], len(said["account"])) == ("localhost", "us-east-1", 12)
    assert len({said["mqtt_port"], said["alpn_port"], int(said["api_url"].rpartition(":")[2])}) == 3


@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "SIGINT"])
def test_it_ends_at_once_whatever_is_under_way_and_leaves_nothing(
    process: subprocess.Popen[str], tmp_path: Path, how: str
) -> None:
    cloud = ready(process, tmp_path)
    unit = device(provider_ca(cloud), tmp_path / "unit")
    cloud.troubles(api={"DescribeEndpoint": "hang"})
    hanging = http.client.HTTPConnection("127.0.0.1", int(cloud.said["api_url"].rpartition(":")[2]))
    hanging.request("GET", "/endpoint")
    with connection(cloud, unit):
        if how == "stdin":
            assert process.stdin
            process.stdin.close()
        else:
            process.send_signal(signal.Signals[how])
        assert process.wait(3) == 0
    hanging.close()
    assert not list((tmp_path / "home").iterdir())
    assert not list((tmp_path / "tmp").iterdir())
    assert [each.suffix for each in (tmp_path / "cloud").rglob("*") if each.suffix not in {".pem", ".log"}] == []


def test_its_log_is_in_its_folder_and_standard_output_has_one_line(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    cloud = ready(process, tmp_path)
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    assert process.stdout.read() == ""
    assert "MiniStack" in (cloud.folder / "cloud.log").read_text()


@pytest.mark.parametrize("name", ["_mtls_serve_conn", "_ca_certificates"])
def test_it_refuses_a_ministack_that_it_was_not_made_for(tmp_path: Path, name: str) -> None:
    program = f"""
import sys
from ministack.services import iot
del iot.{name}
sys.argv = ["cloud", {str(tmp_path)!r}]
from station.sim.cloud import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert name in done.stderr
    assert "another version" in done.stderr
