"""The key's URI, the PIN's place, and the latch: names and files, no token."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from station.faults import Fault, FaultError
from station.hsm.pin import PinLatch, PinSource
from station.hsm.uri import KeyUri

MODULE = "?module-path=/usr/lib/x.so"
PRINTABLE = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable() and len(text.encode()) <= 255)


@given(
    st.builds(
        KeyUri,
        token=PRINTABLE,
        module_path=st.just("/usr/lib/a b;?&.so"),
        object=st.none() | PRINTABLE,
        id=st.binary(min_size=1, max_size=40),
        serial=st.none() | PRINTABLE,
        manufacturer=st.none() | PRINTABLE,
        model=st.none() | PRINTABLE,
    )
)
def test_every_key_uri_is_read_back_as_it_was_written(uri: KeyUri) -> None:
    assert KeyUri.parse(str(uri)) == uri


def test_the_attributes_of_rfc_7512_are_understood() -> None:
    uri = KeyUri.parse("pkcs11:token=My%20Token;id=%01a%ff;type=private;serial=77" + MODULE)
    assert (uri.token, uri.id, uri.serial, uri.object) == ("My Token", b"\x01a\xff", "77", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("token=a;object=b" + MODULE, "begins with pkcs11:"),
        ("pkcs11:object=b" + MODULE, "names the token"),
        ("pkcs11:token=a" + MODULE, "names the key in the token"),
        ("pkcs11:token=a;object=b", "says where the module is"),
        ("pkcs11:token=a;object=b?module-path=lib.so", "says where the module is"),
        ("pkcs11:token=a;object=b;type=public" + MODULE, "names a private key"),
        ("pkcs11:token=a;token=c;object=b" + MODULE, "says token twice"),
        ("pkcs11:token=a;object=b;colour=red" + MODULE, "'colour', which is none of"),
        ("pkcs11:token=a;object=b" + MODULE + "&pin-value=1234", "must not stand in the URI"),
        ("pkcs11:token=a;object=b" + MODULE + "&pin-source=/x", "must not stand in the URI"),
        ("pkcs11:token=a b;object=b" + MODULE, "to be written as %XX"),
        ("pkcs11:token=a%2;object=b" + MODULE, "to be written as %XX"),
        ("pkcs11:token=%ff;object=b" + MODULE, "is not UTF-8"),
        ("pkcs11:token=%0a;object=b" + MODULE, "control character"),
        ("pkcs11:token=;object=b" + MODULE, "is empty or longer"),
        ("pkcs11:token=" + "a" * 256 + ";object=b" + MODULE, "is empty or longer"),
        ("pkcs11:token;object=b" + MODULE, "'token', which is none of"),
    ],
)
def test_a_uri_that_names_no_one_key_is_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="URI") as error:
        KeyUri.parse(text)
    assert says in str(error.value)


@given(st.text(max_size=100))
def test_no_text_at_all_makes_the_parser_fall_over(text: str) -> None:
    for candidate in (text, f"pkcs11:{text}", f"pkcs11:token=a;object=b{MODULE}&{text}"):
        try:
            uri = KeyUri.parse(candidate)
            assert KeyUri.parse(str(uri)) == uri
        except ValueError:
            continue


def pin_file(folder: Path, content: bytes, mode: int = 0o600) -> PinSource:
    path = folder / "pin"
    path.write_bytes(content)
    path.chmod(mode)
    return PinSource(file=path)


@pytest.mark.parametrize("content", [b"1234", b"1234\n"])
def test_the_pin_is_the_file_s_one_line(tmp_path: Path, content: bytes) -> None:
    assert pin_file(tmp_path, content).read() == "1234"


@pytest.mark.parametrize("content", [b"", b"\n", b"12\n34\n", b"\xff\xfe", b"a" * 257, b"\0"])
def test_a_file_that_does_not_hold_a_pin_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FaultError) as error:
        pin_file(tmp_path, content).read()
    assert error.value.fault is Fault.CONFIG
    assert "1" * 2 not in error.value.detail.replace(str(tmp_path), "")
    assert error.value.__cause__ is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_pin_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(FaultError, match="others may read the PIN"):
        pin_file(tmp_path, b"1234", mode).read()


def test_a_pin_that_is_not_there_or_no_plain_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, Path("/dev/null")):
        with pytest.raises(FaultError) as error:
            PinSource(file=path).read()
        assert error.value.fault is Fault.CONFIG
        assert str(path) in error.value.detail


def test_a_credential_is_read_from_systemd_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FaultError, match="needs systemd"):
        PinSource(credential="hsm-pin").read()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "hsm-pin").write_text("4711\n")
    (tmp_path / "hsm-pin").chmod(0o440)
    assert PinSource(credential="hsm-pin").read() == "4711"


def test_a_latch_stands_until_a_person_clears_it_and_for_every_key_of_the_token(tmp_path: Path) -> None:
    key = KeyUri("demo", "/usr/lib/x.so", "device-ca")
    PinLatch(tmp_path / "latch", key).check()
    PinLatch(tmp_path / "latch", key).set("PinIncorrect")
    for same_token in (key, replace(key, object="other")):
        with pytest.raises(FaultError) as error:
            PinLatch(tmp_path / "latch", same_token).check()
        assert error.value.fault is Fault.HSM_PIN
        assert "station hsm clear-pin" in error.value.detail
    PinLatch(tmp_path / "latch", replace(key, token="other")).check()
    PinLatch(tmp_path / "latch", key).clear()
    PinLatch(tmp_path / "latch", key).check()
    assert list((tmp_path / "latch").iterdir()) == []


def test_a_latch_is_set_on_a_disk_that_took_its_file_before_the_login_and_nothing_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latch = PinLatch(tmp_path / "latch", KeyUri("demo", "/usr/lib/x.so", "device-ca"))
    with latch.armed():
        latch.check()
        monkeypatch.setattr(Path, "write_text", full_disk)
        monkeypatch.setattr(os, "write", full_disk)
        latch.set("PinIncorrect")
    with pytest.raises(FaultError, match="the last PIN was wrong"):
        latch.check()


def test_a_login_that_went_well_leaves_no_latch_and_no_file(tmp_path: Path) -> None:
    latch = PinLatch(tmp_path / "latch", KeyUri("demo", "/usr/lib/x.so", "device-ca"))
    with latch.armed():
        assert list((tmp_path / "latch").iterdir())
    latch.check()
    assert list((tmp_path / "latch").iterdir()) == []


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
