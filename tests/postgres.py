"""A real PostgreSQL for tests: Debian's, in a folder of its own, ended by its pid; and a network to cut."""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from ledgers import begin_ledger

from station.config.line import LineSettings
from station.config.secrets import Password
from station.ledger import SqliteLedger
from station.ledger.line import LineServer, LineSync, setup

OWNER = "postgres"
OWNER_PASSWORD = "owner of the line"
PASSWORD = "a station's password"
STATIONS = ("s1", "s2", "s3")
TEMPLATE = "line_template"
_START_S = 60.0


def _binaries() -> Path:
    """Debian keeps the server's programs out of PATH, a folder for each major version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    assert found, "PostgreSQL is missing; run: .ci/setup dev"
    return found[-1].parent


class Postgres:
    """One server on 127.0.0.1. As root it runs as the user postgres, for it refuses to be root."""

    def __init__(self, *settings: str) -> None:
        self._settings = settings
        # Not pytest's folder: that is closed to the user postgres.
        self.folder = Path(mkdtemp(prefix="station-pg-"))
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._drop: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        secret = self.folder / "owner-password"
        secret.write_text(OWNER_PASSWORD)
        secret.chmod(0o644)
        self._run("initdb", "-D", "data", "-U", OWNER, "-A", "scram-sha-256", "--pwfile=owner-password", "-N")

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [*self._drop, str(_binaries() / name), *arguments],
            cwd=self.folder,
            check=True,
            capture_output=True,
            timeout=_START_S,
        )

    def start(self) -> None:
        """Start, and wait until it answers. After a kill its children need a moment to notice, hence the tries."""
        if not self.port:
            with closing(socket.create_server(("127.0.0.1", 0))) as free:
                self.port = free.getsockname()[1]
        until = time.monotonic() + _START_S
        while not self._answers():
            assert time.monotonic() < until, (self.folder / "log").read_text()[-2000:]
            if self._process is None or self._process.poll() is not None:
                settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
                # What is under test survives a killed server, not a power cut of the test machine.
                settings += [
                    "fsync=off",
                    "max_connections=120",
                    "shared_buffers=32MB",
                    "autovacuum=off",
                    *self._settings,
                ]
                options = [word for setting in settings for word in ("-c", setting)]
                with (self.folder / "log").open("ab") as log:
                    self._process = subprocess.Popen(
                        [*self._drop, str(_binaries() / "postgres"), "-D", "data", *options],
                        cwd=self.folder,
                        stdout=log,
                        stderr=log,
                    )
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            self.owner("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def owner(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user=OWNER,
            password=OWNER_PASSWORD,
            autocommit=True,
            connect_timeout=5,
        )

    def cpu_s(self) -> float:
        """What it used, its children that ended included (proc(5): utime, stime, cutime, cstime)."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """As a power cut ends it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nobody needs what is in it
            self._process.wait(_START_S)
        shutil.rmtree(self.folder, ignore_errors=True)


class Network:
    """A wire between stations and server that can be cut: silent (nothing arrives), or closed (refused and reset)."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._cut = threading.Event()
        self._over = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.passed = 0
        self.cut_after: int | None = None

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), timeout=5)
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            thread = threading.Thread(target=self._carry, args=(client, server), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        """Both ways until one side ends; cut, the bytes stay where they are."""
        with client, server:
            while not self._over.is_set():
                if self._cut.is_set():
                    self._over.wait(0.01)
                    continue
                try:
                    ready, _, _ = select.select([client, server], [], [], 0.05)
                    for one in ready:
                        data = one.recv(65536)
                        if not data:
                            return
                        if self.cut_after is not None and self.passed >= self.cut_after:
                            self._cut.set()
                            break  # taken from the wire and never delivered, as a cut does
                        self.passed += len(data)
                        (server if one is client else client).sendall(data)
                except (OSError, ValueError):
                    return

    def cut(self) -> None:
        self._cut.set()

    def mend(self) -> None:
        """What hung in the cut is lost with its connection, as after a timeout in the network."""
        self.cut_after = None
        for pair in self._pairs:
            for one in pair:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()
        self._cut.clear()

    def close(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.mend()
        for thread in self._threads:
            thread.join(5)


class Line:
    """A database of its own on the server, with three stations admitted."""

    def __init__(self, server: Postgres, name: str, folder: Path) -> None:
        self.server, self.name, self._folder = server, name, folder
        self._logins: list[LineServer] = []
        with closing(server.owner("postgres")) as owner:
            if name == TEMPLATE:
                owner.execute(f"CREATE DATABASE {name}")
                self.prepare()
            else:
                owner.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy")

    def prepare(self) -> None:
        with self.as_owner() as owner, owner.transaction(60.0) as connection:
            setup.prepare(connection, simulated=False)
            for station in STATIONS:
                setup.admit(connection, station, f"login_{station}", PASSWORD)
            setup.admit_reader(connection, "line_boss", PASSWORD)

    def as_owner(self) -> Any:
        return closing(LineServer(self.settings(), OWNER_PASSWORD, OWNER))

    def settings(self, station: str = "s1", port: int = 0, **more: Any) -> LineSettings:
        return LineSettings(
            host="127.0.0.1",
            port=port or self.server.port,
            database=self.name,
            user=f"login_{station}",
            password=Password(file=self._folder / "password"),
            **{"deadline_s": 30.0, **more},
        )

    def sync(self, ledger: SqliteLedger, station: str, port: int = 0, **more: Any) -> LineSync:
        """The station's thread, not started: a test may call `round` itself."""
        deadline = {"deadline_s": more.pop("deadline_s")} if "deadline_s" in more else {}
        server = self.login(station, port, **deadline)
        facts = {"software": "0.1.0", "simulated": False, "block": 4, "every_s": 0.1, **more}
        return LineSync(ledger, server, station=station, **facts)

    def login(self, station: str, port: int = 0, **more: Any) -> LineServer:
        server = LineServer(self.settings(station, port, **more), PASSWORD)
        self._logins.append(server)
        return server

    def close(self) -> None:
        for server in self._logins:
            server.close()

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(self.server.owner(self.name)) as owner:
            return owner.execute(query, values).fetchall()

    def as_station(self, station: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.server.port,
            dbname=self.name,
            user=f"login_{station}",
            password=PASSWORD,
            autocommit=True,
        )


def station_ledger(folder: Path, name: str, **more: Any) -> SqliteLedger:
    begin_ledger(folder / f"{name}.sqlite")
    return SqliteLedger(
        folder / f"{name}.sqlite",
        station=name,
        software="0.1.0",
        config_hash="c0ffee",
        token="pkcs11:token=t",
        simulated=False,
        in_line=True,
        **more,
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        server.start()
        Line(server, TEMPLATE, server.folder)
        yield server
    finally:
        server.stop()


@pytest.fixture
def shared_line(postgres: Postgres, tmp_path: Path) -> Iterator[Line]:
    made = Line(postgres, f"line_{uuid4().hex[:12]}", tmp_path)
    yield made
    made.close()


@pytest.fixture
def network(postgres: Postgres) -> Iterator[Network]:
    wire = Network(postgres.port)
    yield wire
    wire.close()


@pytest.fixture
def make_stations(tmp_path: Path) -> Iterator[Callable[..., list[SqliteLedger]]]:
    """Ledgers of several stations of one line."""
    with ExitStack() as parts:

        def make(*names: str, **more: Any) -> list[SqliteLedger]:
            made = []
            for name in names:
                ledger = station_ledger(tmp_path, name, **more.get(name, {}))
                parts.callback(ledger.dispose)
                made.append(ledger)
            return made

        yield make
