"""The simulated board against docs/new-board.md, by a host written by hand (``board_host``)."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_host import REPLY, Bench, Host, b64, framed, gone
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

CHAIN = b"-----BEGIN CERTIFICATE-----\n" + b"ABCD" * 400 + b"\n-----END CERTIFICATE-----\n"
NONCE = bytes(range(32))
POSSESSION = b"station possession v1\n" + NONCE


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


@pytest.fixture
def host(bench: Bench) -> Host:
    """The port of a good board."""
    return bench.plug()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- frames


def test_the_pages_own_example_is_obeyed(host: Host) -> None:
    host.send(b"\n>S1 1 hello #7a0ea031\n")
    answer = host.reply()
    assert (answer.seq, answer.status) == (1, "ok")
    assert answer.fields == {
        "proto": "1",
        "model": "demo-board",
        "serial": "SN-1",
        "chip": "C1",
        "fw": "1.0.0",
        "line": "1024",
        "boot": "1",
    }


@pytest.mark.parametrize(
    "line",
    [
        b">S1 1 hello #7a0ea032\n",
        b">S1 1 hello\n",
        b">S1 1 hello #7A0EA031\n",
        b">S1 1 hello #7a0ea031\r\n",
        b"x>S1 1 hello #7a0ea031\n",
        framed(">S1 0 hello"),
        framed(">S1 01 hello"),
        framed(">S1 10000 hello"),
        framed(">S1 1 HELLO"),
        framed(">S1 1  hello"),
        framed(">S1 1 keygen type="),
        framed(">S1 1 keygen type"),
        framed(">S1 1 keygen type=p256 type=p256"),
        framed(">S1 1 keygen type=p%56"),
        framed(">S1 1 hello a=" + "x" * 1_100),
        framed(">S1 1 hello a=" + "x" * 100_000),
    ],
)
def test_a_damaged_request_is_answered_with_seq_0_and_the_next_one_is_obeyed(host: Host, line: bytes) -> None:
    host.send(b"\n" + line)
    answer = host.reply()
    assert (answer.seq, answer.code) == (0, "crc")
    assert host.ask("hello").status == "ok"


def test_a_frame_as_long_as_the_line_is_obeyed_and_one_byte_more_is_not(host: Host) -> None:
    bare = len(framed(">S1 1 hello a="))
    host.send(framed(">S1 1 hello a=" + "x" * (1_024 - bare)))
    assert host.reply().status == "ok"
    host.send(framed(">S1 1 hello a=" + "x" * (1_025 - bare)))
    assert host.reply().code == "crc"


def test_empty_lines_shell_input_and_unknown_keys_are_ignored(host: Host) -> None:
    host.send(b"\n\n\nhelp\n\x00\xff\n")
    assert host.ask("hello", later="1").seq == 1


def test_an_unfinished_line_is_ended_by_the_hosts_line_start(host: Host) -> None:
    host.send(b"reb")
    assert host.ask("hello").status == "ok"


def test_it_chatters_between_replies_but_no_log_line_begins_with_the_marker(host: Host) -> None:
    for _ in range(12):
        host.ask("hello")
    assert b"\x1b[0;32mI (" in host.heard
    lines = host.heard.split(b"\r\n")
    assert len(lines) > 12
    assert all(REPLY.fullmatch(line + b"\r\n") for line in lines if line.startswith(b"<S1 "))


# --- commands


@pytest.mark.parametrize(
    ("command", "values", "code"),
    [
        ("selfdestruct", {}, "unknown"),
        ("keygen", {}, "args"),
        ("keygen", {"type": "rsa1024"}, "unsupported"),
        ("csr", {}, "args"),
        ("csr", {"cn": "../x"}, "args"),
        ("csr", {"cn": "x" * 65}, "args"),
        ("csr", {"cn": "SN-1"}, "none"),
        ("write", {"item": "csr", "offset": 0, "total": 4, "data": "AAAA"}, "args"),
        ("write", {"item": "chain", "offset": 0, "total": 4}, "args"),
        ("write", {"item": "chain", "offset": "00", "total": 4, "data": "AAAA"}, "args"),
        ("write", {"item": "chain", "offset": -1, "total": 4, "data": "AAAA"}, "args"),
        ("write", {"item": "chain", "offset": 0, "total": 0, "data": "AAAA"}, "args"),
        ("write", {"item": "chain", "offset": 0, "total": 3, "data": "AAA"}, "args"),
        ("write", {"item": "chain", "offset": 0, "total": 2, "data": "AAAA"}, "args"),
        ("write", {"item": "chain", "offset": 0, "total": 16_385, "data": "AAAA"}, "full"),
        ("write", {"item": "chain", "offset": 3, "total": 6, "data": "AAAA"}, "range"),
        ("commit", {"item": "chain", "total": 3}, "args"),
        ("commit", {"item": "chain", "total": 3, "sha256": "0" * 63}, "args"),
        ("commit", {"item": "chain", "total": 3, "sha256": "0" * 64}, "hash"),
        ("read", {"item": "chain"}, "args"),
        ("read", {"item": "chain", "offset": 0}, "none"),
        ("read", {"item": "csr", "offset": 0}, "none"),
        ("read", {"item": "key", "offset": 0}, "denied"),
        ("read", {"item": "boot", "offset": 0}, "args"),
        ("sign", {"nonce": b64(NONCE)}, "none"),
        ("sign", {"nonce": b64(NONCE[:31])}, "args"),
        ("sign", {"nonce": "="}, "args"),
    ],
)
def test_what_cannot_be_done_is_answered_with_its_code(
    host: Host, command: str, values: dict[str, str | int], code: str
) -> None:
    answer = host.ask(command, **values)
    assert (answer.status, answer.code) == ("err", code)


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "rsa3072"])
def test_a_key_made_on_the_board_gives_a_csr_and_proves_itself(host: Host, kind: str) -> None:
    made = host.ask("keygen", type=kind)
    assert made.status == "ok"
    assert made.waits >= 1
    told = host.ask("csr", cn="SN-1")
    der = host.read("csr")
    assert told.fields == {"size": str(len(der)), "sha256": hashlib.sha256(der).hexdigest()}
    csr = x509.load_der_x509_csr(der)
    assert csr.is_signature_valid
    assert csr.subject.rfc4514_string() == "CN=SN-1"
    assert isinstance(csr.signature_hash_algorithm, SHA384 if kind == "p384" else SHA256)
    assert b"\x0c\x04SN-1" in der  # UTF8String
    verify(csr.public_key(), host.ask("sign", nonce=b64(NONCE)).blob("sig"))


def verify(key: object, signature: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, POSSESSION, ec.ECDSA(SHA256()))
    else:
        assert isinstance(key, rsa.RSAPublicKey)
        key.verify(signature, POSSESSION, padding.PKCS1v15(), SHA256())


def test_a_repeated_keygen_replaces_the_key_and_drops_its_csr(host: Host) -> None:
    keys = []
    for _ in range(2):
        assert host.ask("keygen", type="p256").status == "ok"
        assert host.ask("read", item="csr", offset=0).code == "none"
        assert host.ask("csr", cn="SN-1").status == "ok"
        keys.append(public_bytes(x509.load_der_x509_csr(host.read("csr")).public_key()))
    assert keys[0] != keys[1]


def public_bytes(key: Any) -> bytes:
    raw: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw


def key_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def test_pieces_are_repeated_resumed_and_begun_again(host: Host) -> None:

    def write(offset: int, data: bytes, item: str = "chain", total: int = 9) -> tuple[str, str]:
        answer = host.ask("write", item=item, offset=offset, total=total, data=b64(data))
        return answer.code or "ok", answer.fields.get("next", "")

    assert write(0, b"xxxx") == ("ok", "4")
    assert write(0, b"abc") == ("ok", "3")
    assert write(3, b"de") == ("ok", "5")
    assert write(3, b"def") == ("ok", "6")
    assert write(0 + 1, b"x") == ("range", "6")
    assert write(7, b"x") == ("range", "6")
    assert write(6, b"ghi", item="roots") == ("range", "0")
    assert write(6, b"ghi", total=10) == ("range", "0")
    assert write(6, b"ghi!") == ("args", "")
    assert write(6, b"ghi") == ("ok", "9")
    assert host.commit("roots", b"abcdefghi").code == "hash"
    assert host.commit("chain", b"abcdefghI").code == "hash"
    assert host.commit("chain", b"abcdefghi").status == "ok"
    assert host.commit("chain", b"abcdefghi").status == "ok"
    assert host.read("chain") == b"abcdefghi"
    assert host.ask("read", item="chain", offset=10).code == "range"


def test_a_full_staging_buffer_takes_16384_bytes_and_reads_back(host: Host) -> None:
    roots = os.urandom(16_384)
    host.install("roots", roots)
    assert host.read("roots") == roots
    assert max(len(line) for line in host.heard.split(b"\n")) < 1_024


def test_a_station_made_key_signs_and_cannot_be_read(host: Host) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    host.install("key", key_pem(key))
    verify(key.public_key(), host.ask("sign", nonce=b64(NONCE)).blob("sig"))
    assert host.ask("read", item="key", offset=0).code == "denied"


def test_the_key_that_came_last_is_the_units_key_and_its_file_is_private(bench: Bench, host: Host) -> None:
    host.ask("keygen", type="p256")
    key = ec.generate_private_key(ec.SECP256R1())
    host.install("key", key_pem(key))
    host.install("chain", CHAIN)
    verify(key.public_key(), host.ask("sign", nonce=b64(NONCE)).blob("sig"))
    assert bench.board.stored("key").read_bytes() == key_pem(key)
    assert bench.board.stored("key").stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_none_is_failed_at_its_first_use(host: Host) -> None:
    host.install("key", CHAIN)
    assert host.ask("sign", nonce=b64(NONCE)).code == "failed"


# --- restarts


def test_what_was_committed_survives_a_reset_and_what_was_not_is_lost(host: Host) -> None:
    host.ask("keygen", type="p256")
    host.ask("csr", cn="SN-1")
    key = x509.load_der_x509_csr(host.read("csr")).public_key()
    host.install("chain", CHAIN)
    host.write("roots", CHAIN)
    first = host.ask("hello").fields["boot"]
    assert host.ask("reset").status == "ok"
    assert b"Booting Zephyr" in host.restarted()
    assert host.ask("hello").fields["boot"] != first
    assert host.read("chain") == CHAIN
    verify(key, host.ask("sign", nonce=b64(NONCE)).blob("sig"))
    assert host.commit("roots", CHAIN).code == "hash"
    assert host.commit("chain", CHAIN).status == "ok"
    assert host.ask("read", item="csr", offset=0).code == "none"
    assert host.ask("csr", cn="SN-1").code == "none"


def test_a_key_without_a_committed_chain_is_lost_at_a_reset(host: Host) -> None:
    host.ask("keygen", type="p256")
    host.ask("reset")
    host.restarted()
    assert host.ask("sign", nonce=b64(NONCE)).code == "none"


def test_what_was_committed_survives_a_new_process_even_after_a_kill(bench: Bench) -> None:
    host = bench.plug()
    host.install("chain", CHAIN)
    boot = host.ask("hello").fields["boot"]
    bench.board.kill()
    assert not bench.port.is_symlink()
    assert bench.board.stored("chain").read_bytes() == CHAIN
    host = bench.plug()
    assert host.ask("hello").fields["boot"] != boot
    assert host.read("chain") == CHAIN


def test_another_chip_has_another_flash(bench: Bench, host: Host) -> None:
    host.install("chain", CHAIN)
    assert bench.plug(chip="C2").ask("read", item="chain", offset=0).code == "none"


# --- the process


def test_a_lifted_board_leaves_no_process_and_no_link(bench: Bench, host: Host) -> None:
    assert bench.port.resolve().is_char_device()
    bench.board.lift()
    assert not bench.port.is_symlink()
    assert not alive(bench.board.pid)
    assert bench.board.exit_code == 0
    bench.board.lift()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_board_in_the_middle_of_its_work_and_its_link_goes(
    bench: Bench, host: Host, number: signal.Signals
) -> None:
    host.say("keygen", type="rsa4096")
    assert host.reply().status == "wait"
    os.kill(bench.board.pid, number)
    assert gone(lambda: alive(bench.board.pid))
    assert not bench.port.is_symlink()


def test_boards_end_when_the_process_that_plugged_them_in_is_killed(tmp_path: Path) -> None:
    port = tmp_path / "slot1"
    code = (
        "import sys; from pathlib import Path; from station.sim.jig import SimJig\n"
        "jig = SimJig(Path(sys.argv[1]) / 'boards')\n"
        "board = jig.plug(Path(sys.argv[2]), serial='SN-1', chip='C1', model='m')\n"
        "print(board.pid, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    assert gone(lambda: alive(pid))
    assert not port.is_symlink()


def test_a_board_that_ends_late_leaves_its_successors_link(bench: Bench, host: Host) -> None:
    first = bench.board
    bench.plug(serial="SN-2", chip="C2")
    first.lift()
    late = Host(bench.port)
    assert late.ask("hello").fields["serial"] == "SN-2"
    late.close()


@pytest.mark.parametrize("way", ["in", "out"])
def test_the_throttle_lets_so_many_bytes_a_second_through_each_way(tmp_path: Path, way: str) -> None:
    data = bytes(600)

    def took(rate: int) -> float:
        folder = tmp_path / str(rate)
        folder.mkdir()
        with Bench(folder) as bench:
            host = bench.plug(baud_bytes=rate)
            host.install("chain", data)
            spans = []
            for _ in range(3):
                began = time.monotonic()
                if way == "in":
                    host.ask("write", item="chain", offset=0, total=600, data=b64(data))
                else:
                    host.ask("read", item="chain", offset=0)
                spans.append(time.monotonic() - began)
        return min(spans)

    # 800 bytes of base64 alone go that way: 267 ms at the slow rate, 33 ms at the fast one.
    slow, fast = took(3_000), took(24_000)
    assert slow >= 800 / 3_000
    assert slow > 2.5 * fast
