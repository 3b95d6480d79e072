"""CAs in the registry: registered in both modes, mended, refused with a sentence each, taken out of service."""

from __future__ import annotations

from typing import Any

import pytest
from aws_units import CREDENTIALS, raises
from cloud import SimCloud, activate, device, make_ca, register, verification
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from station.aws import CaRegistry
from station.faults import Fault


@pytest.fixture
def registry(cloud: SimCloud, monkeypatch: pytest.MonkeyPatch) -> CaRegistry:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return CaRegistry(cloud.said["region"], api_url=cloud.said["api_url"])


def test_a_ca_is_registered_active_with_auto_registration_and_again(registry: CaRegistry) -> None:
    ca = make_ca()
    proof = verification(ca, registry.registration_code())
    found = registry.register_ca(ca.pem, proof)
    assert (found.status, found.auto_registration, found.mode) == ("ACTIVE", "ENABLE", "DEFAULT")
    assert registry.register_ca(ca.pem, proof) == found


def test_mode_sni_only_takes_no_proof_and_keeps_tags_and_template(registry: CaRegistry, api: Any) -> None:
    ca = make_ca()
    template = ('{"Resources": {}}', "arn:aws:iam::000000000000:role/JITP")
    found = registry.register_ca(ca.pem, None, {"line": "1"}, template)
    assert found.mode == "SNI_ONLY"
    assert api.list_tags_for_resource(resourceArn=found.arn)["tags"] == [{"Key": "line", "Value": "1"}]
    assert api.describe_ca_certificate(certificateId=found.id)["registrationConfig"]["templateBody"] == template[0]


def test_a_ca_that_was_registered_by_the_old_recipe_is_mended(registry: CaRegistry, api: Any) -> None:
    ca = register(api, make_ca(), active=False, auto=False)
    proof = verification(ca, registry.registration_code())
    template = ('{"Resources": {}}', "arn:aws:iam::000000000000:role/JITP")
    found = registry.register_ca(ca.pem, proof, {"line": "2"}, template)
    assert (found.id, found.status, found.auto_registration) == (ca.id, "ACTIVE", "ENABLE")
    assert api.list_tags_for_resource(resourceArn=found.arn)["tags"] == [{"Key": "line", "Value": "2"}]
    assert api.describe_ca_certificate(certificateId=ca.id)["registrationConfig"]["roleArn"] == template[1]


def test_a_ca_of_the_other_mode_is_not_taken_for_this_one(registry: CaRegistry, api: Any) -> None:
    ca = register(api, make_ca())
    with raises(Fault.REGISTRATION_REFUSED, "a CA has one mode"):
        registry.register_ca(ca.pem, None)


def test_a_ca_without_basic_constraints_ca_true_is_named(registry: CaRegistry) -> None:
    ca = make_ca(constraints=x509.BasicConstraints(ca=False, path_length=None))
    with raises(Fault.CA_NOT_CA, "CA certificate is not valid"):
        registry.register_ca(ca.pem, verification(ca, registry.registration_code()))


@pytest.mark.parametrize("wrong", ["code", "key"])
def test_a_proof_of_possession_that_is_none_is_refused(registry: CaRegistry, wrong: str) -> None:
    ca, code = make_ca(), registry.registration_code()
    proof = verification(ca, "0" * 64) if wrong == "code" else verification(make_ca(), code)
    with raises(Fault.REGISTRATION_REFUSED, "RegisterCACertificate"):
        registry.register_ca(ca.pem, proof)


def test_a_ca_goes_out_of_service_and_is_deleted_and_its_units_are_told(
    registry: CaRegistry, cloud: SimCloud, api: Any, tmp_path: Any
) -> None:
    ca = register(api, make_ca())
    unit = device(ca, tmp_path)
    api.register_certificate(certificatePem=unit.leaf.public_bytes(Encoding.PEM).decode(), caCertificatePem=ca.pem)
    activate(api, unit)
    assert list(registry.certificates_of(ca.id)) == [[unit.id]]
    registry.switch_ca(ca.id, on=False)
    found = registry.describe_ca(ca.id)
    assert found is not None
    assert (found.status, found.auto_registration) == ("INACTIVE", "DISABLE")
    registry.delete_ca(ca.id)
    registry.delete_ca(ca.id)
    assert registry.describe_ca(ca.id) is None
    with raises(Fault.CA_UNKNOWN_HERE):
        registry.switch_ca(ca.id, on=True)
    assert api.describe_certificate(certificateId=unit.id)["certificateDescription"]["status"] == "ACTIVE"


def test_a_ca_with_more_units_than_a_page_is_read_to_its_end(registry: CaRegistry, monkeypatch: Any) -> None:
    pages = {"": (["a", "b"], "m1"), "m1": (["c"], "m2"), "m2": (["d"], None)}

    def answer(operation: str, **asked: Any) -> dict[str, Any]:
        ids, following = pages[asked.get("marker", "")]
        return {"certificates": [{"certificateId": one} for one in ids], "nextMarker": following}

    monkeypatch.setattr(registry, "_calls", answer)
    assert list(registry.certificates_of("0" * 64)) == [["a", "b"], ["c"], ["d"]]
