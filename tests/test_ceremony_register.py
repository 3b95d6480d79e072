"""The act `register`: what AWS IoT and the network may have against it, with nothing half done; and its undo."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cloud import SimCloud, make_ca
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from desk import Desk, refusal

from station.aws import CaRegistry
from station.faults import Fault
from station.hsm.signers import generate_key
from station.hsm.uri import KeyUri
from station.ledger import ceremonies_on_record
from station.model import KeyType


def test_a_ca_certificate_of_another_key_is_not_registered(desk: Desk) -> None:
    desk.has_ca()
    other = KeyUri.parse(desk.uri("other"))
    generate_key(replace(other, id=b"\x09"), desk.token.pin, desk.token.latch, KeyType.P256)
    refusal(lambda: desk.perform("register", key=str(other)), Fault.CA_MISMATCH)
    assert not (desk.folder / "registration.json").exists()


def test_what_aws_has_against_it_is_told_and_the_act_goes_on_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("station.aws.calls._PATIENCE_S", 0.2)
    desk.has_ca()
    for trouble, fault in (
        ("UnauthorizedException", Fault.AWS_DENIED),
        ("ExpiredTokenException", Fault.AWS_DENIED),
        ("InternalFailureException", Fault.AWS_ERROR),
        ("LimitExceededException", Fault.CA_SUBJECT_FULL),
        ("RegistrationCodeValidationException", Fault.REGISTRATION_REFUSED),
        ("ThrottlingException", Fault.THROTTLED),
    ):
        desk.cloud.troubles(api={"RegisterCACertificate": trouble})
        assert trouble.removesuffix("Exception") in refusal(lambda: desk.perform("register"), fault)
        assert not (desk.folder / "registration.json").exists()
    desk.cloud.troubles()
    assert desk.perform("register")
    assert desk.described() == ("ACTIVE", "ENABLE")


def test_another_account_s_registration_code_is_refused_and_nothing_registered(desk: Desk) -> None:
    desk.has_ca()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaRegistry, "registration_code", lambda _: "5e" * 32)
        said = refusal(lambda: desk.perform("register"), Fault.REGISTRATION_REFUSED)
    assert "RegistrationCodeValidation" in said
    assert not (desk.folder / "registration.json").exists()
    assert desk.perform("register"), "with the right one"


def test_a_throttle_that_passes_is_waited_out(desk: Desk) -> None:
    desk.has_ca()
    desk.cloud.troubles(throttle={"*": 2})
    assert desk.perform("register")


def test_without_a_network_nothing_is_registered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("station.aws.calls._PATIENCE_S", 0.2)
    desk.has_ca()
    nobody = {"api_url": "http://127.0.0.1:9"}
    refusal(lambda: desk.perform("register", simulator=nobody), Fault.CLOUD_UNREACHABLE)


def test_another_account_or_region_is_told_before_anything_is_registered(desk: Desk) -> None:
    desk.has_ca()
    wrong = "a1b2c3d4e5f6g7-ats.iot.us-east-1.amazonaws.com"
    said = refusal(lambda: desk.perform("register", endpoint=wrong), Fault.WRONG_ACCOUNT)
    assert "nothing was registered" in said
    api = desk.cloud.boto()
    name = desk.ca().fingerprint(hashes.SHA256()).hex()
    with pytest.raises(api.exceptions.ResourceNotFoundException):
        api.describe_ca_certificate(certificateId=name)
    api.close()


def test_an_eleventh_ca_of_one_subject_is_refused_by_name(desk: Desk, cloud: SimCloud) -> None:
    desk.has_ca()
    api = cloud.boto()
    subject = desk.ca().subject
    for _ in range(10):
        twin = make_ca(subject=subject)
        api.register_ca_certificate(caCertificate=twin.pem, certificateMode="SNI_ONLY")
    refusal(lambda: desk.perform("register"), Fault.CA_SUBJECT_FULL)
    for one in api.list_ca_certificates(pageSize=250)["certificates"]:
        pem = api.describe_ca_certificate(certificateId=one["certificateId"])["certificateDescription"]
        if x509.load_pem_x509_certificate(pem["certificatePem"].encode()).subject == subject:
            api.delete_ca_certificate(certificateId=one["certificateId"])
    api.close()


def test_a_ca_without_ca_true_is_not_offered_to_aws(desk: Desk) -> None:
    bad = make_ca(constraints=x509.BasicConstraints(ca=False, path_length=None))
    (desk.folder / "ca.pem").write_text(bad.pem)
    refusal(lambda: desk.perform("register"), Fault.CA_NOT_CA)


def test_a_template_is_registered_with_it_and_looked_at_first(desk: Desk) -> None:
    desk.has_ca()
    body, role = desk.folder / "jitp.json", "arn:aws:iam::000000000000:role/JITP"
    template = {"body": "jitp.json", "role_arn": role}
    for wrong, says in (("{", "is no JSON"), ("[]", "should be an object with Resources")):
        body.write_text(wrong)
        assert says in refusal(lambda: desk.perform("register", template=template), Fault.CONFIG)
    body.write_text('{"Resources": {}}')
    assert desk.perform("register", template=template)
    api = desk.cloud.boto()
    found = api.describe_ca_certificate(certificateId=desk.registration()["ca_certificate_id"])
    assert found["registrationConfig"] == {"templateBody": '{"Resources": {}}', "roleArn": role}
    api.close()


def test_undone_aws_knows_nothing_and_the_file_may_be_performed_anew(desk: Desk) -> None:
    desk.perform("root")
    desk.perform("register")
    name = desk.registration()["ca_certificate_id"]
    desk.undo("register")
    api = desk.cloud.boto()
    with pytest.raises(api.exceptions.ResourceNotFoundException):
        api.describe_ca_certificate(certificateId=name)
    api.close()
    assert not (desk.folder / "registration.json").exists()
    assert "nothing to undo" in refusal(lambda: desk.undo("register"), Fault.CEREMONY)
    assert desk.perform("register")
    assert desk.described(name) == ("ACTIVE", "ENABLE")
    acts = [row.act for row in ceremonies_on_record(desk.folder / "state/ledger.sqlite", simulated=True)]
    assert acts == ["root", "register", "undo register", "register"]


@pytest.mark.parametrize("before", [("INACTIVE", "DISABLE"), ("ACTIVE", "DISABLE")])
def test_what_aws_knew_before_the_act_is_put_back_not_deleted(desk: Desk, before: tuple[str, str]) -> None:
    desk.has_ca()
    api = desk.cloud.boto()
    made = api.register_ca_certificate(
        caCertificate=(desk.folder / "ca.pem").read_text(),
        certificateMode="SNI_ONLY",
        setAsActive=before[0] == "ACTIVE",
    )
    api.close()
    desk.perform("register", mode="SNI_ONLY", tags={"line": "1"})
    assert desk.described() == ("ACTIVE", "ENABLE")
    desk.undo("register")
    assert desk.described(made["certificateId"]) == before
    assert "tags and template of this act stay" in "".join(desk.said)


def test_an_act_that_made_a_key_is_not_undone(desk: Desk) -> None:
    desk.perform("root")
    assert "that is what is undone" in refusal(lambda: desk.undo("root"), Fault.CEREMONY)
