"""Tokens for tests: SoftHSM2, a second vendor's (NSS softokn), and one on a wire (p11-kit) to cut or stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from station.hsm.pin import PinSource
from station.hsm.uri import KeyUri

SOFTHSM = next(
    path
    for path in ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
    if Path(path).exists()
)
SOFTOKN = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so"
P11_CLIENT = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"
PIN = "91827364"
_NSS = Path(__file__).parent / "nss"


@dataclass(frozen=True)
class Token:
    """One token with a PIN file; its environment is set for the test."""

    label: str
    module: str
    folder: Path

    @property
    def pin(self) -> PinSource:
        return PinSource(file=self.folder / "pin")

    @property
    def latch(self) -> Path:
        return self.folder / "latch"

    def key(self, name: str = "device-ca", key_id: bytes | None = None) -> KeyUri:
        return KeyUri(self.label, self.module, name, key_id)

    def write_pin(self, pin: str) -> None:
        (self.folder / "pin").write_text(f"{pin}\n")
        (self.folder / "pin").chmod(0o600)


def make_softhsm(folder: Path, monkeypatch: pytest.MonkeyPatch, label: str = "demo") -> Token:
    (folder / "tokens").mkdir(parents=True)
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "5647382910"],
        check=True,
        capture_output=True,
    )
    token = Token(label, SOFTHSM, folder)
    token.write_pin(PIN)
    return token


def make_nss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Token:
    """A fresh NSS database with a PIN. Its token's name is fixed by NSS."""
    (folder / "db").mkdir(parents=True)
    monkeypatch.setenv("TEST_NSS_FOLDER", str(folder / "db"))
    monkeypatch.setenv("TEST_NSS_MODULE", SOFTOKN)
    monkeypatch.setenv("PYTHONPATH", str(_NSS))
    set_pin = (
        "import pkcs11, sys\n"
        f"token = pkcs11.lib({SOFTOKN!r}).get_token(token_label='NSS Certificate DB')\n"
        "with token.open(rw=True, so_pin='') as session: session.init_pin(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", set_pin, PIN], check=True, capture_output=True)
    token = Token("NSS Certificate DB", SOFTOKN, folder)
    token.write_pin(PIN)
    return token


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Token:
    return make_softhsm(tmp_path / "softhsm", monkeypatch)


@pytest.fixture(params=["softhsm", "nss"])
def any_token(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Token:
    make = make_softhsm if request.param == "softhsm" else make_nss
    return make(tmp_path / request.param, monkeypatch)


class HsmOnAWire:
    """A SoftHSM token behind ``p11-kit server``: what a network HSM is to the station."""

    def __init__(self, token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
        self._backing, self._socket = token, token.folder / "p11"
        monkeypatch.setenv("P11_KIT_SERVER_ADDRESS", f"unix:path={self._socket}")
        self.token = Token(token.label, P11_CLIENT, token.folder)
        self._pid = 0
        self.switch_on()

    def switch_on(self) -> None:
        self._socket.unlink(missing_ok=True)
        command = ["p11-kit", "server", "-f", "-n", str(self._socket), "--provider", self._backing.module, "pkcs11:"]
        self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def switch_off(self) -> None:
        """The power of the HSM goes, with every connection."""
        for pid in self._processes():
            os.kill(pid, signal.SIGKILL)
        self._server.wait(10)
        self._socket.unlink(missing_ok=True)

    def hang(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in self._processes():
            os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        """The server and its child for each connection."""
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text().split()
        return [*map(int, children), self._server.pid]


@pytest.fixture
def hsm_on_a_wire(softhsm: Token, monkeypatch: pytest.MonkeyPatch) -> Iterator[HsmOnAWire]:
    hsm = HsmOnAWire(softhsm, monkeypatch)
    yield hsm
    hsm.switch_off()
