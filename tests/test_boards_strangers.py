"""The makers' own tools at our simulators' ports, beside our drivers: what one of them wrote, the other one finds."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from family_bed import bed, certified, product_of

from station.boards.csr import mended
from station.credentials import Credentials
from station.interfaces import Board
from station.model import ChainForm, KeyOrigin, Product

STATION = {"key_origin": KeyOrigin.STATION}
MODEM = {"serial": "352656100885188", "chip": "25c95751-efa4-40d4-8b4a-1dcaab81fac9", "model": "nRF9151-LACA"}
STRANGER = str(Path(__file__).with_name("nrfcredstore_stranger.py"))
KINDS = ("ROOT_CA_CERT", "CLIENT_CERT", "CLIENT_KEY")


def says(*command: str | Path, told: str = "") -> str:
    asked = [sys.executable, *command]
    done = subprocess.run(asked, input=told, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(board: Board, made: Product, serial: str) -> Credentials:
    credentials = certified(board.enroll(serial), made, serial)
    board.install(credentials)
    board.close()
    return credentials


def texts(credentials: Credentials) -> tuple[bytes, bytes, bytes]:
    return credentials.server_roots, credentials.chain_pem, credentials.key_text()


@pytest.mark.parametrize("host", ["at", "shell"])
def test_nrfcredstore_finds_what_we_wrote_into_a_modem_and_we_miss_what_it_deleted(tmp_path: Path, host: str) -> None:
    made = product_of("nrf91", {"sec_tag": 42, "host": host}, **STATION)
    with bed(tmp_path, "nrf91", **MODEM) as slot:
        credentials = installed(slot.open(made, mode=host, place="port"), made, MODEM["serial"])
        tool = (STRANGER, tmp_path / "port", "--timeout=1")  # it finds out by itself that there is a shell
        listed = re.findall(r"^42 +(\w+) +([0-9A-F]{64})", says(*tool, "list", "--tag=42"), re.MULTILINE)
        # The AT shell makes CR LF of the line ends.
        held = [text.replace(b"\n", b"\r\n") if host == "shell" else text for text in texts(credentials)]
        assert listed == [
            (kind, hashlib.sha256(text).hexdigest().upper()) for kind, text in zip(KINDS, held, strict=True)
        ]
        says(*tool, "delete", "42", "CLIENT_CERT")
        slot.lift()
        assert slot.open(made, mode=host, place="port").inspect(bytes(32)).chain == ()


def test_nrfcredstore_has_a_modem_generate_a_csr_that_we_mend(tmp_path: Path) -> None:
    with bed(tmp_path, "nrf91", **MODEM) as slot:
        slot.open(product_of("nrf91", {}), place="port").close()
        tool, csr = (STRANGER, tmp_path / "port", "--timeout=1", "--cmd-type=at"), tmp_path / "csr.der"
        says(*tool, "generate", "43", csr, "--attributes=CN=SN-7")
        assert x509.load_der_x509_csr(mended(csr.read_bytes())).subject.rfc4514_string() == "CN=SN-7"


def test_nrfcredstore_finds_what_we_wrote_into_zephyr_s_shell_and_we_find_what_it_wrote(tmp_path: Path) -> None:
    made = product_of("zephyr", {"buffer_bytes": 4_096}, **STATION)
    with bed(tmp_path, "zephyr", serial="none", chip="3336343110473837", model="none") as slot:
        credentials = installed(slot.open(made, "buffer=4096", place="port"), made, "SN-1")
        written = [text.decode() for text in texts(credentials)]
        other = written[0]
        orders: list[tuple[str, list[Any]]] = [("calculate_expected_hash", [text]) for text in written]
        orders += [("check_credential_exists", [42, kind]) for kind in range(3)]
        orders += [("delete_credential", [42, 1]), ("write_credential", [42, 1, other]), ("get_csr", [43, "CN=SN-7"])]
        said = says(STRANGER, tmp_path / "port", "shell", told=json.dumps(orders))
        *answers, deleted, wrote, csr = [json.loads(line) for line in said.splitlines()]
        assert answers[3:] == [[True, digest] for digest in answers[:3]]
        assert (deleted, wrote) == (True, True)
        assert x509.load_der_x509_csr(b64decode(csr)).subject.rfc4514_string() == "CN=SN-7"
        slot.lift()
        (held,) = slot.open(made, "buffer=4096", place="port").inspect(bytes(32)).chain
        assert held.value == hashlib.sha256(other.encode() + b"\0").digest()


def test_mpremote_reads_the_files_that_we_wrote_and_we_read_those_that_it_wrote(tmp_path: Path) -> None:
    made = product_of("micropython", {"identity": "module", "folder": "."}, **STATION, chain_form=ChainForm.LEAF)
    with bed(tmp_path, "micropython", serial="SN-1", chip="CHIP-1", model="demo-board") as slot:
        credentials = installed(slot.open(made, place="port"), made, "SN-1")
        # `resume`: without it, it soft resets the board first, which ends the Unix port.
        tool = ("-m", "mpremote", "connect", tmp_path / "port", "resume")
        names = {"cert.der": credentials.leaf, "root0.der": credentials.chain[1]}
        for name, certificate in names.items():
            says(*tool, "fs", "cp", f":{name}", tmp_path / name)
            assert (tmp_path / name).read_bytes() == certificate.public_bytes(Encoding.DER)
        key = hashlib.sha256(credentials.key_text(der=True)).hexdigest()
        assert key in says(*tool, "fs", "sha256sum", "key.der")
        says(*tool, "fs", "cp", tmp_path / "root0.der", ":cert.der")
        slot.lift()
        (held,) = slot.open(made, place="port").inspect(bytes(32)).chain
        assert held.value == hashlib.sha256((tmp_path / "root0.der").read_bytes()).digest()
