"""The acts: complete, never overwriting, refused with a sentence each, and nothing half done."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from desk import Desk, refusal
from test_ca import make_key, make_root
from tokens import PIN, Token

from station import ceremony
from station.ceremony import People
from station.config import load_ceremony
from station.faults import Fault
from station.hsm.signers import generate_key
from station.model import KeyType


def openssl(folder: Path, *arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


EC = ("EC", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("RSA", "-pkeyopt", "rsa_keygen_bits:2048")


def old_ca(
    desk: Desk, *, encrypted: bool = False, conf: str = "basicConstraints=CA:TRUE", key: tuple[str, ...] = EC
) -> None:
    """The provider's CA as openssl makes it; the old recipe's is RSA-2048, which takes its time."""
    secret = ["-aes256", "-pass", "pass:geheim"] if encrypted else []
    openssl(desk.folder, "genpkey", "-algorithm", *key, *secret, "-out", "provider-key.pem")
    (desk.folder / "ca.conf").write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=v3_ca\nprompt=no\n"
        f"[dn]\nO=Seed\nCN=Seed CA REHEARSAL {desk.organization}\n"
        f"[v3_ca]\n{conf}\n"
    )
    read = ["-passin", "pass:geheim"] if encrypted else []
    subject = ["-key", "provider-key.pem", *read, "-sha256", "-days", "1024"]
    openssl(desk.folder, "req", "-x509", "-new", *subject, "-config", "ca.conf", "-out", "provider-ca.pem")
    (desk.folder / "provider-key.pem").chmod(0o600)


@pytest.mark.parametrize(
    ("key_type", "mode"), [("p256", "DEFAULT"), ("p384", "DEFAULT"), ("rsa2048", "SNI_ONLY")]
)  # the others: tests/test_ceremony_whole.py
def test_root_and_register_make_a_ca_that_aws_iot_takes_units_from(desk: Desk, key_type: str, mode: str) -> None:
    assert desk.perform("root", key_type=key_type)
    root = desk.ca()
    assert KeyType.of(root.public_key()) is KeyType(key_type)
    assert root.public_key() == desk.public_key()
    assert desk.perform("register", mode=mode, tags={"line": "1"}, endpoint=desk.cloud.said["endpoint"])
    found = desk.registration()
    assert found["ca_certificate_id"] == root.fingerprint(hashes.SHA256()).hex()
    assert (found["endpoint"], found["rehearsal"], found["mode"]) == (desk.cloud.said["endpoint"], True, mode)
    assert desk.described() == ("ACTIVE", "ENABLE")


def test_an_act_that_is_complete_is_repeated_without_effect(desk: Desk) -> None:
    desk.perform("root")
    desk.perform("register")
    before = {file: file.read_bytes() for file in desk.folder.iterdir() if file.is_file()}
    assert desk.perform("root")
    assert desk.perform("register")
    assert {file: file.read_bytes() for file in desk.folder.iterdir() if file.is_file()} == before
    assert len([line for line in desk.said if line.startswith("this act is complete")]) == 2


@pytest.mark.parametrize("output", ["ca.pem", "minutes-root.md", "minutes-root.json"])
def test_an_output_that_exists_is_never_overwritten(desk: Desk, output: str) -> None:
    (desk.folder / output).write_text("somebody's")
    assert "never overwrites" in refusal(lambda: desk.perform("root"), Fault.CEREMONY)
    assert (desk.folder / output).read_text() == "somebody's"
    assert desk.public_key() is None


def test_an_output_that_somebody_makes_during_the_act_is_not_said_to_be_written(desk: Desk) -> None:
    file = desk.write("root")

    def meanwhile(_: str) -> None:
        (desk.folder / "ca.pem").write_text("somebody's")

    theirs = People("Lan", meanwhile, lambda *_: False)
    said = refusal(lambda: ceremony.perform(load_ceremony(file), file, theirs), Fault.CEREMONY)
    assert "never overwrites" in said
    (desk.folder / "ca.pem").unlink()
    assert desk.go_on(file)
    assert desk.ca().public_key() == desk.public_key()


def test_an_output_that_is_gone_afterwards_is_missed(desk: Desk) -> None:
    desk.perform("root")
    (desk.folder / "ca.pem").unlink()
    assert "is gone; restore it" in refusal(lambda: desk.perform("root"), Fault.CEREMONY)


def test_a_key_of_this_name_that_is_not_ours_is_never_used(desk: Desk) -> None:
    other = replace(desk.key, id=b"\x77")
    generate_key(other, desk.token.pin, desk.token.latch, KeyType.P256)
    assert "holds a key of this name already" in refusal(lambda: desk.perform("root"), Fault.CEREMONY)
    assert not (desk.folder / "ca.pem").exists()


def test_another_version_of_the_file_does_not_go_on_with_a_begun_act(desk: Desk) -> None:
    desk.perform("root")
    said = refusal(lambda: desk.perform("root", validity_days=99), Fault.CEREMONY)
    assert "another version of this file" in said


def test_a_journal_that_is_damaged_is_told(desk: Desk) -> None:
    desk.perform("root")
    (journal,) = (desk.folder / "state").glob("ceremony-root-*.json")
    journal.write_text("{half")
    assert "is damaged" in refusal(lambda: desk.perform("root"), Fault.CEREMONY)


def test_a_state_folder_that_cannot_be_written_is_told(desk: Desk) -> None:
    (desk.folder / "not-a-folder").write_text("a file")
    refusal(lambda: desk.perform("root", state="not-a-folder"), Fault.CEREMONY)


def test_the_pin_is_in_nothing_that_an_act_leaves(desk: Desk) -> None:
    desk.perform("root")
    desk.perform("register")
    for file in desk.folder.rglob("*"):
        if file.is_file():
            assert PIN.encode() not in file.read_bytes(), file
    assert PIN not in "".join(desk.said)


class TestImport:
    """An existing CA goes into the token."""

    @pytest.mark.parametrize("encrypted", [False, True])
    def test_the_seed_s_rsa_ca_is_taken_in_and_registered(self, desk: Desk, encrypted: bool) -> None:
        old_ca(desk, encrypted=encrypted, key=RSA)
        source: dict[str, Any] = {"key": "provider-key.pem", "certificate": "provider-ca.pem"}
        if encrypted:
            (desk.folder / "passphrase").write_text("geheim\n")
            (desk.folder / "passphrase").chmod(0o600)
            source["passphrase"] = {"file": "passphrase"}
        assert desk.perform("import", source=source)
        assert desk.ca().public_key() == desk.public_key()
        assert desk.perform("register")
        assert desk.described() == ("ACTIVE", "ENABLE")
        minutes = desk.minutes("import")
        assert minutes["key_origin"] == "imported"
        attributes = minutes["token"]["attributes"]
        assert (attributes["SENSITIVE"], attributes["EXTRACTABLE"], attributes["LOCAL"]) == (True, False, False)
        assert any("keyUsage" in finding for finding in minutes["findings"])
        assert b"geheim" not in b"".join(file.read_bytes() for file in desk.folder.glob("minutes*"))

    @pytest.mark.parametrize("key_type", ["p384", "rsa3072", "rsa4096"])
    def test_every_other_kind_of_key_is_taken_in_and_proved(self, desk: Desk, key_type: str) -> None:
        kind, size = (EC, "P-384") if key_type == "p384" else (RSA, key_type.removeprefix("rsa"))
        old_ca(desk, key=(*kind[:2], f"{kind[2].partition(':')[0]}:{size}"))
        assert desk.perform("import")
        assert KeyType.of(desk.ca().public_key()) is KeyType(key_type)
        assert desk.ca().public_key() == desk.public_key()

    def test_whether_the_file_is_destroyed_is_the_operator_s_to_say_and_is_looked_at(self, desk: Desk) -> None:
        old_ca(desk)
        desk.destroyed = True
        assert desk.perform("import")
        (step,) = [step for step in desk.minutes("import")["steps"] if step["name"] == "file"]
        assert step["result"].startswith("NOT confirmed")
        assert any("shred -u" in line for line in desk.said)

    def test_a_key_that_is_not_the_certificate_s_never_reaches_the_token(self, desk: Desk) -> None:
        old_ca(desk)
        key = (desk.folder / "provider-key.pem").read_bytes()
        old_ca(desk)
        (desk.folder / "provider-key.pem").write_bytes(key)
        said = refusal(lambda: desk.perform("import"), Fault.CA_MISMATCH)
        assert "is not the key of the certificate" in said
        assert not (desk.folder / "ca.pem").exists()
        assert desk.public_key() is None
        old_ca(desk)
        assert desk.perform("import", seal=None)

    @pytest.mark.parametrize("conf", ["basicConstraints=CA:FALSE", "subjectAltName=DNS:a.example"])
    def test_a_ca_without_ca_true_is_refused_before_the_token_is_touched(self, desk: Desk, conf: str) -> None:
        old_ca(desk, conf=conf)
        assert "CA:TRUE" in refusal(lambda: desk.perform("import"), Fault.CA_NOT_CA)
        assert desk.public_key() is None

    @pytest.mark.parametrize(
        ("content", "fault", "says"),
        [
            ("", Fault.KEY_FILE, "no private key in PEM"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", Fault.KEY_FILE, "no private key in PEM"),
            ("open", Fault.CONFIG, "others may read the CA key"),
            ("encrypted", Fault.KEY_FILE, "is encrypted; name its `passphrase`"),
            ("ed25519", Fault.KEY_FILE, "of another kind than p256"),
            ("rsa1024", Fault.KEY_FILE, "of another kind than p256"),
        ],
    )
    def test_a_file_that_cannot_be_taken_in_is_told_without_a_word_of_it(
        self, desk: Desk, content: str, fault: Fault, says: str
    ) -> None:
        old_ca(desk, encrypted=content == "encrypted")
        file = desk.folder / "provider-key.pem"
        match content:
            case "open":
                file.chmod(0o644)
            case "ed25519":
                openssl(desk.folder, "genpkey", "-algorithm", "ed25519", "-out", "provider-key.pem")
            case "rsa1024":
                openssl(desk.folder, "genrsa", "-out", "provider-key.pem", "1024")
            case "encrypted":
                pass
            case _:
                file.write_text(content)
        assert says in refusal(lambda: desk.perform("import"), fault)
        assert desk.public_key() is None

    def test_a_wrong_passphrase_is_told(self, desk: Desk) -> None:
        old_ca(desk, encrypted=True)
        (desk.folder / "passphrase").write_text("falsch\n")
        (desk.folder / "passphrase").chmod(0o600)
        source = {"key": "provider-key.pem", "certificate": "provider-ca.pem", "passphrase": {"file": "passphrase"}}
        assert "the passphrase is wrong" in refusal(lambda: desk.perform("import", source=source), Fault.KEY_FILE)

    def test_a_production_ca_is_not_taken_into_a_rehearsal(self, desk: Desk) -> None:
        old_ca(desk)
        text = (desk.folder / "ca.conf").read_text().replace(" REHEARSAL", "")
        (desk.folder / "ca.conf").write_text(text)
        real = ["-key", "provider-key.pem", "-config", "ca.conf", "-out", "provider-ca.pem"]
        openssl(desk.folder, "req", "-x509", "-new", *real)
        refusal(lambda: desk.perform("import"), Fault.SIMULATION_MIXED)


class TestIssuing:
    """A CA under an offline root."""

    def root(self, desk: Desk) -> None:
        old_ca(desk, conf="basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign")
        (desk.folder / "provider-ca.pem").rename(desk.folder / "root.pem")

    def certify(self, desk: Desk, extensions: str, out: str = "issued.pem") -> None:
        (desk.folder / "issued.conf").write_text(
            f"{extensions}\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        by = ["-CA", "root.pem", "-CAkey", "provider-key.pem", "-CAcreateserial", "-days", "90"]
        openssl(desk.folder, "x509", "-req", "-in", "ca.csr", *by, "-extfile", "issued.conf", "-out", out)

    def test_by_csr_it_takes_two_goes_with_one_key(self, desk: Desk) -> None:
        self.root(desk)
        assert not desk.perform("issuing")
        assert not desk.perform("issuing")
        assert "CN = issuing CA REHEARSAL" in openssl(
            desk.folder, "req", "-in", "ca.csr", "-noout", "-subject", "-verify"
        )
        self.certify(desk, "basicConstraints=critical,CA:TRUE,pathlen:0")
        assert desk.perform("issuing")
        assert desk.ca().public_key() == desk.public_key()
        assert "ca.pem: OK" in openssl(desk.folder, "verify", "-CAfile", "root.pem", "ca.pem")
        assert len(desk.minutes("issuing")["sittings"]) == 3

    @pytest.mark.parametrize(
        ("extensions", "says", "fault"),
        [
            ("basicConstraints=critical,CA:TRUE", "has the path length None; 0 was asked for", Fault.CA_MISMATCH),
            ("basicConstraints=critical,CA:TRUE,pathlen:2", "has the path length 2", Fault.CA_MISMATCH),
            ("basicConstraints=CA:TRUE,pathlen:0", "its basicConstraints is not critical", Fault.CERTIFICATE_LINT),
            ("basicConstraints=critical,CA:FALSE", "CA:TRUE", Fault.CA_NOT_CA),
        ],
    )
    def test_what_the_root_s_owner_brings_is_looked_over(
        self, desk: Desk, extensions: str, says: str, fault: Fault
    ) -> None:
        self.root(desk)
        desk.perform("issuing")
        self.certify(desk, extensions)
        assert says in refusal(lambda: desk.perform("issuing"), fault)
        assert not (desk.folder / "ca.pem").exists()

    def test_it_is_tried_out_before_the_token_has_a_key(self, desk: Desk) -> None:
        self.root(desk)
        ends = (desk.folder / "root.pem").read_bytes()
        ended = make_root(make_key(KeyType.P256), days=1)
        (desk.folder / "root.pem").write_bytes(ended.public_bytes(Encoding.PEM))
        refusal(lambda: desk.perform("issuing"), Fault.CA_EXPIRES)
        assert desk.public_key() is None
        (desk.folder / "root.pem").write_bytes(ends)
        assert not desk.perform("issuing"), "it waits for the root's owner"

    def test_a_certificate_of_another_key_or_root_is_not_taken(self, desk: Desk) -> None:
        self.root(desk)
        desk.perform("issuing")
        (desk.folder / "issued.pem").write_bytes((desk.folder / "root.pem").read_bytes())
        said = refusal(lambda: desk.perform("issuing"), Fault.CA_MISMATCH)
        assert "is for another key" in said
        assert "is for O=Seed" in said or "is for CN=Seed" in said

    def test_with_the_root_s_key_in_reach_it_is_one_go(self, desk: Desk) -> None:
        root_outputs = {"certificate": "root.pem", "minutes": "minutes-root.md"}
        desk.perform("root", key=desk.uri("root-ca"), path_length=1, outputs=root_outputs)
        by = {"by": "key", "certificate": "root.pem", "key": desk.uri("root-ca"), "validity_days": 90}
        root = {**by, "pin": {"file": str(desk.token.pin.file)}}
        outputs = {"certificate": "ca.pem", "minutes": "minutes-issuing.md"}
        too_long = {**root, "validity_days": 101}
        refusal(lambda: desk.perform("issuing", root=too_long, outputs=outputs), Fault.CA_EXPIRES)
        assert desk.perform("issuing", root=root, outputs=outputs)
        assert "ca.pem: OK" in openssl(desk.folder, "verify", "-CAfile", "root.pem", "ca.pem")
        assert desk.perform("register")


def test_the_seal_is_a_key_apart_and_its_act_seals_its_own_minutes(desk: Desk) -> None:
    assert desk.perform("seal")
    public = load_pem_public_key((desk.folder / "seal.pem").read_bytes())
    assert public != desk.public_key()
    assert desk.minutes("seal")["seal"]


def test_what_does_not_apply_to_an_act_is_an_error(desk: Desk) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("seal", {"validity_days": 5}, "validity_days: no such key"),
        ("root", {"region": "us-east-1"}, "region: no such key"),
        ("issuing", {"validity_days": 9}, "validity_days: no such key"),
        ("issuing", {"outputs": {"certificate": "a.pem", "minutes": "m.md"}}, "outputs.csr stands with `by: csr`"),
        ("retire", {"reason": "compromised"}, "waits for nobody"),
        ("retire", {"ledgers": None}, "ledgers or line stand with `reason: ended`"),
        ("retire", {"reason": "compromised", "ledgers": None, "line": "url"}, "waits for nobody"),
        ("rotate", {"ledgers": None}, "needs `ledgers`, `line` or both"),
        ("register", {"simulator": None}, "only a rehearsal is"),
        ("register", {"simulator": None, "rehearsal": False}, "needs `endpoint`"),
        ("register", {"tags": {"aws:x": "1"}}, "must not begin with aws:"),
        ("rotate", {"new": {"by": "registration", "registration": "old.json"}}, "the same registration"),
        ("rotate", {"new": {"by": "registration", "registration": "n.json", "key_type": "p256"}}, "no such key"),
        ("rotate by key", {"outputs": {"certificate": "ca.pem", "minutes": "m.md"}}, "stand with `by: key`"),
        ("rotate by key", {"outputs": {"minutes": "m.md"}}, "stand with `by: key`"),
        ("root", {"outputs": {"certificate": "m.json", "minutes": "m.md"}}, "two outputs have the same path"),
        ("root", {"outputs": {"certificate": "ca.pem", "minutes": "minutes"}}, "should end with .md"),
        ("root", {"rehearsal": False}, "a production CA must not"),
    ]
    for name, change, says in wrong:
        file = desk.write(name, **change)
        assert says in refusal(partial(load_ceremony, file), Fault.CONFIG)


def test_an_explicit_id_names_the_key(desk: Desk, softhsm: Token) -> None:
    named = replace(desk.key, id=b"\x01\x02")
    assert desk.perform("root", key=str(named))
    assert desk.perform("register", key=str(named))
    assert json.loads((desk.folder / "registration.json").read_text())["rehearsal"]


def test_the_verification_certificate_goes_to_nobody_but_aws(desk: Desk) -> None:
    desk.has_ca()
    desk.perform("register")
    pems = [file for file in desk.folder.rglob("*") if file.is_file() and b"BEGIN CERTIFICATE" in file.read_bytes()]
    held = {
        x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(Encoding.DER)
        for file in pems
        if file.suffix == ".pem"
    }
    assert held == {desk.ca().public_bytes(Encoding.DER)}
