"""The simulated AWS IoT: ``python -m station.sim.cloud FOLDER``.

MiniStack (pinned) in this process, with a strict API and strict MQTT ports of ours in front. It listens on 127.0.0.1
alone, says one JSON line when it is ready, writes below FOLDER alone, and ends with its standard input or at SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

ENDPOINT: Final = "localhost"
_REGION: Final = "us-east-1"
_ACCOUNT: Final = "000000000000"
_NEEDED: Final = (
    "_ca_certificates",
    "_certificates",
    "_mtls_auto_register",
    "_mtls_serve_conn",
    "_mtls_server_names",
)


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m station.sim.cloud", description=__doc__)
    parser.add_argument("folder", type=Path, help="where everything is written")
    folder: Path = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    api = socket.create_server(("127.0.0.1", 0))
    _set_environment(folder, api.getsockname()[1])
    logging.basicConfig(filename=folder / "cloud.log", level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(_serve(folder, api))


def _set_environment(folder: Path, port: int) -> None:
    """MiniStack reads its settings from the environment when it is imported."""
    os.environ.update(
        AUTH="true",
        BIND_HOST="127.0.0.1",
        GATEWAY_PORT=str(port),
        IOT_MTLS_ENABLED="0",
        SFTP_ENABLED="0",
        PERSIST_STATE="0",
        MINISTACK_REGION=_REGION,
        MINISTACK_ACCOUNT_ID=_ACCOUNT,
        LOG_LEVEL="INFO",
        IOT_RETRANSMIT_SECONDS="1",  # what nobody acknowledged comes again; AWS IoT takes 30 s over it
        DOCKER_HOST=f"unix://{folder}/no-docker",  # it would remove containers of others at start and end
        TMPDIR=str(folder),
        HOME=str(folder),
    )


async def _serve(folder: Path, api: socket.socket) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack import app
    from ministack.services import iot

    from station.sim.front import Front
    from station.sim.strict import StrictApi
    from station.sim.troubles import Troubles

    missing = [name for name in _NEEDED if not hasattr(iot, name)]
    if missing:
        raise SystemExit(f"this MiniStack has no {', '.join(missing)}: the simulator is made for another version")
    over = asyncio.Event()
    _stop_with_parent(over)
    troubles = Troubles()
    _make_server_certificate(folder, "server")
    _make_server_certificate(folder, "other")
    front = Front(iot, troubles, ENDPOINT, folder / "server.pem", folder / "other.pem")
    ready = {
        "api_url": f"http://127.0.0.1:{api.getsockname()[1]}",
        "control_url": f"http://127.0.0.1:{api.getsockname()[1]}/_sim",
        "endpoint": ENDPOINT,
        "mqtt_port": await front.listen(alpn=False),
        "alpn_port": await front.listen(alpn=True),
        "server_roots": str(folder / "server-roots.pem"),
        "region": _REGION,
        "account": _ACCOUNT,
    }
    settings = Config()
    settings.bind = [f"fd://{api.fileno()}"]
    settings.loglevel = "WARNING"
    settings.graceful_timeout = 0.2
    started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    strict: Any = StrictApi(_told_when_started(app.app, started), iot, troubles, ENDPOINT)
    serving = asyncio.create_task(serve(strict, settings, shutdown_trigger=over.wait))
    await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        print(json.dumps(ready), flush=True)  # noqa: T201 - what the parent waits for
    await serving


def _told_when_started(inner: Any, started: asyncio.Future[None]) -> Any:
    """MiniStack's application; ``started`` is done once its start-up is."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def telling(message: Any) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete" and not started.done():
                started.set_result(None)

        await inner(scope, receive, telling)

    return app


def _stop_with_parent(over: asyncio.Event) -> None:
    """Stop at SIGTERM, SIGINT, or when standard input ends: whoever started us is gone then."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=watch, daemon=True).start()


def _make_server_certificate(folder: Path, name: str) -> None:
    """``<name>.pem`` (certificate and key) for the endpoint, under a root of its own in ``<name>-roots.pem``."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Simulated {name} root")])
    root = _certificate(root_name, root_name, root_key.public_key(), root_key, ca=True)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ENDPOINT)])
    leaf = _certificate(subject, root_name, key.public_key(), root_key, ca=False)
    (folder / f"{name}-roots.pem").write_bytes(root.public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.pem").write_bytes(leaf.public_bytes(Encoding.PEM) + secret)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = (
        x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(aki, critical=False)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(ENDPOINT)]), critical=False)
    return builder.sign(signer, hashes.SHA256())


if __name__ == "__main__":
    main()
