"""The line's server is reached over TLS, by its name and under the roots that the settings name, or not at all."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from ledgers import production
from postgres import OWNER, OWNER_PASSWORD, PASSWORD, Line, Postgres

from station.faults import Fault, FaultError
from station.ledger import SqliteLedger
from station.ledger.line import LineServer, LineSync

HOST = "db.factory.example"


def server_certificate(folder: Path, host: str, root_name: str = "Factory root") -> None:
    """A root in ``roots.pem``, and under it ``server.pem`` with ``server.key`` for a host name."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root, subject = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (root_name, host))
    now = datetime.now(UTC)

    def signed(name: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder(root, name, public, x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(root_key, hashes.SHA256())
        )

    folder.mkdir(exist_ok=True)
    (folder / "roots.pem").write_bytes(signed(root, root_key.public_key(), ca=True).public_bytes(Encoding.PEM))
    (folder / "server.pem").write_bytes(signed(subject, key.public_key(), ca=False).public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.key").write_bytes(secret)
    (folder / "server.key").chmod(0o600)


def reconfigure(postgres: Postgres, settings: dict[str, str], there: Callable[[], bool]) -> None:
    """The server reads its settings anew at a signal, some time after it was asked to."""
    with closing(postgres.owner("postgres")) as owner:
        for name, value in settings.items():
            owner.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        owner.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def speaks_tls(postgres: Postgres) -> bool:
    where = f"host=127.0.0.1 port={postgres.port} dbname=postgres user={OWNER} sslmode=require"
    try:
        psycopg.connect(where, password=OWNER_PASSWORD).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="module")
def roots(postgres: Postgres) -> Iterator[Path]:
    """The server speaks TLS while this file's tests run; the roots that its certificate is under."""
    folder = postgres.folder / "tls"
    server_certificate(folder, HOST)
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        for path in (folder, *folder.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
    files = {"ssl_cert_file": str(folder / "server.pem"), "ssl_key_file": str(folder / "server.key")}
    reconfigure(postgres, {**files, "ssl": "on"}, lambda: speaks_tls(postgres))
    yield folder / "roots.pem"
    reconfigure(postgres, {"ssl": "off"}, lambda: not speaks_tls(postgres))


@pytest.fixture(autouse=True)
def _resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a name server knew the host: libpq takes the address from here and the name from the settings."""
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")


def server(line: Line, roots: Path, host: str = HOST) -> LineServer:
    here = line.settings("s1")
    return LineServer(type(here).model_validate({**here.model_dump(), "host": host, "server_roots": roots}), PASSWORD)


def refusal(line: Line, roots: Path, host: str = HOST) -> str:
    with closing(server(line, roots, host)) as other, pytest.raises(FaultError) as error, other.transaction():
        pass
    assert error.value.fault is Fault.LINE_SETUP
    assert PASSWORD not in error.value.detail
    return error.value.detail


def test_a_station_syncs_over_tls_with_a_server_of_the_right_root_and_name(
    shared_line: Line, make_stations: Callable[..., list[SqliteLedger]], roots: Path
) -> None:
    (one,) = make_stations("s1")
    one.add_order(production(), "linh")
    with closing(server(shared_line, roots)) as there:
        LineSync(one, there, station="s1", software="1", simulated=False, block=4, every_s=1).round()
        with there.transaction() as connection:
            query = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            encrypted, version = connection.exec_driver_sql(query).one()
    assert (encrypted, version >= "TLSv1.2") == (True, True)
    assert shared_line.rows("SELECT number FROM orders") == [("WO-1",)]


@pytest.mark.parametrize("name", ["Factory root", "Another root"])
def test_a_server_under_another_root_is_refused(shared_line: Line, roots: Path, tmp_path: Path, name: str) -> None:
    server_certificate(tmp_path / "other", HOST, name)
    other = tmp_path / "other" / "roots.pem"
    said = refusal(shared_line, other)
    assert said.startswith(f"{HOST}:{shared_line.server.port}: no TLS with it: ")
    assert said.endswith(f"; is its certificate in date, and under line.server_roots, {other}?")


def test_a_server_of_another_name_is_refused(shared_line: Line, roots: Path) -> None:
    said = refusal(shared_line, roots, "other.factory.example")
    assert f'certificate for "{HOST}" does not match host name "other.factory.example"' in said
    assert said.endswith("; see line.host")


def test_a_server_without_tls_is_refused(shared_line: Line, roots: Path) -> None:
    reconfigure(shared_line.server, {"ssl": "off"}, lambda: not speaks_tls(shared_line.server))
    try:
        assert refusal(shared_line, roots).endswith("the server does not speak TLS; its owner sets ssl = on there")
    finally:
        reconfigure(shared_line.server, {"ssl": "on"}, lambda: speaks_tls(shared_line.server))


def test_roots_that_are_not_there_are_named(shared_line: Line, roots: Path, tmp_path: Path) -> None:
    assert f'"{tmp_path}/gone.pem" does not exist' in refusal(shared_line, tmp_path / "gone.pem")
