"""Values that cannot be wrong: what a board or a file says is checked where the value is made."""

from __future__ import annotations

import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from station.credentials import Enrollment
from station.faults import Blame, Fault, FaultError, printable
from station.model import (
    KeyOrigin,
    KeyType,
    OrderKind,
    Outcome,
    Product,
    Profile,
    Run,
    Unit,
    WorkOrder,
    key_id,
    serial_text,
)

PRODUCT = Product("p", "console", "m", KeyType.P256, KeyOrigin.BOARD, Profile(365, 60))
ORDER = WorkOrder("WO-1", "p", OrderKind.PRODUCTION, 3)


@pytest.mark.parametrize(
    "serial",
    ["", "../x", "a/b", "a b", "a\nb", "<script>", "x" * 65, "-a", ".", "a.b", "é", "a\0", "+", "#", "$x", "١٢"],
)
def test_a_serial_that_could_harm_a_path_a_topic_or_a_page_is_refused(serial: str) -> None:
    with pytest.raises(FaultError) as error:
        Unit(serial, "chip", "m", "1.0")
    assert error.value.fault is Fault.UNIT_IDENTITY
    assert error.value.detail.isprintable()


@pytest.mark.parametrize("where", range(1, 4))
def test_the_other_names_of_a_unit_are_checked_too(where: int) -> None:
    names = ["SN-1", "chip", "m", "1.0"]
    names[where] = "a b"
    with pytest.raises(FaultError) as error:
        Unit(*names)
    assert error.value.fault is Fault.UNIT_IDENTITY


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("../1", "p", OrderKind.PRODUCTION, 1), "order number"),
        (("1", "p", OrderKind.PRODUCTION, 0), "quantity"),
        (("1", "p", OrderKind.PRODUCTION, 1, ("a",)), "neither serials"),
        (("1", "p", OrderKind.GOLDEN, 1), "names the serial"),
        (("1", "p", OrderKind.GOLDEN, 2, ("a",)), "names the serial"),
        (("1", "p", OrderKind.GOLDEN, 1, ("a/b",)), "serial"),
        (("1", "p", OrderKind.REWORK, 1, ("a",), "  "), "needs a reason"),
    ],
)
def test_an_order_that_nobody_could_work_by_is_refused(values: tuple[object, ...], says: str) -> None:
    with pytest.raises(FaultError) as error:
        WorkOrder(*values)  # type: ignore[arg-type] # the rows above are of one shape
    assert error.value.fault is Fault.ORDER_INVALID
    assert says in error.value.detail


def test_a_fail_is_the_unit_s_and_nothing_else_is() -> None:
    for fault in Fault:
        assert (Outcome.of(fault) is Outcome.FAIL) == (fault.blame is Blame.UNIT), fault
    assert {fault for fault in Fault if Outcome.of(fault) is Outcome.ABORTED} == {
        Fault.LIFTED,
        Fault.SWAPPED,
        Fault.STOPPED,
        Fault.THERE_AT_START,
    }


def test_no_code_is_used_twice() -> None:
    codes = [fault.code for fault in Fault.__members__.values()]
    assert len(set(codes)) == len(codes)


def test_a_run_without_a_fault_is_a_pass_and_with_one_is_not() -> None:
    assert Run("1", "op", ORDER, PRODUCT).outcome is Outcome.PASS
    run = Run("1", "op", ORDER, PRODUCT, fault=FaultError(Fault.HSM_DOWN))
    assert run.outcome is Outcome.ERROR
    with pytest.raises(FaultError) as error:
        run.known_unit()
    assert error.value.fault is Fault.UNEXPECTED


@given(st.text(max_size=2000))
def test_a_detail_is_printable_ascii_of_bounded_length_whatever_it_quotes(text: str) -> None:
    error = FaultError(Fault.UNIT_GARBLED, text)
    assert error.detail.isascii()
    assert error.detail.isprintable()
    assert len(error.detail) <= 400
    assert printable(text, 20) == printable(text, 20)


def test_a_fault_survives_the_pipe_to_a_child() -> None:
    again = pickle.loads(pickle.dumps(FaultError(Fault.HSM_PIN, "latched")))  # noqa: S301 - made a line above
    assert (again.fault, again.detail) == (Fault.HSM_PIN, "latched")


def test_a_private_key_is_in_no_repr() -> None:
    assert "key" not in repr(Enrollment(b"csr", ec.generate_private_key(ec.SECP256R1())))


def test_key_types_are_those_that_aws_iot_takes() -> None:
    assert KeyType.of(ec.generate_private_key(ec.SECP384R1())) is KeyType.P384
    assert KeyType.of(ec.generate_private_key(ec.SECP521R1())) is None
    assert KeyType.of(rsa.generate_private_key(65537, 2048).public_key()) is KeyType.RSA2048
    assert KeyType.of(ed25519.Ed25519PrivateKey.generate()) is None


def test_the_profile_s_hash_changes_with_each_of_its_fields() -> None:
    profiles = [Profile(1, 2), Profile(2, 2), Profile(1, 3), Profile(1, 2, "o"), Profile(1, 2, None, "o")]
    assert len({profile.hash for profile in profiles}) == len(profiles)
    assert Profile(1, 2).hash == Profile(1, 2).hash


def test_a_key_has_one_name_and_a_number_no_leading_zero() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert key_id(key) == key_id(key)
    assert len(key_id(key)) == 64
    assert serial_text(0x0ABC) == "abc"
