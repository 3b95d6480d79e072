"""The simulated AWS IoT does what it is ordered to do wrong, and nothing else."""

from __future__ import annotations

import socket
import ssl
import time
import urllib.error
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from cloud import ProviderCA, SimCloud, activate, device, state
from mqtt_stranger import connection, meet, mosquitto_pub

CODES = {
    "InvalidRequestException": 400,
    "LimitExceededException": 410,
    "ThrottlingException": 429,
    "UnauthorizedException": 401,
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "UnrecognizedClientException": 403,
    "ResourceNotFoundException": 404,
    "InternalFailureException": 500,
    "ServiceUnavailableException": 503,
}
BEFORE_CONNECT = {
    "close": "handshake: gone",
    "reset": "handshake: reset",
    "silent": "handshake: silent",
    "alert-in-handshake": "handshake: TLSV1_ALERT_UNKNOWN_CA",
    "other-root": "handshake: CERTIFICATE_VERIFY_FAILED",
}
AFTER_HANDSHAKE = {
    "alert-after-handshake": "connect: TLSV1_ALERT_UNKNOWN_CA",
    "close-after-handshake": "connect: closed",
    "silent-after-handshake": "connect: silent",
    "connack-5": "refused",
    "connack-then-close": "publish: closed",
    "connack-no-puback": "publish: silent",
}
REGISTERED = {
    "registered-reset": "connect: cut",
    "registered-connack-5": "refused",
    "registered-silent": "connect: silent",
}


@pytest.mark.parametrize("order", [*BEFORE_CONNECT.items(), *AFTER_HANDSHAKE.items()], ids=" - ".join)
def test_an_ending_is_what_the_client_sees_and_registers_nothing(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path, order: tuple[str, str]
) -> None:
    ending, seen = order
    for port, alpn in ((cloud.mqtt_port, None), (cloud.alpn_port, "x-amzn-mqtt-ca")):
        unit = device(ca, tmp_path)
        cloud.troubles(endings=[ending])
        met = meet(cloud, unit, port=port, alpn=alpn, timeout_s=1.0)
        # Closed before its hello was sent, while it was, or after: the client's TLS has three names for it.
        assert met == seen or (
            seen == "handshake: gone" and met.removeprefix("handshake: ") in {"cut", "closed", "reset"}
        )
        assert state(api, unit) is None
        assert meet(cloud, unit, port=port, alpn=alpn) == "connect: closed"
        assert state(api, unit) == "PENDING_ACTIVATION"


@pytest.mark.parametrize("order", REGISTERED.items(), ids=" - ".join)
def test_a_registered_ending_registers_all_the_same(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path, order: tuple[str, str]
) -> None:
    ending, seen = order
    unit = device(ca, tmp_path)
    cloud.troubles(endings=[ending])
    assert meet(cloud, unit, timeout_s=1.5) == seen
    assert state(api, unit) == "PENDING_ACTIVATION"


@pytest.mark.parametrize("ending", sorted({*BEFORE_CONNECT, *AFTER_HANDSHAKE, *REGISTERED} - {"silent"}))
def test_no_ending_lets_a_device_that_would_be_served_publish(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path, ending: str
) -> None:
    unit = device(ca, tmp_path)
    meet(cloud, unit)
    activate(api, unit)
    cloud.troubles(endings_always=ending)
    assert meet(cloud, unit, timeout_s=0.3) != "acknowledged"
    cloud.troubles()
    assert meet(cloud, unit) == "acknowledged"


def test_a_long_client_id_is_one_packet_too(cloud: SimCloud, ca: ProviderCA, tmp_path: Path) -> None:
    cloud.troubles(endings=["connack-then-close"])
    assert meet(cloud, device(ca, tmp_path), client_id="x" * 200) == "publish: closed"


@pytest.mark.parametrize("ending", ["alert-after-handshake", "close-after-handshake", "registered-connack-5"])
def test_mosquitto_takes_each_for_a_failure(cloud: SimCloud, ca: ProviderCA, tmp_path: Path, ending: str) -> None:
    cloud.troubles(endings=[ending])
    assert mosquitto_pub(cloud, device(ca, tmp_path)) != 0


def test_endings_are_used_up_one_a_connection_and_then_the_standing_one_holds(
    cloud: SimCloud, ca: ProviderCA, tmp_path: Path
) -> None:
    unit = device(ca, tmp_path)
    cloud.troubles(endings=["connack-5", "pass"], endings_always="reset")
    assert [meet(cloud, unit) for _ in range(4)] == ["refused", "connect: closed", *["handshake: reset"] * 2]
    cloud.troubles()
    assert meet(cloud, unit) == "connect: closed"


def test_a_delay_holds_the_handshake_back(cloud: SimCloud, ca: ProviderCA, tmp_path: Path) -> None:
    cloud.troubles(delay_ms=400)
    assert meet(cloud, device(ca, tmp_path), timeout_s=0.1) == "handshake: silent"
    assert meet(cloud, device(ca, tmp_path), timeout_s=5) == "connect: closed"


def test_tls_1_3_can_be_taken_away(cloud: SimCloud, ca: ProviderCA, tmp_path: Path) -> None:
    unit = device(ca, tmp_path)
    cloud.troubles(tls_1_2=True)
    with connection(cloud, unit) as tls:
        assert tls.version() == "TLSv1.2"
    cloud.troubles(tls_1_2=True, endings=["alert-after-handshake"])
    assert meet(cloud, unit) == "handshake: TLSV1_ALERT_UNKNOWN_CA"


def test_the_untrusted_server_has_the_right_name_under_another_root(cloud: SimCloud, tmp_path: Path) -> None:
    cloud.troubles(endings_always="other-root")
    context = ssl.create_default_context(cafile=str(cloud.folder / "other-roots.pem"))
    with (
        socket.create_connection(("127.0.0.1", cloud.mqtt_port), 5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        assert tls.version() == "TLSv1.3"


def test_a_registration_can_stay_unseen_for_a_while(cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path) -> None:
    unit = device(ca, tmp_path)
    cloud.troubles(pending_delay_s=0.5)
    began = time.monotonic()
    meet(cloud, unit)
    while state(api, unit) is None:
        assert time.monotonic() - began < 5
    assert time.monotonic() - began > 0.5
    assert state(api, unit) == "PENDING_ACTIVATION"


def test_a_registration_during_the_delay_is_there_when_somebody_registers_it_again(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path
) -> None:
    unit = device(ca, tmp_path)
    cloud.troubles(pending_delay_s=60)
    meet(cloud, unit)
    assert state(api, unit) is None
    with pytest.raises(api.exceptions.ResourceAlreadyExistsException, match=unit.id):
        api.register_certificate(certificatePem=unit.alone.read_text(), caCertificatePem=ca.pem, status="INACTIVE")


def test_calls_beyond_the_throttle_are_refused_and_a_second_later_taken(
    cloud: SimCloud, api: Any, ca: ProviderCA, tmp_path: Path
) -> None:
    unit = device(ca, tmp_path)
    cloud.troubles(throttle={"DescribeCertificate": 3})
    began = time.monotonic()
    assert [answered(api.describe_certificate, certificateId=unit.id) for _ in range(5)] == [
        *["ResourceNotFoundException"] * 3,
        *["ThrottlingException"] * 2,
    ]
    assert answered(api.get_registration_code) == ""
    while answered(api.describe_certificate, certificateId=unit.id) == "ThrottlingException":
        assert time.monotonic() - began < 5
    assert time.monotonic() - began > 0.9


def test_one_throttle_can_hold_for_all_operations_together(cloud: SimCloud, api: Any) -> None:
    cloud.troubles(throttle={"*": 2})
    calls = [api.get_registration_code, api.list_certificates, api.list_things, api.list_policies]
    assert [answered(call) for call in calls] == ["", "", "ThrottlingException", "ThrottlingException"]


@pytest.mark.parametrize("operation", ["GetRegistrationCode", "*"])
@pytest.mark.parametrize("error", CODES)
def test_an_ordered_api_error_reaches_botocore_by_its_name_and_status(
    cloud: SimCloud, api: Any, error: str, operation: str
) -> None:
    cloud.troubles(api={operation: error})
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        api.get_registration_code()
    assert raised.value.response["Error"]["Code"] == error
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == CODES[error]
    assert answered(api.describe_endpoint) == ("" if operation != "*" else error)


def test_the_api_can_hang(cloud: SimCloud) -> None:
    cloud.troubles(api={"GetRegistrationCode": "hang"})
    api = cloud.boto(read_timeout=0.3)
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        api.get_registration_code()
    api.close()


def test_the_api_can_hang_up_in_the_middle_of_an_answer(cloud: SimCloud, api: Any) -> None:
    cloud.troubles(api={"*": "close"})
    with pytest.raises(botocore.exceptions.HTTPClientError):
        api.get_registration_code()
    cloud.troubles()
    assert len(api.get_registration_code()["registrationCode"]) == 64


@pytest.mark.parametrize(
    "orders",
    [
        {"ending": ["close"]},
        {"endings": ["clsoe"]},
        {"endings": 1},
        {"endings_always": ""},
        {"delay_ms": "long"},
        {"throttle": ["*"]},
        {"throttle": {"*": "few"}},
        {"api": {"*": "NoSuchException"}},
    ],
)
def test_what_is_no_order_is_refused_and_changes_nothing(cloud: SimCloud, orders: dict[str, Any]) -> None:
    cloud.troubles(endings_always="reset", api={"DescribeCertificate": "hang"})
    before = cloud.control("troubles")
    with pytest.raises(urllib.error.HTTPError) as error:
        cloud.troubles(**orders)
    assert error.value.code == 400
    error.value.close()
    assert cloud.control("troubles") == before


def test_the_orders_at_work_can_be_read_and_are_replaced_whole(cloud: SimCloud) -> None:
    calm = cloud.control("troubles")
    cloud.troubles(endings=["close"], delay_ms=5, throttle={"*": 9})
    assert cloud.control("troubles") == calm | {"endings": ["close"], "delay_ms": 5, "throttle": {"*": 9}}
    cloud.troubles(tls_1_2=True)
    assert cloud.control("troubles") == calm | {"tls_1_2": True}
    cloud.troubles()
    assert cloud.control("troubles") == calm


def test_calls_are_counted_by_operation(cloud: SimCloud, api: Any) -> None:
    before = cloud.control("counts")
    for _ in range(3):
        api.get_registration_code()
    assert cloud.control("counts")["GetRegistrationCode"] - before.get("GetRegistrationCode", 0) == 3


def answered(call: Any, **arguments: Any) -> str:
    """The code of the error, or nothing."""
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""
