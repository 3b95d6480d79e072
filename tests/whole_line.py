"""A whole line for each test: its own daemon, ledger and boards, against one provider (token, CA, cloud) a worker."""

from __future__ import annotations

import itertools
import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from cloud import make_ca
from cryptography.hazmat.primitives.serialization import Encoding

from station.config import load
from station.doctor import Doctor, Finding, examine
from station.sim.jig import PluggedBoard, SimJig
from station.sim.line import Provider, Station, command, make_provider

MakeStation = Callable[..., Station]


def order_troubles(provider: Provider, **troubles: Any) -> None:
    request = urllib.request.Request(  # noqa: S310 - our own simulator
        f"{provider.cloud['control_url']}/troubles",
        json.dumps(troubles).encode(),
        {"content-type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - our own simulator
        answer.read()


def make_seal(provider: Provider) -> dict[str, str]:
    """Perform the act `seal` in the provider's token; what the settings then say of it."""
    key = provider.key.replace("device-ca", "station-seal")
    act = {
        "act": "seal",
        "rehearsal": True,
        "key": key,
        "pin": {"file": "pin"},
        "state": "ceremony",
        "key_type": "p256",
        "outputs": {"public": "seal.pem", "minutes": "minutes-seal.md"},
    }
    file = provider.folder / "seal.yaml"
    file.write_text(json.dumps(act))
    command(["ceremony", str(file), "--yes"], provider.environment)
    return {"public": str(provider.folder / "seal.pem"), "key": key}


class Bench:
    """One station with its jig: what most tests do, in words."""

    def __init__(self, station: Station, jig: SimJig, api: Any) -> None:
        self.station, self.jig, self.api = station, jig, api
        self._plugged = 0

    def plug(self, serial: str, *faults: str, chip: str = "", slot: int = 1, **more: Any) -> PluggedBoard:
        return self.jig.plug(
            self.station.ports[slot - 1],
            serial=serial,
            chip=chip or f"CHIP-{serial}",
            model="demo-board",
            faults=faults,
            **more,
        )

    def run(self, serial: str, *faults: str, **more: Any) -> dict[str, Any]:
        """Plug in, wait for the result, lift; return the slot's result."""
        before = self.station.slot()["since"]
        board = self.plug(serial, *faults, **more)
        result = self.station.result(after=before)
        board.lift()
        self.station.empty()
        return result

    def history(self, serial: str) -> list[dict[str, Any]]:
        return self.station.control.unit(serial)

    def certificate_states(self, serial: str) -> list[str | None]:
        """What the registry says of each certificate ever issued to the unit; None where it knows nothing."""
        issued = [each["certificate_id"] for run in self.history(serial) for each in run["certificates"]]
        return [self._state(one) for one in issued if one]

    def _state(self, certificate_id: str) -> str | None:
        try:
            found = self.api.describe_certificate(certificateId=certificate_id)
        except self.api.exceptions.ResourceNotFoundException:
            return None
        return str(found["certificateDescription"]["status"])

    def nothing_active(self, serial: str) -> None:
        """Once the outbox has drained, the unit has no certificate that works, and none that could be activated."""
        self.station.drained()
        states = self.certificate_states(serial)
        assert all(state == "INACTIVE" for state in states), states


@pytest.fixture(scope="session")
def shared_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with ExitStack() as parts:
        yield make_provider(tmp_path_factory.mktemp("provider") / "p", parts)


@pytest.fixture
def provider(shared_provider: Provider) -> Iterator[Provider]:
    yield shared_provider
    order_troubles(shared_provider)


@pytest.fixture
def own_token(provider: Provider, tmp_path: Path) -> Provider:
    """The same provider with a copy of its token, for tests that damage it."""
    folder = tmp_path / "own-token"
    folder.mkdir()
    shutil.copytree(provider.folder / "tokens", folder / "tokens")
    for name in ("pin", "ca.pem"):
        shutil.copy2(provider.folder / name, folder / name)
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    environment = {**provider.environment, "SOFTHSM2_CONF": str(conf)}
    return Provider(folder, provider.cloud, provider.key, provider.registration, environment)


@pytest.fixture
def jig(tmp_path: Path) -> Iterator[SimJig]:
    with SimJig(tmp_path / "boards") as boards:
        yield boards


@pytest.fixture
def cloud_api(provider: Provider) -> Iterator[Any]:
    """The registry as a stranger sees it."""
    client = boto3.client(
        "iot",
        region_name=provider.cloud["region"],
        endpoint_url=provider.cloud["api_url"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    yield client
    client.close()


@pytest.fixture
def make_station(provider: Provider, tmp_path: Path) -> Iterator[MakeStation]:
    """Stations that end with the test."""
    with ExitStack() as parts:

        def make(name: str = "s", where: Provider = provider, **changes: Any) -> Station:
            station = Station(tmp_path / name, where, **changes)
            parts.callback(station.kill)
            return station

        yield make


@pytest.fixture
def station(make_station: MakeStation) -> Station:
    """A station at work, with an open order for each key origin."""
    made = make_station()
    made.start()
    return made


@pytest.fixture
def bench(station: Station, jig: SimJig, cloud_api: Any) -> Bench:
    station.order("WO-1", "console-station-key", 50)
    return Bench(station, jig, cloud_api)


@pytest.fixture
def board_bench(station: Station, jig: SimJig, cloud_api: Any) -> Bench:
    """As `bench`, the key is made on the board."""
    station.order("WO-1", "console-board-key", 50)
    return Bench(station, jig, cloud_api)


@pytest.fixture(scope="module")
def _lasting(shared_provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    station = Station(tmp_path_factory.mktemp("lasting") / "s", shared_provider)
    with ExitStack() as parts:
        parts.callback(station.kill)
        station.start()
        station.order("WO-1", "console-board-key", 500)
        yield station


@pytest.fixture
def lasting_bench(_lasting: Station, provider: Provider, jig: SimJig, cloud_api: Any) -> Bench:
    """As `board_bench`, on a station that a module's tests share: for those that leave it as it was.

    Each unit of theirs is a `fresh_serial`.
    """
    del provider  # asked for, since it takes the cloud's troubles back
    return Bench(_lasting, jig, cloud_api)


_units = itertools.count(1)


def fresh_serial() -> str:
    """A serial that no other test has."""
    return f"SN-{next(_units):05}"


@pytest.fixture
def resting(make_station: MakeStation, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Station:
    """A station that does not run, asked within this process."""
    for name in ("SOFTHSM2_CONF", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, provider.environment[name])
    return make_station()


def asked(station: Station, part: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Finding:
    """One part's answer, with the settings as they are on disk now."""
    station.write_config()
    (found,) = examine({part: Doctor(load(station.config), clock=clock).parts()[part]}, limit_s=30)
    return found


@pytest.fixture
def ca_of_nobody(tmp_path: Path) -> Path:
    """A CA certificate that no token and no registry knows."""
    file = tmp_path / "nobody.pem"
    file.write_bytes(make_ca("Nobody REHEARSAL").certificate.public_bytes(Encoding.PEM))
    return file
