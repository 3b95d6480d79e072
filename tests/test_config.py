"""Settings are read once and refused whole: every mistake with file, line, key and what would be right."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from station.config import ConfigError, load, load_ceremony
from station.config.loader import read
from station.faults import Fault
from station.model import KeyOrigin, KeyType

SAMPLES = Path(__file__).parent.parent / "config"


def make_ca(path: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 77, now, now + timedelta(days=9))
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """The sample settings as shipped, with a CA certificate beside them."""
    for name in ("station.yaml", "amazon-roots.pem", "products/console-board-key.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((SAMPLES / name).read_bytes())
    make_ca(tmp_path / "ca.pem", "Example Device CA")
    return tmp_path / "station.yaml"


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    values = yaml.safe_load(file.read_text())
    edit(values)
    file.write_text(json.dumps(values, indent=1))


def replace(file: Path, old: str, new: str) -> int:
    """Change the text of one line and return its number."""
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def problems(file: Path, fault: Fault = Fault.CONFIG) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        load(file)
    assert error.value.fault is fault
    return error.value.problems


def test_the_samples_as_shipped_are_right(sample: Path) -> None:
    config = load(sample)
    assert config.station == "line-1"
    assert config.slots[0].usb is not None
    assert config.aws.server_roots == sample.parent / "amazon-roots.pem"
    product = config.products["console-board-key"]
    assert (product.key_type, product.key_origin, product.profile.backdate_s) == (KeyType.P256, KeyOrigin.BOARD, 3600)


@pytest.mark.parametrize("file", sorted((SAMPLES / "ceremony").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_ceremony_samples_are_right(file: Path) -> None:
    act = load_ceremony(file)
    assert (act.act, act.rehearsal) == (file.stem, False)


def test_the_hash_changes_with_any_file_and_with_nothing_else(sample: Path) -> None:
    first = load(sample).hash
    sample.write_text(sample.read_text() + "# a remark\n")
    assert load(sample).hash == first
    replace(sample.parent / "products/console-board-key.yaml", "validity_days: 3650", "validity_days: 3651")
    assert load(sample).hash != first


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("language: vi", "language: fr", "language: Input should be 'en' or 'vi'; it says 'fr'"),
        ("simulate: false", "simulate: 0", "simulate: Input should be a valid boolean; it says 0"),
        ("station: line-1", "station: NO", "put the word in quotes"),
        ("station: line-1", "station: 22:30", "put it in quotes if it is no number"),
        ("station: line-1", "station: 2026-11-24", "reads this as date; put it in quotes"),
        ("station: line-1", "station: '../x'", "station: String should match pattern"),
        ("  timeout_s: 5.0 #", "  timeout_s: .inf #", "hsm.timeout_s: Input should be a finite number"),
        ("  timeout_s: 5.0 #", "  timeout_s: 0.0 #", "greater than or equal to 0.2"),
        ("  port: 8883 #", "  port: 88830 #", "aws.port: Input should be less than or equal to 65535"),
        ('  key: "pkcs11:token=', '  key: "token=', "should be an RFC 7512 URI"),
        ("libsofthsm2.so", "libsofthsm2.so&pin-value=1", "must not hold a pin-value"),
        ("{credential: hsm-pin}", "{credential: hsm-pin, file: x}", "should name one of `credential` and `file`"),
        ("{credential: hsm-pin}", "{pin: hsm-pin}", "a secret must not stand in a settings file"),
        ("{credential: hsm-pin}", "'1234'", "a secret must not stand in a settings file"),
        ("endpoint: a1b2c3d4e5f6g7-ats.iot.ap-southeast-1.amazonaws.com", "endpoint: 10.0.0.1", "is an IP address"),
        ("{kind: terminal} #", "{kind: siren} #", "'leds', 'gpio', 'tower', 'usb', 'terminal'"),
        ("{kind: terminal} #", "{kind: leds, green: ../g, red: r, amber: a, blue: b} #", "the name of one folder"),
        ("{by: station, policy: station-device}", "{by: station}", "aws.activation.policy: is missing"),
        ("station: line-1", "station: &a line-1", ""),
    ],
)
def test_each_mistake_is_named_with_its_line_and_what_would_be_right(
    sample: Path, old: str, new: str, says: str
) -> None:
    line = replace(sample, old, new)
    if not says:
        load(sample)  # an anchor alone harms nobody
        return
    (problem,) = problems(sample)
    assert problem.startswith(f"{sample}:{line}: ")
    assert says in problem


def test_all_mistakes_of_all_files_are_told_at_once(sample: Path) -> None:
    replace(sample, "language: vi", "language: fr")
    replace(sample, "stop_grace_s: 30.0", "stop_grace_s: long")
    replace(sample.parent / "products/console-board-key.yaml", "origin: board", "origin: moon")
    found = problems(sample)
    assert len(found) == 3
    assert "console-board-key.yaml:10: key.origin" in found[2]


def test_a_misspelt_key_gets_the_right_one_named(sample: Path) -> None:
    line = replace(sample, "operator: shift-a", "operater: shift-a")
    assert problems(sample) == (
        f"{sample}:1: operator: is missing",
        f"{sample}:{line}: operater: no such key; did you mean operator?",
    )


def test_a_key_that_stands_twice_is_refused(sample: Path) -> None:
    sample.write_text(sample.read_text() + "station: line-2\n")
    assert "stands twice, again in line" in problems(sample)[0]


def test_an_alias_is_refused_before_it_can_grow(sample: Path) -> None:
    bomb = "a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]\n"
    sample.write_text(bomb)
    assert "is an alias" in problems(sample)[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [1,\n", ":2: no YAML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"a: \x00", "no YAML"),
        (b"- a\n", "should hold `key: value` lines"),
        (b"", "should hold `key: value` lines"),
        (b"? [a]\n: b\n", "a key should be a word"),
        (b"a: !!python/object:os.system x\n", "no YAML"),
        (b"x" * (1024 * 1024 + 1), "is larger than"),
        (b"[" * 5_000, "no YAML"),
    ],
)
def test_what_is_no_settings_file_is_refused_with_a_sentence(sample: Path, content: bytes, says: str) -> None:
    sample.write_bytes(content)
    assert says in problems(sample)[0]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = problems(tmp_path / "none.yaml")
    assert "none.yaml: cannot be read: No such file" in found[0]
    assert "holds no product" in found[1]


def test_a_product_is_called_as_its_file(sample: Path) -> None:
    folder = sample.parent / "products"
    (folder / "other.yaml").write_bytes((folder / "console-board-key.yaml").read_bytes())
    assert "is 'console-board-key' in a file called 'other.yaml'" in problems(sample)[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("client_id", "fixed"),
        ("client_id", "{serial.__class__}"),
        ("client_id", "{0}-{serial}"),
        ("topic", "a/+/{serial}"),
        ("topic", "#"),
        ("topic", "$aws/things/{serial}"),
        ("topic", ""),
        ("topic", "/".join("abcdefghi")),
    ],
)
def test_a_template_may_hold_the_serial_and_nothing_that_bites(sample: Path, key: str, value: str) -> None:
    file = sample.parent / "products/console-board-key.yaml"
    change(file, lambda values: values["first_contact"].update({key: value}))
    assert f"first_contact.{key}: should " in problems(sample)[0]


class TestMixing:
    """One simulated part forbids a production CA, endpoint and port, and the other way round."""

    def test_a_rehearsal_ca_is_refused_in_production(self, sample: Path) -> None:
        make_ca(sample.parent / "ca.pem", "Example Device CA REHEARSAL")
        assert "was made in a rehearsal" in problems(sample, Fault.SIMULATION_MIXED)[0]

    def test_a_foreign_server_root_is_refused_in_production(self, sample: Path) -> None:
        make_ca(sample.parent / "amazon-roots.pem", "My Own Root")
        assert "holds a root that is not Amazon's" in problems(sample, Fault.SIMULATION_MIXED)[0]

    def test_a_foreign_root_that_the_settings_name_for_this_endpoint_is_taken(self, sample: Path) -> None:
        make_ca(sample.parent / "amazon-roots.pem", "My Own Root")
        change(
            sample, lambda values: values["aws"].update(server_roots_for="iot.example.com", endpoint="iot.example.com")
        )
        load(sample)
        change(sample, lambda values: values["aws"].update(endpoint="iot.example.org"))
        assert len(problems(sample, Fault.SIMULATION_MIXED)) == 2

    def test_a_pseudo_terminal_is_refused_in_production(self, sample: Path) -> None:
        change(sample, lambda values: values["slots"][0].update(usb=None, port="/dev/pts/3"))
        assert "is a pseudo terminal" in problems(sample, Fault.SIMULATION_MIXED)[0]

    def test_a_simulator_is_refused_in_production(self, sample: Path) -> None:
        change(sample, lambda values: values["aws"].update(simulator={"api_url": "http://127.0.0.1:1"}))
        assert "must not stand here" in problems(sample, Fault.SIMULATION_MIXED)[0]

    @pytest.mark.parametrize(
        ("endpoint", "says"),
        [
            ("a1b2c3d4e5f6g7.iot.ap-southeast-1.amazonaws.com", "old data endpoint"),
            ("a1b2c3d4e5f6g7-ats.iot.us-east-1.amazonaws.com", "describe-endpoint"),
            ("localhost", "describe-endpoint"),
            ("a1b2c3d4e5f6g7-ats.iot.ap-southeast-1.amazonaws.com.evil.com", "describe-endpoint"),
        ],
    )
    def test_an_endpoint_that_is_not_of_this_region_is_refused(self, sample: Path, endpoint: str, says: str) -> None:
        change(sample, lambda values: values["aws"].update(endpoint=endpoint))
        assert says in problems(sample, Fault.SIMULATION_MIXED)[0]

    def test_a_simulated_station_refuses_every_real_part_at_once(self, sample: Path) -> None:
        change(sample, lambda values: values.update(simulate=True))
        found = problems(sample, Fault.SIMULATION_MIXED)
        assert [
            next(key for key in ("simulator", "endpoint", "certificate", "slots.0") if key in one) for one in found
        ] == [
            "simulator",
            "endpoint",
            "certificate",
            "slots.0",
        ]

    def test_a_certificate_file_that_is_not_there_is_a_plain_mistake(self, sample: Path) -> None:
        (sample.parent / "ca.pem").unlink()
        assert "cannot be read" in problems(sample)[0]
        (sample.parent / "ca.pem").write_text("hello")
        assert "holds no PEM certificate" in problems(sample)[0]


class TestCeremony:
    """One reviewed file an act."""

    def refused(self, tmp_path: Path, name: str, **changes: object) -> str:
        values = yaml.safe_load((SAMPLES / "ceremony" / f"{name}.yaml").read_text())
        file = tmp_path / "act.yaml"
        file.write_text(json.dumps({**values, **changes}))
        with pytest.raises(ConfigError) as error:
            load_ceremony(file)
        return error.value.detail

    def test_a_rehearsal_says_so_in_the_subject(self, tmp_path: Path) -> None:
        assert "should contain REHEARSAL" in self.refused(tmp_path, "root", rehearsal=True)

    def test_a_production_ca_does_not_say_it_is_a_rehearsal(self, tmp_path: Path) -> None:
        subject = {"common_name": "Device CA REHEARSAL", "organization": "X"}
        assert "must not" in self.refused(tmp_path, "root", subject=subject)

    def test_only_a_rehearsal_registers_at_a_simulator(self, tmp_path: Path) -> None:
        assert "only a rehearsal is" in self.refused(tmp_path, "register", rehearsal=True)

    def test_the_endpoint_is_one_of_the_region(self, tmp_path: Path) -> None:
        assert "should be xxxx-ats.iot.eu-west-1" in self.refused(tmp_path, "register", region="eu-west-1")

    def test_an_unknown_act_is_refused(self, tmp_path: Path) -> None:
        assert "'root', 'issuing', 'import'" in self.refused(tmp_path, "register", act="burn")


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_the_reader_fall_over(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    with suppress(ConfigError):
        assert isinstance(read(file).value, dict)
