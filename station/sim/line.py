"""A whole line in a folder: a provider (token, CA, cloud) and a station that works against it, all real processes.

The demo shows it, and the tests under ``tests/line/`` cut it at every step. Commands are run as a person would.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from station.control import Control
from station.faults import FaultError

_PATIENCE_S = 60.0  # a bound, never a wait: a laden machine starts a station in 20 s
_MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
TOKEN = "demo"  # noqa: S105 - a label
_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["iot:Connect", "iot:Publish"], "Resource": "*"},
    ],
}


class LineError(Exception):
    """A part of the simulated line did not do what it should; the text says which, and where its log is."""


def softhsm_module() -> str:
    """The path of SoftHSM2's PKCS#11 module."""
    for path in _MODULES:
        if Path(path).exists():
            return path
    raise LineError("SoftHSM2 is not installed; next: sudo apt-get install softhsm2")


def wait_for(what: str, there: Callable[[], Any], timeout_s: float = _PATIENCE_S) -> Any:
    """Poll until ``there`` gives something true, and return it."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = there()
        if found:
            return found
        if time.monotonic() > deadline:
            raise LineError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Provider:
    """What the provider made: a CA in a token, registered with the cloud."""

    folder: Path
    cloud: Mapping[str, Any]
    key: str
    registration: Mapping[str, Any]
    environment: Mapping[str, str]

    @property
    def ca(self) -> Path:
        """The CA certificate."""
        return self.folder / "ca.pem"

    @property
    def pin(self) -> Path:
        """The token's PIN, in a 0600 file."""
        return self.folder / "pin"


def make_provider(folder: Path, parts: ExitStack, say: Callable[[str], None] = lambda _: None) -> Provider:
    """A fresh token, a cloud that ends with ``parts``, and both ceremonies."""
    folder.mkdir(parents=True)
    environment = {**os.environ, **aws_credentials(), **make_token(folder)}
    say("a fresh SoftHSM token is made")
    cloud = start_cloud(folder / "cloud", parts, environment)
    say(f"the simulated AWS IoT listens on {cloud['api_url']} and port {cloud['mqtt_port']}")
    key = f"pkcs11:token={TOKEN};object=device-ca;type=private?module-path={softhsm_module()}"
    _ceremony(folder, environment, _root_act(key), "root")
    say("ceremony root: the CA key is in the token, its certificate is written")
    _ceremony(folder, environment, _register_act(key, cloud), "register")
    say("ceremony register: AWS IoT knows the CA, auto-registration is on")
    _make_policy(cloud)
    registration = json.loads((folder / "registration.json").read_text())
    return Provider(folder, cloud, key, registration, environment)


def aws_credentials() -> dict[str, str]:
    """What the simulated cloud takes; no other credentials are looked for."""
    return {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


def make_token(folder: Path) -> dict[str, str]:
    """An initialised SoftHSM token under ``folder``; returns the environment that names it."""
    (folder / "tokens").mkdir()
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin = secrets.token_hex(8)
    os.close(os.open(folder / "pin", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    (folder / "pin").write_text(pin + "\n")
    environment = {"SOFTHSM2_CONF": str(conf)}
    command = [
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        TOKEN,
        "--pin",
        pin,
        "--so-pin",
        secrets.token_hex(8),
    ]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=False)
    if done.returncode:
        raise LineError(f"softhsm2-util failed: {done.stderr.decode(errors='replace')[-200:]}")
    return environment


def start_cloud(folder: Path, parts: ExitStack, environment: Mapping[str, str]) -> dict[str, Any]:
    """Start the simulated cloud; it ends with ``parts``, or with this process."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "station.sim.cloud", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(environment),
        text=True,
    )
    parts.callback(_end, process)
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    line = process.stdout.readline()
    if not line:
        raise LineError(f"the simulated cloud did not start; see {folder}/cloud.log")
    said: dict[str, Any] = json.loads(line)
    return said


def _end(process: subprocess.Popen[str]) -> None:
    """Let a child end by its closed stdin, and kill it where that does not help."""
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _root_act(key: str) -> dict[str, Any]:
    return {
        "act": "root",
        "rehearsal": True,
        "key": key,
        "pin": {"file": "pin"},
        "state": "ceremony",
        "key_type": "p256",
        "subject": {"common_name": "Demo Device CA REHEARSAL", "organization": "Demo"},
        "validity_days": 3650,
        "path_length": 0,
        "outputs": {"certificate": "ca.pem", "minutes": "minutes-root.md"},
    }


def _register_act(key: str, cloud: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "act": "register",
        "rehearsal": True,
        "key": key,
        "pin": {"file": "pin"},
        "state": "ceremony",
        "certificate": "ca.pem",
        "region": cloud["region"],
        "mode": "DEFAULT",
        "simulator": {"api_url": cloud["api_url"]},
        "outputs": {"registration": "registration.json", "minutes": "minutes-register.md"},
    }


def _ceremony(folder: Path, environment: Mapping[str, str], act: Mapping[str, Any], name: str) -> None:
    """Write the act's file (JSON is YAML) and perform it with the command that a person would use."""
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(act, indent=2))
    command(["ceremony", str(file), "--yes"], environment)


def command(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run one ``station`` command to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "station", *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise LineError(f"station {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _make_policy(cloud: Mapping[str, Any]) -> None:
    import boto3

    client = boto3.client(
        "iot",
        region_name=cloud["region"],
        endpoint_url=cloud["api_url"],
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - the simulator's
    )
    client.create_policy(policyName="station-device", policyDocument=json.dumps(_POLICY))
    client.close()


def _product(origin: str) -> dict[str, Any]:
    return {
        "driver": "console",
        "model": "demo-board",
        "key": {"type": "p256", "origin": origin},
        "certificate": {"validity_days": 365, "backdate_s": 3600, "organization": "Demo"},
        "first_contact": {"client_id": "{serial}", "topic": "foo/bar"},
    }


class Station:
    """One simulated station in a folder of its own: its config, its daemon process, its control socket."""

    def __init__(self, folder: Path, provider: Provider, *, slots: int = 1, **changes: Any) -> None:
        self.folder, self.provider = folder, provider
        self.ports = tuple(folder / "jig" / f"slot{number}" for number in range(1, slots + 1))
        self.port = self.ports[0]
        self.port.parent.mkdir(parents=True)
        self.state, self.runtime = folder / "state", folder / "run"
        self.state.mkdir(mode=0o750)
        self.runtime.mkdir(mode=0o750)
        self.config = folder / "station.yaml"
        self.log = folder / "station.log"
        self.settings = {**self._settings(), **changes}
        self.products = {f"console-{origin}-key": _product(origin) for origin in ("board", "station")}
        self.write_config()
        self.control = Control(self.runtime / "control.sock")
        self.process: subprocess.Popen[str] | None = None

    def write_config(self) -> None:
        """Put the settings and the products on disk."""
        self.config.write_text(json.dumps(self.settings, indent=2))
        products = self.folder / "products"
        products.mkdir(exist_ok=True)
        for name, product in self.products.items():
            (products / f"{name}.yaml").write_text(json.dumps({"name": name, **product}, indent=2))

    def _settings(self) -> dict[str, Any]:
        cloud = self.provider.cloud
        return {
            "station": "demo-line",
            "language": "en",
            "operator": "demo",
            "simulate": True,
            "state": str(self.state),
            "runtime": str(self.runtime),
            "slots": [
                {"name": str(number), "port": str(port), "lamp": {"kind": "terminal"}}
                for number, port in enumerate(self.ports, 1)
            ],
            "hsm": {
                "key": self.provider.key,
                "pin": {"file": str(self.provider.pin)},
                "processes": 1,
                "timeout_s": 6.0,  # a child that hangs is given up after 60 % of it; a new one must start in the rest
            },
            "ca": {"certificate": str(self.provider.ca)},
            "aws": {
                "region": cloud["region"],
                "endpoint": cloud["endpoint"],
                "port": cloud["mqtt_port"],
                "ca_certificate_id": self.provider.registration["ca_certificate_id"],
                "server_roots": cloud["server_roots"],
                "activation": {"by": "station", "policy": "station-device"},
                "dial_timeout_s": 3.0,
                "connect_deadline_s": 20.0,
                "simulator": {"api_url": cloud["api_url"], "alpn": False},
            },
            "slot_times": {"debounce_ms": 100, "lifted_ms": 300},
            "stop_grace_s": 10.0,
        }

    @property
    def command(self) -> list[str]:
        """The ``station`` command for this station."""
        return [sys.executable, "-m", "station", "--config", str(self.config)]

    def run(self, *arguments: str) -> str:
        """Run one command of this station to its end and return what it printed."""
        return command(["--config", str(self.config), *arguments], self.provider.environment)

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the daemon and wait until it answers."""
        with self.log.open("a") as log, (self.folder / "lamp.txt").open("a") as lamp:
            self.process = subprocess.Popen(
                [*self.command, "run"],
                stdout=lamp,
                stderr=log,
                env=dict(environment or self.provider.environment),
                text=True,
            )
        with ExitStack() as unless_started:  # late, or interrupted: nobody else would end it
            unless_started.callback(self.kill)
            wait_for("the station's start", self._answers)
            unless_started.pop_all()

    def _answers(self) -> bool:
        assert self.process is not None  # noqa: S101 - called by start
        if self.process.poll() is not None:
            raise LineError(f"the station ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}")
        try:
            self.control.status()
        except FaultError:
            return False
        return True

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process is None:
            return 0
        self.process.terminate()
        code = self.process.wait(_PATIENCE_S)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL: the power is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def order(self, number: str, product: str, quantity: int, **more: Any) -> None:
        """Open a work order."""
        self.control.add_order(
            {"number": number, "product": product, "kind": "production", "quantity": quantity, "by": "demo", **more}
        )

    def slot(self, number: int = 1) -> dict[str, Any]:
        """A slot's present status."""
        status: dict[str, Any] = self.control.status()["slots"][number - 1]
        return status

    def result(self, after: str = "", number: int = 1) -> dict[str, Any]:
        """Wait for a latched result, other than the one that was there since ``after``."""

        def latched() -> dict[str, Any] | None:
            slot = self.slot(number)
            return slot if slot["state"] == "result" and slot["since"] != after else None

        found: dict[str, Any] = wait_for("a result", latched)
        return found

    def empty(self, number: int = 1) -> None:
        """Wait until a slot is free."""
        wait_for("an empty slot", lambda: self.slot(number)["state"] == "empty")

    def drained(self) -> None:
        """Wait until no certificate waits to be taken out of service."""
        wait_for("an empty outbox", lambda: self.control.status()["outbox"] == 0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
