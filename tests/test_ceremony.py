"""The two acts: complete, never overwriting, and going on from wherever the power went."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cloud import SimCloud
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from tokens import PIN, Token

from station import ceremony
from station.ca import load_ca_certificate
from station.config import RegisterAct, RootAct, load_ceremony
from station.faults import Fault, FaultError
from station.hsm import signers
from station.hsm.uri import KeyUri
from station.model import KeyType


@pytest.fixture(autouse=True)
def _aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


class Provider:
    """The provider's folder: act files, and what they say."""

    def __init__(self, folder: Path, token: Token, cloud: SimCloud) -> None:
        self.folder, self.token, self.cloud = folder, token, cloud
        self.key = KeyUri(token.label, token.module, "device-ca")
        self.said: list[str] = []

    def write(self, name: str, act: dict[str, Any]) -> Path:
        file = self.folder / f"{name}.yaml"
        common = {"act": name, "rehearsal": True, "key": str(self.key), "pin": {"file": str(self.token.pin.file)}}
        file.write_text(json.dumps({**common, "state": "state", **act}))
        return file

    def root(self, **changes: Any) -> x509.Certificate:
        act = {
            "key_type": "p256",
            "subject": {"common_name": "Test CA REHEARSAL", "organization": "Example"},
            "validity_days": 100,
            "outputs": {"certificate": "ca.pem"},
        }
        file = self.write("root", {**act, **changes})
        loaded = load_ceremony(file)
        assert isinstance(loaded, RootAct)
        assert ceremony.plan(loaded)[0].startswith("REHEARSAL of the act root")
        ceremony.perform(loaded, file, self.said.append)
        return load_ca_certificate(self.folder / "ca.pem")

    def register(self, **changes: Any) -> dict[str, Any]:
        act = {
            "certificate": "ca.pem",
            "region": self.cloud.said["region"],
            "simulator": {"api_url": self.cloud.said["api_url"]},
            "outputs": {"registration": "registration.json"},
        }
        file = self.write("register", {**act, **changes})
        loaded = load_ceremony(file)
        assert isinstance(loaded, RegisterAct)
        ceremony.perform(loaded, file, self.said.append)
        result: dict[str, Any] = json.loads((self.folder / "registration.json").read_text())
        return result

    def public_key(self) -> Any:
        return signers.find_public_key(self.key, self.token.pin, self.token.latch)


@pytest.fixture
def provider(tmp_path: Path, softhsm: Token, cloud: SimCloud) -> Provider:
    (tmp_path / "provider").mkdir()
    return Provider(tmp_path / "provider", softhsm, cloud)


def refusal(call: Any, fault: Fault) -> str:
    with pytest.raises(FaultError) as error:
        call()
    assert error.value.fault is fault, error.value
    return error.value.detail


@pytest.mark.parametrize("key_type", ["p256", "p384", "rsa2048"])
def test_root_and_register_make_a_ca_that_aws_iot_takes_units_from(provider: Provider, key_type: str) -> None:
    root = provider.root(key_type=key_type)
    assert KeyType.of(root.public_key()) is KeyType(key_type)
    assert root.public_key() == provider.public_key()
    result = provider.register()
    assert result["ca_certificate_id"] == root.fingerprint(hashes.SHA256()).hex()
    assert (result["endpoint"], result["rehearsal"]) == (provider.cloud.said["endpoint"], True)
    api = provider.cloud.boto()
    found = api.describe_ca_certificate(certificateId=result["ca_certificate_id"])["certificateDescription"]
    assert (found["status"], found["autoRegistrationStatus"]) == ("ACTIVE", "ENABLE")
    api.close()


def test_an_act_that_is_complete_is_repeated_without_effect(provider: Provider) -> None:
    first = provider.root()
    provider.register()
    before = (provider.folder / "registration.json").read_bytes()
    assert provider.root() == first
    provider.register()
    assert (provider.folder / "registration.json").read_bytes() == before
    assert [line for line in provider.said if line.startswith("this act is complete")] != []


def test_an_output_that_exists_is_never_overwritten(provider: Provider) -> None:
    (provider.folder / "ca.pem").write_text("somebody's")
    assert "never overwrites" in refusal(provider.root, Fault.CEREMONY)
    assert (provider.folder / "ca.pem").read_text() == "somebody's"
    assert provider.public_key() is None


def test_a_key_of_this_name_that_is_not_ours_is_never_used(provider: Provider) -> None:
    other = replace(provider.key, id=b"\x77")
    signers.generate_key(other, provider.token.pin, provider.token.latch, KeyType.P256)
    assert "holds a key of this name already" in refusal(provider.root, Fault.CEREMONY)
    assert not (provider.folder / "ca.pem").exists()


class PowerCut(BaseException):
    """The power goes."""


@pytest.mark.parametrize(
    ("place", "after"),
    [
        ("find_public_key", False),
        ("find_public_key", True),
        ("generate_key", False),
        ("generate_key", True),
        ("self_signed_root", False),
        ("self_signed_root", True),
    ],
)
def test_a_root_that_was_cut_goes_on_with_the_same_key(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, place: str, after: bool
) -> None:
    real = getattr(ceremony, place)

    def cut(*arguments: Any, **named: Any) -> Any:
        if after:
            real(*arguments, **named)
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(ceremony, place, cut)
        with pytest.raises(PowerCut):
            provider.root()
    left = provider.public_key()
    root = provider.root()
    assert root.public_key() == provider.public_key()
    if left is not None:
        assert root.public_key() == left


@pytest.mark.parametrize("cut_at", range(1, 9))
def test_a_cut_at_any_write_leaves_nothing_half_done(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, cut_at: int
) -> None:
    real, writes = ceremony._write_whole, 0

    def cut(path: Path, content: bytes, mode: int) -> None:
        nonlocal writes
        writes += 1
        if writes == cut_at:
            path.with_name(f".{path.name}.new").write_bytes(content[: len(content) // 2])
            raise PowerCut
        real(path, content, mode)

    with monkeypatch.context() as patch:
        patch.setattr(ceremony, "_write_whole", cut)
        try:
            provider.root()
            provider.register()
        except PowerCut:
            pass
        else:
            assert writes < cut_at
    root = provider.root()
    assert root.public_key() == provider.public_key()
    assert provider.register()["ca_certificate_id"] == root.fingerprint(hashes.SHA256()).hex()


def test_another_version_of_the_file_does_not_go_on_with_a_begun_act(provider: Provider) -> None:
    provider.root()
    assert "another version of this file" in refusal(lambda: provider.root(validity_days=99), Fault.CEREMONY)


def test_a_journal_that_is_damaged_is_told(provider: Provider) -> None:
    provider.root()
    (journal,) = (provider.folder / "state").glob("ceremony-root-*.json")
    journal.write_text("{half")
    assert "is damaged" in refusal(provider.root, Fault.CEREMONY)


def test_a_ca_certificate_of_another_key_is_not_registered(provider: Provider) -> None:
    provider.root()
    other = replace(provider.key, object="other")
    signers.generate_key(replace(other, id=b"\x09"), provider.token.pin, provider.token.latch, KeyType.P256)
    refusal(lambda: provider.register(key=str(other)), Fault.CA_MISMATCH)
    assert not (provider.folder / "registration.json").exists()


@pytest.mark.parametrize(
    ("trouble", "fault"),
    [
        ("UnauthorizedException", Fault.AWS_DENIED),
        ("ExpiredTokenException", Fault.AWS_DENIED),
        ("InternalFailureException", Fault.AWS_ERROR),
    ],
)
def test_what_aws_has_against_it_is_told_and_the_act_goes_on_later(
    provider: Provider, trouble: str, fault: Fault
) -> None:
    provider.root()
    provider.cloud.troubles(api={"RegisterCACertificate": trouble})
    refusal(provider.register, fault)
    assert not (provider.folder / "registration.json").exists()
    provider.cloud.troubles()
    assert provider.register()["ca_certificate_id"]


def test_a_state_folder_that_cannot_be_written_is_told(provider: Provider) -> None:
    (provider.folder / "state").write_text("a file")
    refusal(provider.root, Fault.CEREMONY)


def test_the_pin_is_in_nothing_that_an_act_leaves(provider: Provider) -> None:
    provider.root()
    provider.register()
    for file in provider.folder.rglob("*"):
        if file.is_file():
            assert PIN.encode() not in file.read_bytes(), file
    assert PIN not in "".join(provider.said)
