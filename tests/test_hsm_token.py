"""Keys in real tokens of two vendors, and everything that a token can do to us, in children that may be killed."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from tokens import PIN, SOFTHSM, HsmOnAWire, Token

from station.faults import Fault, FaultError
from station.hsm.keys import token_key
from station.hsm.signers import KeyMaker, Signers, find_public_key, generate_key
from station.hsm.uri import KeyUri
from station.model import KeyType, PublicKey

MESSAGE = b"what the station signs"
SPY = "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so"


def made(token: Token, key_type: KeyType = KeyType.P256) -> tuple[KeyUri, PublicKey]:
    key = token.key("device-ca", b"\x01\x02")
    return key, generate_key(key, token.pin, token.latch, key_type)


def signs(signers: Signers, public: PublicKey) -> None:
    """One signature that verifies with the public key: no other message's, no late answer."""
    key, message = token_key(public, signers), os.urandom(20)
    if isinstance(public, ec.EllipticCurvePublicKey):
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        public.verify(key.sign(message, ec.ECDSA(hashes.SHA256())), message, ec.ECDSA(hashes.SHA256()))
    else:
        assert isinstance(key, rsa.RSAPrivateKey)
        for algorithm in (hashes.SHA256(), hashes.SHA384()):
            public.verify(key.sign(message, padding.PKCS1v15(), algorithm), message, padding.PKCS1v15(), algorithm)


def child_of(signers: Signers) -> int:
    child = signers._idle.queue[-1]
    assert child is not None
    return child._process.pid


def refused(open_it: Callable[[], object]) -> FaultError:
    with pytest.raises(FaultError) as error:
        open_it()
    assert PIN not in f"{error.value!r} {error.value.__cause__!r}"
    return error.value


# The sizes of RSA once: they take their time, and differ in nothing but a number.
@pytest.mark.parametrize(
    ("any_token", "key_type"),
    [*(("softhsm", one) for one in KeyType), *(("nss", one) for one in (KeyType.P256, KeyType.P384, KeyType.RSA2048))],
    indirect=["any_token"],
)
def test_a_key_is_made_in_the_token_found_again_and_signs(any_token: Token, key_type: KeyType) -> None:
    key = any_token.key("device-ca", b"\x01\x02")
    assert find_public_key(key, any_token.pin, any_token.latch) is None
    public = generate_key(key, any_token.pin, any_token.latch, key_type)
    assert KeyType.of(public) is key_type
    assert find_public_key(key, any_token.pin, any_token.latch) == public
    with Signers(key, any_token.pin, any_token.latch) as signers:
        signs(signers, public)
        attributes = signers.describe()["attributes"]
    assert {name: attributes[name] for name in ("SENSITIVE", "EXTRACTABLE", "SIGN", "DECRYPT", "UNWRAP", "DERIVE")} == {
        "SENSITIVE": True,
        "EXTRACTABLE": False,
        "SIGN": True,
        "DECRYPT": False,
        "UNWRAP": False,
        "DERIVE": False,
    }


def test_pkcs11_tool_a_stranger_sees_a_key_that_cannot_leave(softhsm: Token) -> None:
    made(softhsm)
    command = ["pkcs11-tool", "--module", SOFTHSM, "--token-label", "demo", "--login", "--pin", PIN, "-O", "--type"]
    shown = subprocess.run([*command, "privkey"], check=True, capture_output=True, text=True).stdout
    access = next(line for line in shown.splitlines() if "Access:" in line)
    for word in ("sensitive", "always sensitive", "never extractable", "local"):
        assert word in access
    usage = next(line for line in shown.splitlines() if "Usage:" in line)
    assert usage.split(":")[1].strip() == "sign"


def test_a_second_key_of_the_same_name_is_never_made(softhsm: Token) -> None:
    key, public = made(softhsm)
    error = refused(lambda: generate_key(key, softhsm.pin, softhsm.latch, KeyType.P256))
    assert error.fault is Fault.HSM_KEY
    assert find_public_key(key, softhsm.pin, softhsm.latch) == public


def test_two_keys_that_fit_are_one_too_many(softhsm: Token) -> None:
    for key_id in (b"\x01", b"\x02"):
        generate_key(softhsm.key("twin", key_id), softhsm.pin, softhsm.latch, KeyType.P256)
    with Signers(softhsm.key("twin"), softhsm.pin, softhsm.latch) as signers:
        assert refused(signers.describe).fault is Fault.HSM_KEY
    assert refused(lambda: find_public_key(softhsm.key("twin"), softhsm.pin, softhsm.latch)).fault is Fault.HSM_KEY


def test_a_key_that_is_not_there_is_a_fault_of_its_own(softhsm: Token) -> None:
    with Signers(softhsm.key("nobody"), softhsm.pin, softhsm.latch) as signers:
        assert refused(signers.describe).fault is Fault.HSM_KEY


def test_a_key_that_could_leave_the_token_is_refused(softhsm: Token) -> None:
    subprocess.run(
        [
            *("pkcs11-tool", "--module", SOFTHSM, "--token-label", "demo", "--login", "--pin", PIN, "--keypairgen"),
            *("--key-type", "EC:secp256r1", "--label", "loose", "--extractable"),
        ],
        check=True,
        capture_output=True,
    )
    with Signers(softhsm.key("loose"), softhsm.pin, softhsm.latch) as signers:
        error = refused(signers.describe)
    assert error.fault is Fault.HSM_KEY_ATTRIBUTES
    assert "EXTRACTABLE is True" in error.detail


@pytest.mark.parametrize("module", ["/nowhere/lib.so", __file__, "/usr/lib/x86_64-linux-gnu/libc.so.6"])
def test_what_is_no_pkcs11_module_is_told(softhsm: Token, module: str) -> None:
    key = replace(softhsm.key(), module_path=module)
    error = refused(Signers(key, softhsm.pin, softhsm.latch).__enter__)
    assert error.fault is Fault.HSM_MODULE
    assert module in error.detail


def test_a_token_that_is_not_there_is_told(softhsm: Token) -> None:
    for key in (replace(softhsm.key(), token="other"), replace(softhsm.key(), serial="000")):
        assert refused(Signers(key, softhsm.pin, softhsm.latch).__enter__).fault is Fault.HSM_TOKEN


def logins(log: Path) -> int:
    return log.read_text(errors="replace").count(": C_Login\n")


def test_a_wrong_pin_costs_one_try_over_all_restarts_until_a_person_clears_the_latch(
    softhsm: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(softhsm)
    log = tmp_path / "spy.log"
    monkeypatch.setenv("PKCS11SPY", SOFTHSM)
    monkeypatch.setenv("PKCS11SPY_OUTPUT", str(log))
    key = replace(softhsm.key("device-ca", b"\x01\x02"), module_path=SPY)
    softhsm.write_pin("00000000")
    for _ in range(3):
        assert refused(Signers(key, softhsm.pin, softhsm.latch).__enter__).fault is Fault.HSM_PIN
        assert refused(lambda: find_public_key(key, softhsm.pin, softhsm.latch)).fault is Fault.HSM_PIN
    assert logins(log) == 1
    softhsm.write_pin(PIN)
    assert refused(Signers(key, softhsm.pin, softhsm.latch).__enter__).fault is Fault.HSM_PIN
    assert logins(log) == 1
    next(softhsm.latch.iterdir()).unlink()
    with Signers(key, softhsm.pin, softhsm.latch) as signers:
        signers.describe()
    assert logins(log) == 2


def test_nobody_logs_in_where_a_wrong_pin_could_not_be_latched(
    softhsm: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(softhsm)
    log = tmp_path / "spy.log"
    monkeypatch.setenv("PKCS11SPY", SOFTHSM)
    monkeypatch.setenv("PKCS11SPY_OUTPUT", str(log))
    key = replace(softhsm.key("device-ca", b"\x01\x02"), module_path=SPY)
    softhsm.write_pin("00000000")
    for place in (Path("/dev/full/latch"), Path("/proc/latch")):
        error = refused(Signers(key, softhsm.pin, place).__enter__)
        assert error.fault is Fault.CONFIG
        assert str(place) in error.detail
    assert logins(log) == 0


def test_a_wrong_pin_is_one_try_on_the_second_vendor_s_token_too(any_token: Token) -> None:
    any_token.write_pin("00000000")
    assert refused(Signers(any_token.key(), any_token.pin, any_token.latch).__enter__).fault is Fault.HSM_PIN
    any_token.write_pin(PIN)
    assert refused(Signers(any_token.key(), any_token.pin, any_token.latch).__enter__).fault is Fault.HSM_PIN


def test_a_child_that_is_killed_costs_nobody_a_signature(any_token: Token) -> None:
    key, public = made(any_token)
    with Signers(key, any_token.pin, any_token.latch) as signers:
        signs(signers, public)
        os.kill(child_of(signers), signal.SIGKILL)
        signs(signers, public)


def test_a_child_that_hangs_is_replaced_within_the_deadline_and_its_late_answer_goes_nowhere(softhsm: Token) -> None:
    key, public = made(softhsm)
    with Signers(key, softhsm.pin, softhsm.latch, timeout_s=8) as signers:
        signs(signers, public)
        hung = child_of(signers)
        os.kill(hung, signal.SIGSTOP)
        began = time.monotonic()
        signs(signers, public)
        assert time.monotonic() - began < 8
        for _ in range(5):
            signs(signers, public)
        assert child_of(signers) != hung
        assert not Path(f"/proc/{hung}").exists()


@pytest.mark.parametrize("lost", ["privkey", "pubkey"])
def test_a_half_that_a_cut_left_is_made_whole_anew(softhsm: Token, lost: str) -> None:
    key = softhsm.key(key_id=b"\x07")
    generate_key(key, softhsm.pin, softhsm.latch, KeyType.P256)
    login = ["--module", SOFTHSM, "--token-label", softhsm.label, "--login", "--pin", PIN]
    half = ["pkcs11-tool", *login, "--delete-object", "--type", lost, "--id", "07"]
    subprocess.run(half, check=True, capture_output=True)
    with KeyMaker(key, softhsm.pin, softhsm.latch) as maker:
        assert refused(lambda: maker.generate(KeyType.P256)).fault is Fault.HSM_KEY
        made = maker.generate(KeyType.P256, again=True)
    assert find_public_key(key, softhsm.pin, softhsm.latch) == made, "one of each, or this raises"


def test_a_key_whose_making_was_cut_is_looked_at_as_closely_as_a_new_one(softhsm: Token) -> None:
    """By a stranger's tool, as a token would have made it that does not heed what it is told."""
    key = softhsm.key(key_id=b"\x07")
    login = ["--module", SOFTHSM, "--token-label", softhsm.label, "--login", "--pin", PIN]
    kind = ["--key-type", "EC:prime256v1", "--sensitive", "--usage-sign", "--usage-derive"]
    made = ["pkcs11-tool", *login, "--keypairgen", *kind, "--label", "device-ca", "--id", "07"]
    subprocess.run(made, check=True, capture_output=True)
    with KeyMaker(key, softhsm.pin, softhsm.latch) as maker:
        error = refused(lambda: maker.generate(KeyType.P256, again=True))
        assert error.fault is Fault.HSM_KEY_ATTRIBUTES
        assert "DERIVE is True" in error.detail
        assert not maker.named_alike(), "it is destroyed"
        made_now = maker.generate(KeyType.P256, again=True)
        assert maker.generate(KeyType.P256, again=True) == made_now, "what is right is taken"
        assert refused(lambda: maker.generate(KeyType.P256)).fault is Fault.HSM_KEY


def test_an_hsm_whose_power_goes_is_down_and_works_again_when_it_is_back(hsm_on_a_wire: HsmOnAWire) -> None:
    token = hsm_on_a_wire.token
    key, public = made(token)
    with Signers(key, token.pin, token.latch, timeout_s=6) as signers:
        signs(signers, public)
        hsm_on_a_wire.switch_off()
        began = time.monotonic()
        error = refused(lambda: signs(signers, public))
        assert error.fault in {Fault.HSM_DOWN, Fault.HSM_TOKEN, Fault.HSM_MODULE}
        assert time.monotonic() - began < 6
        hsm_on_a_wire.switch_on()
        signs(signers, public)


def test_an_hsm_that_hangs_is_named_at_the_deadline_and_works_again_when_it_goes_on(hsm_on_a_wire: HsmOnAWire) -> None:
    token = hsm_on_a_wire.token
    key, public = made(token)
    with Signers(key, token.pin, token.latch, timeout_s=4) as signers:
        signs(signers, public)
        hsm_on_a_wire.hang()
        began = time.monotonic()
        assert refused(lambda: signs(signers, public)).fault is Fault.HSM_HUNG
        assert 3.5 < time.monotonic() - began < 5.5
        hsm_on_a_wire.go_on()
        signs(signers, public)


def test_a_token_that_vanishes_and_returns_is_found_again(softhsm: Token) -> None:
    key, public = made(softhsm)
    with Signers(key, softhsm.pin, softhsm.latch, timeout_s=6) as signers:
        signs(signers, public)
        tokens = softhsm.folder / "tokens"
        tokens.rename(softhsm.folder / "away")
        tokens.mkdir()
        assert refused(lambda: signs(signers, public)).fault in {Fault.HSM_TOKEN, Fault.HSM_KEY, Fault.HSM_DOWN}
        tokens.rmdir()
        (softhsm.folder / "away").rename(tokens)
        signs(signers, public)


def test_many_threads_share_few_children(softhsm: Token) -> None:
    key, public = made(softhsm)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                signs(signers, public)
        except BaseException as error:  # noqa: BLE001 - told to the test's thread
            failed.append(error)

    with Signers(key, softhsm.pin, softhsm.latch, processes=2) as signers:
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []


def test_nobody_waits_for_a_busy_child_past_the_deadline(softhsm: Token) -> None:
    key, public = made(softhsm)
    with Signers(key, softhsm.pin, softhsm.latch) as signers:
        child = signers._idle.get()
        signers._timeout_s = 0.2
        try:
            assert refused(lambda: signs(signers, public)).fault is Fault.HSM_HUNG
        finally:
            signers._idle.put(child)


def test_the_child_gives_its_secrets_to_nobody(softhsm: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-no-use-there")
    key, public = made(softhsm)
    with Signers(key, softhsm.pin, softhsm.latch) as signers:
        signs(signers, public)
        child = child_of(signers)
        for file in ("cmdline", "environ"):
            said = Path(f"/proc/{child}/{file}").read_bytes()
            assert PIN.encode() not in said
            assert b"of-no-use-there" not in said
        assert resource.prlimit(child, resource.RLIMIT_CORE) == (0, 0)


def test_the_child_dies_with_its_parent_even_while_the_token_hangs(hsm_on_a_wire: HsmOnAWire) -> None:
    token = hsm_on_a_wire.token
    key, _ = made(token)
    program = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from station.hsm.pin import PinSource\n"
        "from station.hsm.signers import Signers\n"
        "from station.hsm.uri import KeyUri\n"
        "key, pin, latch = sys.argv[1:]\n"
        "with Signers(KeyUri.parse(key), PinSource(file=Path(pin)), Path(latch), timeout_s=60) as signers:\n"
        "    print(signers._idle.queue[0]._process.pid, flush=True)\n"
        "    sys.stdin.readline()\n"
        "    print('asks', flush=True)\n"
        "    signers.describe()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(key), str(token.pin.file), str(token.latch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        hsm_on_a_wire.hang()
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "asks\n"
        parent.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    hsm_on_a_wire.go_on()


def test_only_what_every_module_can_is_ever_asked(softhsm: Token) -> None:
    key, public = made(softhsm)
    with Signers(key, softhsm.pin, softhsm.latch) as signers:
        private = token_key(public, signers)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert refused(lambda: private.sign(b"x" * 32, ec.ECDSA(Prehashed(hashes.SHA256())))).fault is Fault.UNEXPECTED
    assert refused(lambda: token_key("no key", signers)).fault is Fault.CA_MISMATCH
