"""A product that its boards cannot hold is found out before a board is touched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from test_ca import NUMBER, make_key, make_root, product
from whole_line import MakeStation

from station.boards import families, family
from station.boards.enrollment import enroll_here
from station.ca import CertificateAuthority
from station.config.loader import read
from station.config.products import product_of
from station.credentials import Credentials, chosen_roots, longest_key
from station.family import Limits
from station.faults import Fault
from station.fit import misfits
from station.model import ChainForm, FirstContact, Image, KeyOrigin, KeyType, Product
from station.sim.line import LineError, command

ROOMY = Limits(frozenset(ChainForm), frozenset(KeyType), frozenset(KeyType), dials=True)


def authority(key_type: KeyType) -> CertificateAuthority:
    key = make_key(key_type)
    return CertificateAuthority(make_root(key, since=datetime.now(UTC) - timedelta(days=1)), key)


def found(made: Product, limits: Limits) -> list[str]:
    return list(misfits(made, limits, authority(KeyType.P256).largest(made)))


@pytest.mark.parametrize("unit", [KeyType.P256, KeyType.RSA2048])
@pytest.mark.parametrize("ca", [KeyType.P256, KeyType.P384, KeyType.RSA2048])
def test_no_certificate_is_longer_than_the_longest(ca: KeyType, unit: KeyType) -> None:
    issuer, made = authority(ca), product(unit)
    longest = issuer.largest(made)[0].public_bytes(Encoding.DER)
    subject = "S" * 64
    for _ in range(8):
        leaf = issuer.issue(enroll_here(subject, unit).csr, subject, made, NUMBER)[0].public_bytes(Encoding.DER)
        assert len(longest) - 12 <= len(leaf) <= len(longest)


@pytest.mark.parametrize("kind", [KeyType.P256, KeyType.P384, KeyType.RSA2048])
@pytest.mark.parametrize("der", [True, False])
def test_no_key_is_longer_than_the_longest(kind: KeyType, *, der: bool) -> None:
    lengths = [len(Credentials((), b"", make_key(kind), ChainForm.LEAF).key_text(der=der)) for _ in range(4)]
    assert longest_key(kind, der=der) - 9 <= min(lengths) <= max(lengths) <= longest_key(kind, der=der)


def test_what_is_within_every_limit_fits() -> None:
    assert found(product(KeyType.P256), replace(ROOMY, place_bytes=4_000, certificate_bytes=1_000)) == []


@pytest.mark.parametrize(
    ("changes", "limits", "text"),
    [
        (
            {"key_origin": KeyOrigin.BOARD},
            {"board_keys": frozenset()},
            "no p256 key made by the board (it takes: none); no option",
        ),
        (
            {"key_origin": KeyOrigin.STATION},
            {"station_keys": frozenset({KeyType.RSA2048})},
            "by the station (it takes: rsa2048); no option of the firmware lifts that",
        ),
        (
            {"chain_form": ChainForm.TWO_SLOTS},
            {"forms": frozenset({ChainForm.LEAF})},
            "no chain of the form leaf,ca (it holds: leaf); no opt",
        ),
        ({"first_contact": FirstContact.BOARD}, {"dials": False}, "cannot dial (no option of the firmware"),
        ({"images": (Image(Path("a"), 0, "0" * 64),)}, {}, "writes no firmware images; no option"),
        ({}, {"place_bytes": 767, "lifted_by": "CONFIG_BUF_SIZE"}, "lifted by CONFIG_BUF_SIZE"),
        ({"chain_form": ChainForm.LEAF}, {"certificate_bytes": 256}, "does not fit the 256"),
        (
            {"key_origin": KeyOrigin.STATION, "key_type": KeyType.RSA4096, "chain_form": ChainForm.LEAF},
            {"place_bytes": 3_069, "lifted_by": "CONFIG_BUF_SIZE"},
            "a key of up to 3276 bytes does not fit the 3069 of console; lifted by CONFIG_BUF_SIZE",
        ),
    ],
)
def test_each_misfit_is_named(changes: dict[str, Any], limits: dict[str, Any], text: str) -> None:
    made = replace(product(KeyType.P256), **changes)
    (sentence,) = found(made, replace(ROOMY, **limits))
    assert text in sentence


HOUSE = Path(__file__).parent.parent
SHIPPED = HOUSE / "config/products"
ROOTS = (HOUSE / "config/amazon-roots.pem").read_bytes()


@pytest.mark.parametrize(
    ("names", "limits", "text"),
    [
        ((), {"roots_bytes": 4_000, "lifted_by": "CONFIG_BUF_SIZE"}, "lift it by CONFIG_BUF_SIZE"),
        ((), {"root_count": 1}, "CA 1]`; no option of the firmware lifts that"),
        (("Amazon Root CA 9",), {}, "no server root is called 'Amazon Root CA 9'; there are Amazon Root CA 1, "),
    ],
)
def test_server_roots_that_do_not_fit_are_named(names: tuple[str, ...], limits: dict[str, Any], text: str) -> None:
    made = replace(product(KeyType.P256), server_roots=names)
    largest = authority(KeyType.P256).largest(made)
    (sentence,) = misfits(made, replace(ROOMY, **limits), largest, ROOTS)
    assert text in sentence


def test_a_product_names_the_roots_that_its_units_hold_and_no_comment_goes_along() -> None:
    made = replace(product(KeyType.P256), server_roots=("Amazon Root CA 3", "Amazon Root CA 1"))
    largest = authority(KeyType.P256).largest(made)
    assert list(misfits(made, replace(ROOMY, roots_bytes=1_900, root_count=2), largest, ROOTS)) == []
    chosen = chosen_roots(ROOTS, made.server_roots)
    names = [one.subject.rfc4514_string() for one in x509.load_pem_x509_certificates(chosen)]
    assert names == ["CN=Amazon Root CA 3,O=Amazon,C=US", "CN=Amazon Root CA 1,O=Amazon,C=US"]
    assert b"#" in ROOTS
    assert b"#" not in chosen_roots(ROOTS, ())


def test_a_chain_in_der_needs_a_place_for_each_certificate() -> None:
    chain = authority(KeyType.P256).largest(product(KeyType.P256))
    credentials = Credentials(chain, b"", None, ChainForm.TWO_SLOTS)
    assert credentials.texts(der=True) == tuple(one.public_bytes(Encoding.DER) for one in chain)


def test_a_station_whose_product_does_not_fit_starts_not_and_its_check_says_why(make_station: MakeStation) -> None:
    station = make_station()
    odd = station.products["console-board-key"]
    station.products["odd"] = {**odd, "certificate": {**odd["certificate"], "chain": "leaf"}}
    station.products["py"] = {**odd, "driver": "micropython", "key": {"type": "rsa4096", "origin": "station"}}
    image = {"file": "app.bin", "offset": 0, "sha256": "0" * 64}
    station.products["gateway"] = {**odd, "driver": "linux", "images": [image]}
    station.write_config()
    for asked in (["config", "check"], ["run"]):
        with pytest.raises(LineError, match=Fault.PRODUCT_UNFIT.code) as error:
            station.run(*asked)
        said = str(error.value)
        assert "odd: console holds no chain of the form leaf" in said
        assert "py: micropython takes no rsa4096 key made by the station (it takes: p256, p384, rsa2048)" in said
        assert "py: micropython holds no chain of the form leaf+ca (it holds: leaf)" in said
        assert "gateway: linux writes no firmware images" in said


def test_an_endpoint_that_goes_into_boards_is_the_station_s(make_station: MakeStation) -> None:
    station = make_station()
    odd = station.products["console-board-key"]
    leaf, options = {**odd["certificate"], "chain": "leaf"}, {"endpoint": "other-ats.iot.us-east-1.amazonaws.com"}
    station.products["rtos"] = {**odd, "driver": "freertos", "certificate": leaf, "options": options}
    station.write_config()
    with pytest.raises(
        LineError, match=r"rtos: the option `endpoint` is other-ats\.iot\.us-east-1\.amazonaws\.com, and"
    ):
        station.run("config", "check")


def test_each_family_has_its_product_file_and_its_page_and_is_loaded_only_when_it_is_named() -> None:
    drivers = {yaml.safe_load(file.read_text())["driver"] for file in SHIPPED.glob("*.yaml")}
    assert drivers == set(families())
    pages = {page.stem for page in (HOUSE / "docs/boards").glob("*.md")}
    assert pages - {"README"} == set(families()) - {"console"}, "console's page is docs/new-board.md"
    asked = "from station import boards; boards.family('console'); import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in families() if f"station.boards.{name}" in loaded} == {"console"}


def test_a_gateway_whose_dialler_would_leave_the_ca_out_is_refused() -> None:
    gateway, limits = family("linux").options, family("linux").limits
    made = replace(product(KeyType.P256), chain_form=ChainForm.TWO_SLOTS)
    assert found(made, limits(gateway())) == []
    (sentence,) = found(made, limits(gateway.model_validate({"dialler": "mosquitto"})))
    assert "(it holds: leaf; leaf+ca); mosquitto_pub sends what is in cert.pem alone" in sentence


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_each_product_file_as_shipped_is_read_and_fits_its_family(file: Path) -> None:
    made = product_of(read(file), lambda name: family(name).options)
    largest = authority(KeyType.P256).largest(replace(made, profile=replace(made.profile, validity_days=365)))
    assert list(misfits(made, family(made.driver).limits(made.options), largest, ROOTS)) == []


def test_station_boards_tells_each_family_s_limits_whole() -> None:
    narrow = {**os.environ, "COLUMNS": "60"}
    found = json.loads(command(["boards", "--json"], narrow))
    blocks = dict(re.findall(r"^(\w+)  .+\n((?:    .+\n)+)", command(["boards"], narrow), re.MULTILINE))
    assert set(blocks) == set(found) == set(families())
    for name, limits in found.items():
        told = dict(re.findall(r"^    (\S.*?)  +(.*)$", blocks[name], re.MULTILINE))
        assert told.get("lifted by", "") == limits["lifted_by"]
        assert told["chain"].split(" or ") == sorted(limits["forms"])
        sizes = [limits[size] for size in ("place_bytes", "certificate_bytes", "roots_bytes", "root_count")]
        assert re.findall(r"\d+", told["holds"]) == [str(size) for size in sizes if size is not None]
        assert sum(size is not None for size in sizes) >= (name != "command"), "each firmware has its limit"


def test_a_firmware_file_that_is_not_the_reviewed_one_is_found_out_at_start(make_station: MakeStation) -> None:
    station = make_station()
    options = {step: {"run": ["/bin/true"]} for step in ("identify", "install", "reset", "inspect", "flash")}
    shared = station.products["console-station-key"]
    image = {"file": "app.bin", "offset": 0, "sha256": "0" * 64}
    station.products["flashed"] = {**shared, "driver": "command", "options": options, "images": [image]}
    station.write_config()
    (station.folder / "products" / "app.bin").write_bytes(b"another")
    with pytest.raises(LineError, match=r"flashed: .*app\.bin has the SHA-256 ae44"):
        station.run("config", "check")


def test_options_are_read_by_the_family_and_named_by_file_and_line(make_station: MakeStation) -> None:
    station = make_station()
    station.products["odd"] = {**station.products["console-board-key"], "options": {"colour": "red"}}
    station.products["odder"] = {**station.products["console-board-key"], "driver": "toaster"}
    station.write_config()
    with pytest.raises(LineError) as error:
        station.run("config", "check")
    assert "odd.yaml:19: options.colour: no such key" in str(error.value)
    assert "odder.yaml:3: driver: no board family is called 'toaster'" in str(error.value)
