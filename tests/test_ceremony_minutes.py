"""Minutes tell what was done, and whoever changes a byte of them is found out; certificates keep the rules."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from desk import Desk, refusal
from pkilint.bin import lint_pkix_cert

from station.ca import CertificateAuthority, issuing_certificate, lint, self_signed_root, verification_certificate
from station.ca.lint import Kind
from station.ceremony import People, minutes
from station.faults import Fault
from station.model import KeyOrigin, KeyType, Product, Profile

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def sealed(desk: Desk) -> tuple[Path, bytes]:
    desk.perform("seal")
    seal = {"key": desk.uri("station-seal"), "public": "seal.pem", "pin": {"file": str(desk.token.pin.file)}}
    desk.perform("root", seal=seal)
    return desk.folder / "minutes-root.md", (desk.folder / "seal.pem").read_bytes()


def test_minutes_tell_who_what_when_and_with_what_and_every_change_is_found(desk: Desk) -> None:
    path, public = sealed(desk)
    said: list[str] = []
    minutes.verify(path, public, said.append)
    minutes.verify(path.with_suffix(".json"), public, said.append)
    assert any("ca.pem: as written then" in line for line in said)
    text, body = path.read_text(), desk.minutes("root")
    prints = body["certificates"]["ca"]
    assert prints["sha256"] == desk.ca().fingerprint(hashes.SHA256()).hex()
    assert body["token"]["attributes"]["EXTRACTABLE"] is False
    assert (body["token"]["attributes"]["LOCAL"], body["key_origin"]) == (True, "made in the token")
    assert body["token"]["firmware"].count(".") == 1
    assert [step["name"] for step in body["steps"]] == ["trial", "key", "certificate", "written"]
    for wanted in (prints["sha256"], "performed by Lan, watched by Minh", body["file"]["sha256"], body["seal"]):
        assert wanted in text

    whole = path.with_suffix(".json").read_text()
    for file, changed in (
        (path, text.replace("Lan", "Lam")),
        (path.with_suffix(".json"), whole.replace('"by": "Lan"', '"by": "Lam"')),
        (path.with_suffix(".json"), whole.replace('"signature": "M', '"signature": "N')),
        (path.with_suffix(".json"), whole[:-200]),
        (path.with_suffix(".json"), whole + " "),
        (path.with_suffix(".json"), whole.replace('"minutes": {', '"minutes":  {')),
    ):
        before = file.read_text()
        assert changed != before
        file.write_text(changed)
        refusal(lambda: minutes.verify(path, public, said.append), Fault.SEAL_INVALID)
        file.write_text(before)
    raw, file = whole.encode(), path.with_suffix(".json")
    for at in (*range(0, len(raw), 97), *range(raw.index(b'"seal": {'), len(raw), 5), len(raw) - 8):
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        refusal(lambda: minutes.verify(path, public, said.append), Fault.SEAL_INVALID)
    file.write_bytes(raw)
    (desk.folder / "ca.pem").write_text("another")
    assert "is not what the act wrote" in refusal(lambda: minutes.verify(path, public, said.append), Fault.SEAL_INVALID)


def test_who_performs_an_act_does_not_watch_it_too() -> None:
    said = refusal(lambda: People("Lan", print, lambda *_: False, ("Minh", "lan")), Fault.CEREMONY)
    assert "the witness is somebody else" in said


def test_a_seal_that_the_minutes_bring_themselves_proves_nothing(desk: Desk) -> None:
    path, _ = sealed(desk)
    assert "--seal FILE" in refusal(lambda: minutes.verify(path, None, print), Fault.SEAL_INVALID)


def test_minutes_before_there_is_a_seal_say_so(desk: Desk) -> None:
    desk.perform("root")
    assert "NOT sealed" in (desk.folder / "minutes-root.md").read_text()
    said = refusal(lambda: minutes.verify(desk.folder / "minutes-root.md", None, print), Fault.SEAL_INVALID)
    assert "no seal was there" in said
    refusal(lambda: minutes.verify(desk.folder / "none.md", None, print), Fault.CONFIG)


def test_what_others_named_is_no_markdown_in_the_minutes(desk: Desk) -> None:
    desk.organization = "<b>|x|"
    desk.perform("root")
    assert "<b>" not in (desk.folder / "minutes-root.md").read_text().replace("\\<", "")
    assert json.loads((desk.folder / "minutes-root.json").read_text())["minutes"]["certificates"]


class TestLint:
    """Our rules find what is wrong; pkilint, which shares nothing with them, finds nothing in what we make."""

    def root(self, key: Any, **changes: Any) -> x509.Certificate:
        wanted = {"days": 3650, "path_length": 1, "number": 1 << 100, "not_before": SINCE, "country": "VN", **changes}
        return self_signed_root(key, common_name="CA", organization="Example", **wanted)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pkilint leaves its file open
    @pytest.mark.parametrize("key_type", ["p256", "rsa2048"])
    def test_an_independent_linter_accepts_every_certificate_that_is_made(self, key_type: str, tmp_path: Path) -> None:
        key = lint.throw_away_key(KeyType(key_type))
        root = self.root(key, days=18_262)
        lint.refuse(root, root, Kind.ROOT)
        below = lint.throw_away_key(KeyType.P384)
        issuing = issuing_certificate(
            below.public_key(), root.subject, root, key, days=900, path_length=0, number=1 << 99, not_before=SINCE
        )
        lint.refuse(issuing, root, Kind.ISSUING)
        verification = verification_certificate(root, key, "a1" * 32)
        lint.refuse(verification, root, Kind.VERIFICATION)
        product = Product("p", "console", "m", KeyType.P256, KeyOrigin.BOARD, Profile(365, 3600, "Example", "Unit"))
        unit_key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SN-1")])
        )
        csr = request.sign(unit_key, hashes.SHA256()).public_bytes(Encoding.DER)
        leaf, _ = CertificateAuthority(root, key).issue(csr, "SN-1", product, (1 << 127) + 1)
        lint.refuse(leaf, root, Kind.UNIT)
        for made in (root, issuing, verification, leaf):
            assert independent(made, tmp_path) == 0
        assert independent(broken(ski=False, usage=None), tmp_path) > 0

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"serial": 1}, "64 to 159 bits"),
            ({"constraints": None}, "has no basicConstraints"),
            (
                {"constraints": (x509.BasicConstraints(ca=True, path_length=0), False)},
                "basicConstraints is not critical",
            ),
            ({"constraints": (x509.BasicConstraints(ca=False, path_length=None), True)}, "has CA:FALSE"),
            ({"usage": None}, "has no keyUsage"),
            ({"digest": hashes.SHA3_256()}, "not signed with SHA-2"),
            ({"country": "vn"}, "not two capital letters"),
            ({"ski": False}, "has no subjectKeyIdentifier"),
            ({"extra": True}, "which this house does not use"),
            ({"eku": True}, "has an extendedKeyUsage"),
            ({"name": " CA"}, "padded"),
            ({"signer": ec.generate_private_key(ec.SECP256R1())}, "does not verify with its issuer"),
            ({"key": ec.generate_private_key(ec.SECP521R1())}, "its key is none of"),
        ],
    )
    def test_each_rule_finds_what_breaks_it(self, change: dict[str, Any], says: str) -> None:
        made = broken(**change)
        found = lint.findings(made, made, Kind.ROOT)
        assert any(says in finding for finding in found), found

    def test_a_ca_that_breaks_a_rule_is_not_given_out(self) -> None:
        bad = broken(usage=None)
        assert "keyUsage" in refusal(lambda: lint.refuse(bad, bad, Kind.ROOT), Fault.CERTIFICATE_LINT)


def independent(made: x509.Certificate, folder: Path) -> int:
    """How many findings from WARNING on pkilint has by RFC 5280."""
    (folder / "made.pem").write_bytes(made.public_bytes(Encoding.PEM))
    return int(lint_pkix_cert.main(["lint", "-s", "WARNING", str(folder / "made.pem")]))


def broken(**change: Any) -> x509.Certificate:
    key = change.get("key") or ec.generate_private_key(ec.SECP256R1())
    parts = [(NameOID.COUNTRY_NAME, change.get("country", "VN")), (NameOID.COMMON_NAME, change.get("name", "CA"))]
    subject = x509.Name([x509.NameAttribute(oid, value, _validate=False) for oid, value in parts])
    until = SINCE + timedelta(days=change.get("days", 100))
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), change.get("serial", 1 << 100))
    builder = builder.not_valid_before(min(SINCE, until)).not_valid_after(max(SINCE, until))
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    constraints = change.get("constraints", (x509.BasicConstraints(ca=True, path_length=0), True))
    if constraints:
        builder = builder.add_extension(constraints[0], critical=constraints[1])
    if change.get("usage", usage):
        builder = builder.add_extension(usage, critical=True)
    if change.get("ski", True):
        builder = builder.add_extension(own, critical=False)
        aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        builder = builder.add_extension(aki, critical=False)
    if change.get("extra"):
        builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
    if change.get("eku"):
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    return builder.sign(change.get("signer") or key, change.get("digest", hashes.SHA256()))
