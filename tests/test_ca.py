"""The CA: what it certifies, what it refuses, and that nothing wrong ever leaves it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from tokens import Token

from station.ca import CertificateAuthority, load_ca_certificate, self_signed_root, signing, verification_certificate
from station.ca.requests import checked_key
from station.faults import Blame, Fault, FaultError
from station.hsm.keys import token_key
from station.hsm.signers import Signers, generate_key
from station.model import KeyOrigin, KeyType, PrivateKey, Product, Profile
from station.sequence import _public_key

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
NUMBER = (1 << 127) + 5
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def make_key(key_type: KeyType) -> PrivateKey:
    match key_type:
        case KeyType.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return rsa.generate_private_key(65537, int(key_type.value[3:]))


def product(key_type: KeyType = KeyType.P256, *, days: int = 365, backdate_s: int = 3600) -> Product:
    profile = Profile(days, backdate_s, "Example", "Sensors")
    return Product("p", "console", "m", key_type, KeyOrigin.BOARD, profile)


def make_root(key: PrivateKey, *, days: int = 3650, since: datetime = NOW - timedelta(days=30)) -> x509.Certificate:
    return self_signed_root(
        key,
        common_name="Test CA",
        organization="Example",
        country="VN",
        days=days,
        path_length=0,
        number=NUMBER,
        not_before=since,
    )


def csr(key: Key | ed25519.Ed25519PrivateKey, name: str = "SN-1") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, digest)
    return request.public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def ca_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def authority(ca_key: ec.EllipticCurvePrivateKey) -> CertificateAuthority:
    return CertificateAuthority(make_root(ca_key), ca_key, lambda: NOW)


def refusal(call: Callable[[], object], fault: Fault) -> str:
    with pytest.raises(FaultError) as error:
        call()
    assert error.value.fault is fault, error.value
    return error.value.detail


@pytest.mark.parametrize("ca_type", [KeyType.P256, KeyType.P384, KeyType.RSA2048])
@pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.P384, KeyType.RSA2048, KeyType.RSA3072])
def test_a_unit_s_certificate_is_to_the_profile(ca_type: KeyType, key_type: KeyType, tmp_path: Path) -> None:
    signer, key = make_key(ca_type), make_key(key_type)
    root = make_root(signer)
    authority = CertificateAuthority(root, signer, lambda: NOW)
    authority.prove()
    assert authority.try_out(product(key_type)) == []
    leaf, above = authority.issue(csr(key), "SN-1", product(key_type), NUMBER)
    assert above == root
    assert leaf.version is x509.Version.v3
    assert leaf.subject.rfc4514_string() == "OU=Sensors,O=Example,CN=SN-1"
    assert (leaf.serial_number, leaf.public_key()) == (NUMBER, key.public_key())
    assert leaf.not_valid_before_utc == NOW - timedelta(hours=1)
    assert leaf.not_valid_after_utc == NOW + timedelta(days=365)
    found = {extension.oid: extension for extension in leaf.extensions}
    assert len(found) == 5
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    rsa_key = key_type not in {KeyType.P256, KeyType.P384}
    assert (usage.critical, usage.value.digital_signature, usage.value.key_encipherment) == (True, True, rsa_key)
    assert not usage.value.key_cert_sign
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier == root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    for name, certificate in (("leaf", leaf), ("root", root)):
        (tmp_path / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-attime",
        str(int(NOW.timestamp())),
        "-CAfile",
        str(tmp_path / "root"),
    ]
    done = subprocess.run([*command, str(tmp_path / "leaf")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_certificate_that_breaks_a_rule_is_found_before_the_first_unit_and_never_leaves(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = product()
    padded = replace(plain, profile=replace(plain.profile, organization="Example "))
    assert "padded" in "".join(authority.try_out(padded))
    request = csr(make_key(KeyType.P256))
    assert "padded" in refusal(lambda: authority.issue(request, "SN-1", padded, NUMBER), Fault.CERTIFICATE_LINT)
    usage = signing.key_usage(encipherment=True)
    monkeypatch.setattr(signing, "key_usage", lambda **_: usage)
    assert "keyEncipherment" in "".join(authority.try_out(plain))
    refusal(lambda: authority.issue(request, "SN-1", plain, NUMBER), Fault.CERTIFICATE_LINT)


def test_nothing_of_the_csr_but_its_key_is_taken(authority: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SN-1")])
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("evil")]), critical=False)
    leaf, _ = authority.issue(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER), "SN-1", product(), NUMBER)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def flipped(der: bytes, at: int) -> bytes:
    return der[:at] + bytes([der[at] ^ 1]) + der[at:][1:]


def test_a_csr_that_is_not_signed_by_its_own_key_is_refused(authority: CertificateAuthority) -> None:
    request = csr(ec.generate_private_key(ec.SECP256R1()))
    forged = flipped(request, -1)
    assert not x509.load_der_x509_csr(forged).is_signature_valid
    detail = refusal(lambda: authority.issue(forged, "SN-1", product(), NUMBER), Fault.CSR_INVALID)
    assert "not signed by its own key" in detail


def test_a_csr_signed_with_sha_1_is_refused(authority: CertificateAuthority, tmp_path: Path) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha1"),
            *("-keyout", "/dev/null", "-subj", "/CN=SN-1", "-outform", "DER", "-out", str(tmp_path / "csr")),
        ],
        check=True,
        capture_output=True,
    )
    request = (tmp_path / "csr").read_bytes()
    verified = ["openssl", "req", "-inform", "DER", "-in", str(tmp_path / "csr"), "-noout", "-verify"]
    subprocess.run(verified, check=True, capture_output=True)
    refusal(lambda: authority.issue(request, "SN-1", product(), NUMBER), Fault.CSR_INVALID)


def strange(request: bytes, old: str, new: str) -> bytes:
    """A request in which one piece of its DER was exchanged for another of the same length."""
    assert request.count(bytes.fromhex(old)) >= 1
    return request.replace(bytes.fromhex(old), bytes.fromhex(new), 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("020100", "020107"),  # the version, 0 in every PKCS #10
        ("06072a8648ce3d0201", "06072a8648ce3d0207"),  # the key's algorithm, an OID that nobody has
        ("06082a8648ce3d030107", "06082a8648ce3d030177"),  # its curve
        ("06082a8648ce3d040302", "06082a8648ce3d040377"),  # the signature's algorithm
    ],
)
def test_a_csr_of_a_kind_that_nobody_knows_is_refused_by_ca_and_line_alike(
    authority: CertificateAuthority, old: str, new: str
) -> None:
    request = strange(csr(ec.generate_private_key(ec.SECP256R1())), old, new)
    refusal(lambda: authority.issue(request, "SN-1", product(), NUMBER), Fault.CSR_INVALID)
    with suppress(FaultError):  # it only names the key: the CA's word decides what is left
        _public_key(request)


REQUEST = csr(ec.generate_private_key(ec.SECP256R1()))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_damage_to_a_csr_is_anything_but_a_fault_of_the_unit(data: st.DataObject) -> None:
    request = bytearray(REQUEST)
    for _ in range(data.draw(st.integers(1, 3))):
        request[data.draw(st.integers(0, len(request) - 1))] = data.draw(st.integers(0, 255))
    blamed = set()
    for reads in (_public_key, lambda found: checked_key(found, "SN-1", KeyType.P256)):
        try:
            reads(bytes(request))
        except FaultError as error:
            blamed.add(error.fault.blame)
    assert blamed <= {Blame.UNIT}


@pytest.mark.parametrize("request_", [b"", b"\x30\x80", b"garbage" * 100, b"\x30" * 20_000])
def test_what_is_no_csr_is_refused(authority: CertificateAuthority, request_: bytes) -> None:
    refusal(lambda: authority.issue(request_, "SN-1", product(), NUMBER), Fault.CSR_INVALID)


def test_a_csr_for_somebody_else_is_refused(authority: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    detail = refusal(lambda: authority.issue(csr(key, "SN-2"), "SN-1", product(), NUMBER), Fault.CSR_SUBJECT)
    assert "CN=SN-1 is right" in detail
    two = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "SN-1"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Evil")]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(two).sign(key, hashes.SHA256())
    der = request.public_bytes(Encoding.DER)
    refusal(lambda: authority.issue(der, "SN-1", product(), NUMBER), Fault.CSR_SUBJECT)


def test_a_key_of_another_kind_is_refused(authority: CertificateAuthority) -> None:
    for key in (make_key(KeyType.P384), make_key(KeyType.RSA2048), ec.generate_private_key(ec.SECP521R1())):
        request = csr(key)
        refusal(lambda der=request: authority.issue(der, "SN-1", product(), NUMBER), Fault.KEY_TYPE)  # type: ignore[misc]
    edwards = csr(ed25519.Ed25519PrivateKey.generate())
    refusal(lambda: authority.issue(edwards, "SN-1", product(), NUMBER), Fault.KEY_TYPE)


def rsa_from(p: int, q: int, e: int = 65_537) -> rsa.RSAPrivateKey:
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), rsa.RSAPublicNumbers(e, p * q)
    )
    return numbers.private_key()


def openssl_prime(bits: int) -> int:
    command = ["openssl", "prime", "-generate", "-bits", str(bits)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def next_prime(above: int) -> int:
    candidate = above + 2
    while True:
        command = ["openssl", "prime", str(candidate)]
        if "is prime" in subprocess.run(command, check=True, capture_output=True, text=True).stdout:
            return candidate
        candidate += 2


def roca_prime(skip: int, bits: int = 1024) -> int:
    """A prime as the flawed library made them: k*M + (65537**a mod M)."""
    product_of_primes = 1
    for prime in (n for n in range(2, 168) if all(n % d for d in range(2, n))):
        product_of_primes *= prime
    start = (1 << (bits - 1)) // product_of_primes + (1 << (bits - 3)) // product_of_primes * 2
    for k in range(start + skip, start + 100_000):
        candidate = k * product_of_primes + pow(65_537, k % 1000, product_of_primes)
        if pow(2, candidate - 1, candidate) == 1:
            return candidate
    raise AssertionError


def test_known_weak_rsa_keys_are_refused_each_with_its_reason(authority: CertificateAuthority) -> None:
    p = openssl_prime(1024)
    weak = {
        "1024 bits": rsa.generate_private_key(65_537, 1024),  # noqa: S505 - on purpose
        "exponent 3": rsa.generate_private_key(3, 2048),
        "next to each other": rsa_from(next_prime(p), p),
        "ROCA": rsa_from(roca_prime(0), roca_prime(5000)),
    }
    for reason, key in weak.items():
        request = csr(key)
        detail = refusal(
            lambda der=request: authority.issue(der, "SN-1", product(KeyType.RSA2048), NUMBER),  # type: ignore[misc]
            Fault.KEY_WEAK,
        )
        assert reason in detail


def test_sound_rsa_keys_are_not_called_weak(authority: CertificateAuthority) -> None:
    for _ in range(5):
        authority.issue(csr(make_key(KeyType.RSA2048)), "SN-1", product(KeyType.RSA2048), NUMBER)


@pytest.mark.parametrize("number", [0, -1, 1, 1 << 160, (1 << 63) - 1])
def test_a_number_that_no_ca_may_use_is_refused(authority: CertificateAuthority, number: int) -> None:
    request = csr(make_key(KeyType.P256))
    refusal(lambda: authority.issue(request, "SN-1", product(), number), Fault.CA_OUTPUT)


@pytest.mark.parametrize("subject", ["", "a b", "x" * 65, "../x", "a\nb"])
def test_a_subject_that_is_no_client_id_is_refused(authority: CertificateAuthority, subject: str) -> None:
    request = csr(make_key(KeyType.P256))
    refusal(lambda: authority.issue(request, subject, product(), NUMBER), Fault.CONFIG)


def test_no_certificate_outlives_the_ca(ca_key: ec.EllipticCurvePrivateKey) -> None:
    authority = CertificateAuthority(make_root(ca_key, days=395), ca_key, lambda: NOW)
    request = csr(make_key(KeyType.P256))
    leaf, root = authority.issue(request, "SN-1", product(days=365), NUMBER)
    assert leaf.not_valid_after_utc == root.not_valid_after_utc
    refusal(lambda: authority.issue(request, "SN-1", product(days=366), NUMBER), Fault.CA_EXPIRES)


def test_no_certificate_is_valid_before_the_ca(ca_key: ec.EllipticCurvePrivateKey) -> None:
    authority = CertificateAuthority(make_root(ca_key, since=NOW - timedelta(minutes=1)), ca_key, lambda: NOW)
    leaf, root = authority.issue(csr(make_key(KeyType.P256)), "SN-1", product(backdate_s=86_400), NUMBER)
    assert leaf.not_valid_before_utc == root.not_valid_before_utc


@pytest.mark.parametrize("now", [NOW - timedelta(days=31), NOW + timedelta(days=3650)])
def test_a_ca_that_is_not_valid_now_is_told_at_start(ca_key: ec.EllipticCurvePrivateKey, now: datetime) -> None:
    refusal(CertificateAuthority(make_root(ca_key), ca_key, lambda: now).prove, Fault.CA_EXPIRES)


@pytest.mark.parametrize("other", [KeyType.P256, KeyType.P384, KeyType.RSA2048])
def test_a_key_that_is_not_the_certificate_s_is_told_at_start(
    ca_key: ec.EllipticCurvePrivateKey, other: KeyType
) -> None:
    refusal(CertificateAuthority(make_root(ca_key), make_key(other), lambda: NOW).prove, Fault.CA_MISMATCH)


def test_what_another_key_signed_never_leaves(ca_key: ec.EllipticCurvePrivateKey) -> None:
    """The key in the token was changed after the start: the certificate is checked before it is given out."""
    authority = CertificateAuthority(make_root(ca_key), make_key(KeyType.P256), lambda: NOW)
    request = csr(make_key(KeyType.P256))
    refusal(lambda: authority.issue(request, "SN-1", product(), NUMBER), Fault.CA_OUTPUT)


class TestFile:
    """The CA certificate's file."""

    def test_the_one_certificate_in_it_is_read(self, ca_key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> None:
        root = make_root(ca_key)
        (tmp_path / "ca.pem").write_bytes(root.public_bytes(Encoding.PEM))
        assert load_ca_certificate(tmp_path / "ca.pem") == root

    @pytest.mark.parametrize(
        "content", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    )
    def test_a_file_without_one_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "ca.pem").write_bytes(content)
        refusal(lambda: load_ca_certificate(tmp_path / "ca.pem"), Fault.CONFIG)
        refusal(lambda: load_ca_certificate(tmp_path / "none.pem"), Fault.CONFIG)

    def test_two_certificates_are_one_too_many(self, ca_key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_bytes(make_root(ca_key).public_bytes(Encoding.PEM) * 2)
        assert "not 2 certificates" in refusal(lambda: load_ca_certificate(tmp_path / "ca.pem"), Fault.CONFIG)

    def test_a_unit_s_certificate_is_no_ca(self, authority: CertificateAuthority, tmp_path: Path) -> None:
        leaf, _ = authority.issue(csr(make_key(KeyType.P256)), "SN-1", product(), NUMBER)
        (tmp_path / "ca.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
        refusal(lambda: load_ca_certificate(tmp_path / "ca.pem"), Fault.CA_NOT_CA)


class TestCeremony:
    """What the provider's acts need."""

    def test_a_root_is_strict(self, ca_key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_bytes(make_root(ca_key).public_bytes(Encoding.PEM))
        text = subprocess.run(
            ["openssl", "x509", "-in", str(tmp_path / "ca.pem"), "-noout", "-text"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for wanted in ("CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "X509v3 Subject Key Identifier"):
            assert wanted in text

    def test_the_verification_certificate_names_the_code_and_is_the_ca_s(
        self, ca_key: ec.EllipticCurvePrivateKey
    ) -> None:
        root, code = make_root(ca_key), "a1" * 32
        made = verification_certificate(root, ca_key, code, lambda: NOW)
        made.verify_directly_issued_by(root)
        assert made.subject.rfc4514_string() == f"CN={code}"
        assert made.not_valid_after_utc - NOW == timedelta(days=1)
        assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca

    @pytest.mark.parametrize("code", ["", "a" * 65, "a,O=Evil", "a\n"])
    def test_a_code_that_is_none_is_not_signed(self, ca_key: ec.EllipticCurvePrivateKey, code: str) -> None:
        root = make_root(ca_key)
        refusal(lambda: verification_certificate(root, ca_key, code, lambda: NOW), Fault.REGISTRATION_REFUSED)


@pytest.mark.parametrize("ca_type", [KeyType.P256, KeyType.P384, KeyType.RSA2048])
def test_the_same_holds_with_the_key_in_either_vendor_s_token(any_token: Token, ca_type: KeyType) -> None:
    key = any_token.key("device-ca", b"\x01")
    public = generate_key(key, any_token.pin, any_token.latch, ca_type)
    with Signers(key, any_token.pin, any_token.latch) as signers:
        private = token_key(public, signers)
        root = make_root(private, since=datetime.now(UTC) - timedelta(days=1))
        authority = CertificateAuthority(root, private)
        authority.prove()
        leaf, _ = authority.issue(csr(make_key(KeyType.P256)), "SN-1", product(), NUMBER)
        leaf.verify_directly_issued_by(root)
