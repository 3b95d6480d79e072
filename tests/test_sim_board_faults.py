"""Each fault that a simulated board can be ordered to have does what its help says."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from board_host import PATIENCE_S, REPLY, Bench, Host, SilenceError, b64, gone
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from station.sim.board_faults import KNOWN
from station.sim.jig import JigError

CHAIN = b"-----BEGIN CERTIFICATE-----\n" + b"ABCD" * 400 + b"\n-----END CERTIFICATE-----\n"
NONCE = bytes(range(32))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


def csr_of(host: Host) -> x509.CertificateSigningRequest:
    assert host.ask("keygen", type="p256").status == "ok"
    assert host.ask("csr", cn="SN-1").status == "ok"
    return x509.load_der_x509_csr(host.read("csr"))


def ends(host: Host) -> bool:
    """Whether the port goes away under the host."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            if not host.listen(deadline - time.monotonic()):
                return True
    except OSError:
        return True
    return False


def test_the_help_tells_every_fault() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "station.sim.board", "--help"], capture_output=True, text=True, timeout=30, check=True
    )
    for name, (_, told) in KNOWN.items():
        assert f"  {name}" in done.stdout
        assert told in done.stdout


def test_every_fault_has_a_test_here() -> None:
    text = Path(__file__).read_text()
    assert [name for name in KNOWN if f'plug("{name}' not in text and f'plug(f"{name}' not in text] == []


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("made-up", "no fault is called 'made-up'"),
        ("garble=often", "wants N"),
        ("garble=0", "wants N"),
        ("slow", "wants MS"),
        ("echo=1", "wants no argument"),
        ("reset-at=lunch", "wants COMMAND"),
        ("refuse=write", "wants COMMAND:CODE"),
        ("swap-at=read:SN-2", "wants COMMAND:SERIAL:CHIP"),
        ("key-file", "wants PATH"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_at_the_start(bench: Bench, fault: str, told: str) -> None:
    with pytest.raises(JigError, match=told):
        bench.plug(fault)
    assert not bench.port.is_symlink()


# --- on the wire


def test_silent_says_nothing_at_all(bench: Bench) -> None:
    host = bench.plug("silent")
    assert host.is_silent()
    assert host.heard == b""


def test_half_reply_is_half_a_frame_and_then_silence(bench: Bench) -> None:
    host = bench.plug("half-reply")
    assert host.is_silent()
    assert b"<S1 1 ok proto=1" in host.heard
    assert host.is_silent()
    assert not REPLY.search(host.heard)


def test_garble_damages_every_second_reply(bench: Bench) -> None:
    host = bench.plug("garble=2")
    for _ in range(2):
        host.ask("hello")
        host.say("hello")
        with pytest.raises(SilenceError):
            host.reply(0.3)


def test_garbage_comes_before_each_reply(bench: Bench) -> None:
    host = bench.plug("garbage")
    assert [host.ask("hello").status for _ in range(2)] == ["ok", "ok"]
    assert host.heard.count(b"\x00\xff\xfe") == 2


def test_renumber_gives_a_restarted_board_another_port_under_the_same_link(bench: Bench) -> None:
    host = bench.plug("renumber")
    before = bench.port.readlink()
    host.say("reset")  # its ok may go with the port
    assert ends(host)
    assert gone(lambda: not bench.port.exists())
    assert bench.port.readlink() != before


def test_flood_answers_hello_with_ten_megabytes_without_a_line_end(bench: Bench) -> None:
    host = bench.plug("flood")
    host.say("hello")
    flood = 10 * 1024 * 1024
    begins = -1
    while begins < 0 or len(host.heard) < begins + flood:
        assert host.listen(PATIENCE_S)
        begins = host.heard.find(b"\xff")  # behind what the board had to say before
    assert b"\n" not in host.heard[begins : begins + flood]
    assert host.ask("keygen", type="p256").status == "ok"


def test_a_board_can_be_lifted_in_the_middle_of_a_flood(bench: Bench) -> None:
    host = bench.plug("flood")
    host.say("hello")
    assert host.listen(PATIENCE_S)
    bench.board.lift()
    assert bench.board.exit_code == 0
    assert not bench.port.is_symlink()


def test_a_flood_that_nobody_reads_is_lost_and_the_next_request_is_heard(bench: Bench) -> None:
    host = bench.plug("flood", "vanish-at=csr")
    host.say("hello")
    host.say("csr", cn="SN-1")
    assert gone(bench.port.is_symlink)
    bench.board.lift()
    assert bench.board.exit_code == 0


def test_echo_repeats_what_it_receives_before_the_reply(bench: Bench) -> None:
    host = bench.plug("echo")
    host.ask("hello")
    assert b">S1 1 hello #7a0ea031\r\n" in host.heard


def test_noise_cuts_every_third_reply_by_a_log_line(bench: Bench) -> None:
    host = bench.plug("noise")
    for _ in range(3):
        host.ask("hello")
        host.ask("hello")
        host.say("hello")
        with pytest.raises(SilenceError):
            host.reply(0.3)


def test_slow_delays_each_reply(bench: Bench) -> None:
    host = bench.plug("slow=150")
    began = time.monotonic()
    host.ask("hello")
    assert time.monotonic() - began >= 0.15


def test_reset_at_restarts_once_instead_of_answering(bench: Bench) -> None:
    host = bench.plug("reset-at=csr")
    boot = int(host.ask("hello").fields["boot"])
    host.ask("keygen", type="p256")
    host.say("csr", cn="SN-1")
    assert b"<S1 " not in host.restarted()
    assert int(host.ask("hello").fields["boot"]) == boot + 1
    assert host.ask("csr", cn="SN-1").code == "none"


def test_vanish_at_takes_the_port_away_without_an_answer(bench: Bench) -> None:
    host = bench.plug("vanish-at=write")
    host.ask("hello")
    host.say("write", item="chain", offset=0, total=3, data="AAAA")
    assert ends(host)
    bench.board.lift()
    assert not bench.port.is_symlink()


def test_swap_at_answers_and_is_another_board_from_then_on(bench: Bench) -> None:
    host = bench.plug("swap-at=read:SN-2:C2")
    boot = host.ask("hello").fields
    host.install("roots", CHAIN)
    assert host.ask("read", item="roots", offset=0).status == "ok"
    swapped = host.ask("hello").fields
    assert (boot["serial"], swapped["serial"], swapped["chip"]) == ("SN-1", "SN-2", "C2")
    assert host.ask("read", item="roots", offset=0).code == "none"
    host.install("roots", CHAIN)
    assert host.read("roots") == CHAIN


# --- who it says it is


@pytest.mark.parametrize("serial", ["../../etc/passwd", "A\nB", "<script>alert(1)</script>", "x y", "-" * 300])
def test_bad_serial_is_sent_as_it_is(bench: Bench, serial: str) -> None:
    host = bench.plug(f"bad-serial={serial}")
    host.say("hello")
    while f"serial={serial} chip=".encode() not in host.heard:
        assert host.listen(PATIENCE_S)


# --- its key


def test_bad_csr_signature_gives_a_csr_that_parses_and_does_not_verify(bench: Bench) -> None:
    assert not csr_of(bench.plug("bad-csr-signature")).is_signature_valid


def test_key_file_gives_two_units_the_same_key(bench: Bench, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "clone.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for chip in ("C1", "C2"):
        csr = csr_of(bench.plug(f"key-file={file}", chip=chip))
        assert csr.is_signature_valid
        assert csr.public_key() == key.public_key()


def test_weak_rsa_makes_1024_bits(bench: Bench) -> None:
    key = csr_of(bench.plug("weak-rsa")).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 1_024


def test_csr_subject_asks_for_another_name(bench: Bench) -> None:
    csr = csr_of(bench.plug("csr-subject=SOMEBODY ELSE"))
    assert csr.is_signature_valid
    assert csr.subject.rfc4514_string() == "CN=SOMEBODY ELSE"


def test_wrong_key_signs_well_but_with_another_key(bench: Bench) -> None:
    host = bench.plug("wrong-key")
    key = csr_of(host).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signature = host.ask("sign", nonce=b64(NONCE)).blob("sig")
    with pytest.raises(InvalidSignature):
        key.verify(signature, b"station possession v1\n" + NONCE, ec.ECDSA(SHA256()))


# --- what it keeps


def test_forget_loses_what_was_committed_at_a_reset(bench: Bench) -> None:
    host = bench.plug("forget")
    host.install("chain", CHAIN)
    assert host.read("chain") == CHAIN
    host.ask("reset")
    host.restarted()
    assert host.ask("read", item="chain", offset=0).code == "none"
    assert host.ask("hello").fields["boot"] == "2"


def test_flip_changes_one_byte_of_the_chain_as_read_back(bench: Bench) -> None:
    host = bench.plug("flip=100")
    host.install("chain", CHAIN)
    host.install("roots", CHAIN)
    back = host.read("chain")
    assert [at for at in range(len(CHAIN)) if back[at] != CHAIN[at]] == [100]
    assert host.read("roots") == CHAIN


def test_no_boot_change_says_ok_and_does_not_restart(bench: Bench) -> None:
    host = bench.plug("no-boot-change")
    csr_of(host)
    assert host.ask("reset").status == "ok"
    assert host.ask("hello").fields["boot"] == "1"
    assert host.ask("read", item="csr", offset=0).status == "ok"


def test_never_back_answers_reset_and_then_nothing(bench: Bench) -> None:
    host = bench.plug("never-back")
    assert host.ask("hello").status == "ok"
    assert host.ask("reset").status == "ok"
    assert host.is_silent()


def test_commit_hash_refuses_each_commit(bench: Bench) -> None:
    host = bench.plug("commit-hash")
    host.write("chain", CHAIN)
    assert host.commit("chain", CHAIN).code == "hash"
    assert host.ask("read", item="chain", offset=0).code == "none"


def test_full_refuses_each_write(bench: Bench) -> None:
    assert bench.plug("full").write("chain", CHAIN).code == "full"


# --- its network


def call(host: Host) -> dict[str, str]:
    return host.ask(
        "dial", host="iot.test", port=8883, client="SN-1", topic="foo", payload="AA==", timeout=100, hold=0
    ).fields


def test_no_net_ends_each_dial_unreachable(bench: Bench) -> None:
    assert call(bench.plug("no-net"))["ending"] == "unreachable"


def test_dial_ending_is_reported_without_a_dial(bench: Bench) -> None:
    # Nothing is installed, so a real dial could only be an error.
    assert call(bench.plug("dial-ending=acknowledged"))["ending"] == "acknowledged"


def test_refuse_answers_the_command_with_the_code(bench: Bench) -> None:
    host = bench.plug("refuse=dial:unsupported")
    assert call(host)["code"] == "unsupported"
    assert host.ask("hello").status == "ok"
