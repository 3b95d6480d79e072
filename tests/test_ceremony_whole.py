"""From an empty token to the first PASS by the documented commands alone, seen by strangers: AWS's own CLI, openssl."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, refusal
from test_ceremony import RSA, old_ca, openssl

from station.ca.lint import throw_away_key
from station.ceremony import handover
from station.ceremony.adopt import adopt
from station.ceremony.session import public_pem
from station.cli import main
from station.config import load
from station.config.sections import with_sections
from station.faults import Fault
from station.model import KeyType
from station.sim.jig import SimJig
from station.sim.line import Provider, Station, softhsm_module

ROOT = Path(__file__).parent.parent
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}


# `python -m awscli` for several commands: it takes longer to load than to ask.
CLI = """
import json, sys
from awscli.clidriver import create_clidriver
for arguments in json.loads(sys.argv[1]):
    if code := create_clidriver().main(arguments):
        sys.exit(code)
"""


def aws(desk: Desk, *commands: tuple[str, ...]) -> list[Any]:
    """The real AWS CLI, at the simulated cloud: what each command says."""
    at = ["--output", "json", "--endpoint-url", desk.cloud.said["api_url"], "--region", desk.cloud.said["region"]]
    asked = json.dumps([["iot", *command, *at] for command in commands])
    done = subprocess.run([sys.executable, "-c", CLI, asked], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(f"[{done.stdout.replace('}' + chr(10) + '{', '},{')}]")
    return answers


def station_of(desk: Desk, products: Path) -> Station:
    """A station that knows its own part alone: where its token and its slots are."""
    nobody = {"ca_certificate_id": "0" * 64}
    made = Station(
        desk.folder / "station", Provider(desk.folder, desk.cloud.said, str(desk.key), nobody, dict(os.environ))
    )
    made.settings["hsm"]["pin"] = {"file": str(desk.token.pin.file)}
    made.write_config()
    shutil.move(made.folder / "products", products)
    return made


def handed_over(desk: Desk, products: Path, policy: str = "p", *more: str) -> Path:
    folder = desk.folder / "handover"
    given = ["--registration", str(desk.folder / "registration.json"), "--ca", str(desk.folder / "ca.pem")]
    at = ["--roots", str(desk.cloud.server_roots), "--port", str(desk.cloud.mqtt_port), "--policy", policy]
    files = [str(file) for file in sorted(products.glob("*.yaml"))]
    assert main(["handover", str(folder), *given, *at, *more, "--products", *files, "--by", "Lan"]) == 0
    return folder


@pytest.mark.parametrize("way", ["root in mode DEFAULT", "root in mode SNI_ONLY", "import of the seed's CA"])
def test_the_documented_commands_lead_to_a_first_pass(desk: Desk, way: str) -> None:
    if way.startswith("import"):
        old_ca(desk, key=RSA)
        first = desk.write("import")
    else:
        first = desk.write("root", validity_days=3650)
    mode = "SNI_ONLY" if "SNI_ONLY" in way else "DEFAULT"
    acts = [str(first), str(desk.write("register", mode=mode))]
    assert main(["ceremony", *acts, "--yes", "--by", "Lan", "--witness", "Minh"]) == 0
    policy, serial = f"station-{desk.organization[-8:]}", f"SN-{desk.organization[-8:]}"  # no other test's thing
    api = desk.cloud.boto()
    api.create_policy(policyName=policy, policyDocument=json.dumps(POLICY))
    with suppress(api.exceptions.ResourceAlreadyExistsException):
        api.create_thing_type(thingTypeName="sensor-type")
    api.close()
    products = desk.folder / "products"
    station = station_of(desk, products)
    folder = handed_over(desk, products, policy, "--thing-type", "sensor-type")
    assert main(["--config", str(station.config), "adopt", str(folder)]) == 0
    with SimJig(desk.folder / "boards") as jig:
        station.start()
        try:
            station.order("WO-1", "console-board-key", 1)
            jig.plug(station.port, serial=serial, chip="C-1", model="demo-board")
            result = station.result()
            assert result["outcome"] == "PASS", result
            issued = station.control.unit(serial)[0]["certificates"][0]["certificate_id"]
        finally:
            station.kill()

    name = desk.registration()["ca_certificate_id"]
    ca, listed, unit, thing = aws(
        desk,
        ("describe-ca-certificate", "--certificate-id", name),
        ("list-certificates-by-ca", "--ca-certificate-id", name),
        ("describe-certificate", "--certificate-id", issued),
        ("describe-thing", "--thing-name", serial),
    )
    about, unit = ca["certificateDescription"], unit["certificateDescription"]
    assert (about["status"], about["autoRegistrationStatus"], about["certificateMode"]) == ("ACTIVE", "ENABLE", mode)
    assert [one["certificateId"] for one in listed["certificates"]] == [issued]
    assert (unit["status"], unit["caCertificateId"]) == ("ACTIVE", name)
    assert thing["thingTypeName"] == "sensor-type"
    (desk.folder / "unit.pem").write_text(unit["certificatePem"])
    said = openssl(desk.folder, "verify", "-purpose", "sslclient", "-CAfile", "ca.pem", "unit.pem")
    assert said == "unit.pem: OK\n"


def test_a_rehearsal_plays_the_production_s_files_and_touches_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "AWS_PROFILE": "production", "TMPDIR": str(tmp_path)})
    shutil.copytree(ROOT / "config" / "ceremony", tmp_path / "ceremony")
    acts = [str(tmp_path / "ceremony" / f"{name}.yaml") for name in ("seal", "issuing", "register", "rotate", "retire")]
    scratch = tmp_path / "scratch"
    assert main(["ceremony", *acts, "--rehearse", "--scratch", str(scratch), "--yes"]) == 0
    said = capsys.readouterr().out
    assert said.count("REHEARSAL of the act") == 5
    assert "the root's owner, who is simulated" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ceremony", "scratch"]
    assert {path.name for path in (tmp_path / "ceremony").iterdir()} == {
        path.name for path in (ROOT / "config" / "ceremony").iterdir()
    }
    assert "REHEARSAL" in openssl(scratch / "files", "x509", "-in", "ca.pem", "-noout", "-subject")
    assert main(["ceremony", acts[2], "--rehearse", "--scratch", str(tmp_path / "b"), "--yes"]) == 1


def test_an_import_is_rehearsed_with_a_key_file_made_for_the_occasion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As shipped, where the certificate that comes and the one that is written share a name; with a passphrase."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    shipped = ROOT / "config" / "ceremony"
    file = tmp_path / "import.yaml"
    file.write_text((shipped / "import.yaml").read_text().replace("  # passphrase:", "  passphrase:"))
    acts = [str(file), str(shipped / "register.yaml")]
    assert main(["ceremony", *acts, "--rehearse", "--scratch", str(tmp_path / "r"), "--yes"]) == 0
    said = capsys.readouterr().out
    assert "NOT confirmed: that" in said
    assert "the CA is registered" in said
    assert b"ENCRYPTED" in (tmp_path / "r" / "brought" / "ca-key.pem").read_bytes()


def same(text: str, folder: str) -> list[str]:
    """A transcript without what differs each time."""
    text = text.replace(folder, "").replace(softhsm_module(), "...")
    return [re.sub(r"[0-9a-f]{64}|id=(%[0-9A-F]{2})+", "ID", line) for line in text.strip().splitlines()]


def test_the_documented_transcript_is_what_a_rehearsal_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    acts = [str(ROOT / "config" / "ceremony" / f"{name}.yaml") for name in ("seal", "root", "register")]
    scratch = tmp_path / "r"
    assert main(["ceremony", *acts, "--rehearse", "--scratch", str(scratch), "--yes"]) == 0
    block = (ROOT / "docs" / "ceremony.md").read_text().split("```")[1]
    documented = block.split("--rehearse\n", 1)[1]
    assert same(documented, "/tmp/rehearsal") == same(capsys.readouterr().out, str(scratch))


def test_the_policies_allow_the_calls_that_the_code_makes_and_no_other() -> None:
    allowed = {}
    for name in ("ceremony", "station", "doctor"):
        statements = json.loads((ROOT / "config" / "aws" / f"{name}-policy.json").read_text())["Statement"]
        actions = [one["Action"] if isinstance(one["Action"], list) else [one["Action"]] for one in statements]
        allowed[name] = {action.removeprefix("iot:").lower() for group in actions for action in group} - {
            "iam:passrole"
        }
    made = {
        name: {call.replace("_", "") for call in re.findall(r'_calls\(\s*"([a-z_]+)"', (ROOT / path).read_text())}
        for name, path in (("ceremony", "station/aws/authorities.py"), ("station", "station/aws/registry.py"))
    }
    assert allowed["ceremony"] == made["ceremony"] | {"describeendpoint"}
    assert allowed["station"] | allowed["doctor"] == made["station"]
    assert "*" not in "".join(allowed["ceremony"] | made["station"])


def test_a_hand_over_is_whole_or_refused(desk: Desk) -> None:
    desk.has_ca()
    desk.perform("register")
    products = desk.folder / "products"
    station = station_of(desk, products)
    folder = handed_over(desk, products)
    said = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert said.stdout.count(": OK") == 6
    before = station.config.read_text()

    def tried() -> str:
        return refusal(lambda: adopt(folder, station.config, desk.said.append), Fault.HANDOVER)

    for name, change, says in (
        ("ca.pem", b"x", "its checksum differs"),
        ("handover.json", b"x", "its checksum differs"),
        ("extra.txt", b"x", "holds what was not handed over"),
    ):
        file = folder / name
        was = file.read_bytes() if file.exists() else None
        file.write_bytes((was or b"") + change)
        assert says in tried()
        if was is None:
            file.unlink()
        else:
            file.write_bytes(was)
    assert station.config.read_text() == before
    assert {path.name for path in station.folder.iterdir()} == {"jig", "state", "run", "station.yaml"}

    secret = desk.folder / "products" / "secret.yaml"
    secret.write_text((products / "console-board-key.yaml").read_text().replace("console-board-key", "secret"))
    given: dict[str, Any] = {"registration": desk.folder / "registration.json", "certificate": desk.folder / "ca.pem"}
    facts = handover.facts("Lan", activation="provider", policy=None, port=8883)
    pem = desk.folder / "roots.pem"
    pem.write_text("-----BEGIN PRIVATE KEY-----\n")
    assert "holds a private key" in refusal(
        lambda: handover.make(desk.folder / "h2", facts, roots=pem, products=[secret], **given), Fault.HANDOVER
    )
    assert not (desk.folder / "h2").exists()
    refusal(lambda: handover.facts("Lan", activation="provider", policy="p", port=8883), Fault.HANDOVER)


def test_a_hand_over_under_the_provider_s_seal_is_adopted_under_no_other(desk: Desk) -> None:
    assert desk.perform("seal")
    desk.has_ca()
    seal = {"key": desk.uri("station-seal"), "public": "seal.pem", "pin": {"file": str(desk.token.pin.file)}}
    desk.perform("register", seal=seal)
    products = desk.folder / "products"
    station = station_of(desk, products)
    folder = handed_over(desk, products, "p", "--seal-of", str(desk.folder / "register.yaml"))
    public, other = (desk.folder / "seal.pem"), desk.folder / "other.pem"
    key = throw_away_key(KeyType.P256)
    other.write_text(public_pem(key.public_key()))

    def adopted(seal: Path) -> int:
        return main(["--config", str(station.config), "adopt", str(folder), "--seal", str(seal)])

    before = station.config.read_bytes()
    assert adopted(other) == 1
    product = next((folder / "products").iterdir())
    content, sums = product.read_bytes(), (folder / "SHA256SUMS").read_text()
    product.write_bytes(content + b"# more\n")  # with the checksums made anew, as whoever changes a file would
    changed = sums.replace(sha256(content).hexdigest(), sha256(content + b"# more\n").hexdigest())
    (folder / "SHA256SUMS").write_text(changed)
    assert adopted(public) == 1
    (folder / "SHA256SUMS").write_text(sums)
    product.write_bytes(content)
    (folder / "SHA256SUMS.seal").rename(desk.folder / "away")
    assert "under no seal" in refusal(
        lambda: adopt(folder, station.config, desk.said.append, public.read_bytes()), Fault.HANDOVER
    )
    (desk.folder / "away").rename(folder / "SHA256SUMS.seal")
    assert station.config.read_bytes() == before
    assert adopted(public) == 0


def test_an_adoption_keeps_the_feed_the_owner_and_every_former_file(desk: Desk) -> None:
    desk.has_ca()
    desk.perform("register")
    products = desk.folder / "products"
    station = station_of(desk, products)
    (desk.folder / "seal.pem").write_text(public_pem(throw_away_key(KeyType.P256).public_key()))
    feed = {"at": {"kind": "s3", "bucket": "the-provider-s", "prefix": "feed/"}}
    station.settings["aws"]["activation"] = {"by": "provider", "feed": feed}
    station.settings["seal"] = {"key": desk.uri("station-seal"), "public": str(desk.folder / "seal.pem")}
    station.write_config()
    shutil.rmtree(station.folder / "products")
    station.config.chmod(0o640)
    if not os.getuid():
        os.chown(station.config, 12, 34)
    handover.make(
        desk.folder / "handover",
        handover.facts("Lan", activation="provider", policy=None, port=desk.cloud.mqtt_port),
        registration=desk.folder / "registration.json",
        certificate=desk.folder / "ca.pem",
        roots=desk.cloud.server_roots,
        products=sorted(products.glob("*.yaml")),
    )
    was, kept = station.config.stat(), [station.config.read_bytes()]
    for _ in range(2):
        adopt(desk.folder / "handover", station.config, desk.said.append)
        adopted = json.loads(station.config.read_text())
        assert adopted["aws"]["activation"] == {"by": "provider", "feed": feed}
        assert "  the feed to the provider stays: s3" in desk.said
        now = station.config.stat()
        assert (now.st_uid, now.st_gid, now.st_mode) == (was.st_uid, was.st_gid, was.st_mode)
        former = sorted(station.folder.glob("station.yaml.before-*"))
        assert [file.read_bytes() for file in former] == kept
        assert {file.stat().st_uid for file in former} == {was.st_uid}
        station.config.write_text(json.dumps({**adopted, "operator": "changed since"}))
        kept.append(station.config.read_bytes())
        del adopted["aws"]["activation"]["feed"], adopted["aws"]["endpoint"]
    adopted["aws"]["activation"] = {"by": "station", "policy": "p"}
    station.config.write_text(json.dumps(adopted))
    adopt(desk.folder / "handover", station.config, desk.said.append)
    assert json.loads(station.config.read_text())["aws"]["activation"] == {"by": "provider"}
    assert load(former[0]).aws.ca_certificate_id == "0" * 64, "the old CA can still be asked about with it"
    assert "no aws.activation.feed is set" in "".join(desk.said[-3:])


def test_a_hand_over_of_another_ca_or_account_is_not_adopted(desk: Desk) -> None:
    desk.has_ca()
    desk.perform("register")
    products = desk.folder / "products"
    station = station_of(desk, products)
    folder = handed_over(desk, products)
    own = {"key": desk.uri("other-ca"), "outputs": {"certificate": "other.pem", "minutes": "other.md"}}
    desk.perform("root", **own)
    station.settings["hsm"]["key"] = desk.uri("other-ca")
    station.write_config()
    refusal(lambda: adopt(folder, station.config, desk.said.append), Fault.CA_MISMATCH)
    station.settings["hsm"]["key"] = str(desk.key)
    station.write_config()
    desk.undo("register")
    refusal(lambda: adopt(folder, station.config, desk.said.append), Fault.CA_UNKNOWN_HERE)


def test_sections_are_replaced_and_every_other_line_stays(tmp_path: Path) -> None:
    file = tmp_path / "station.yaml"
    shutil.copy(ROOT / "config" / "station.yaml", file)
    before = file.read_text()
    text = with_sections(file, {"certificate": "ca-1.pem"}, {"region": "eu-west-1", "endpoint": "e"})
    assert "\nca:\n  certificate: ca-1.pem\n" in text
    assert "  region: eu-west-1\n  endpoint: e\n" in text
    kept = [line for line in before.splitlines() if line and line[0] not in " #" and line[:3] not in {"ca:", "aws"}]
    assert [line for line in text.splitlines() if line in kept] == kept
    assert "# one station" not in text
    assert text.splitlines()[0] == before.splitlines()[0]
    assert "slot_times:" in text or "stop_grace_s" in text
