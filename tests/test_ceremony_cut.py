"""Killed with SIGKILL after each step of each act and performed again: the same end, one key, one registration."""

from __future__ import annotations

import signal
from pathlib import Path

from cloud import ProviderCA
from cryptography import x509
from cutting import cut_after, cut_everywhere
from desk import Desk, refusal
from test_ceremony import old_ca, openssl
from test_ceremony_waiting import registered

from station.ceremony import minutes
from station.faults import Fault
from station.hsm.signers import find_public_key
from station.hsm.uri import KeyUri
from station.ledger import ceremonies_on_record


def acts_on_record(desk: Desk) -> list[str]:
    return [row.act for row in ceremonies_on_record(desk.folder / "state/ledger.sqlite", simulated=True)]


def complete(desk: Desk, file: Path) -> None:
    code, goes = cut_everywhere(file)
    assert code == 0
    assert goes > 5
    assert desk.go_on(file), "and complete it stays"
    assert desk.said[-1].startswith("this act is complete")


def cas_of(desk: Desk, subject: x509.Name) -> int:
    api = desk.cloud.boto()
    try:
        listed = api.list_ca_certificates(pageSize=250)["certificates"]
        found = [api.describe_ca_certificate(certificateId=one["certificateId"]) for one in listed]
    finally:
        api.close()
    pems = [one["certificateDescription"]["certificatePem"].encode() for one in found]
    return sum(x509.load_pem_x509_certificate(pem).subject == subject for pem in pems)


def undone(desk: Desk, name: str, outputs: set[str]) -> None:
    """Undone, killed at each write and between the moves; what the act left is aside then, each file once."""
    act = name.partition(" ")[0]
    code, goes = cut_everywhere(desk.folder / f"{name}.yaml", undo=True)
    assert code == 0
    assert goes > 8 + len(outputs)
    (aside,) = desk.folder.glob("undone-*")
    both = {"minutes-undo.md", "minutes-undo.json", f"minutes-{act}.md", f"minutes-{act}.json"}
    assert {path.name for path in aside.iterdir()} == outputs | both


def test_root_then_register(desk: Desk) -> None:
    complete(desk, desk.write("root"))
    assert desk.ca().public_key() == desk.public_key()  # one pair of this name, or this raises
    complete(desk, desk.write("register", tags={"line": "1"}))
    assert desk.described() == ("ACTIVE", "ENABLE")
    assert cas_of(desk, desk.ca().subject) == 1
    assert acts_on_record(desk) == ["root", "register"]


def test_register_in_the_other_mode_with_a_template(desk: Desk) -> None:
    desk.has_ca()
    (desk.folder / "jitp.json").write_text('{"Resources": {}}')
    template = {"body": "jitp.json", "role_arn": "arn:aws:iam::000000000000:role/JITP"}
    complete(desk, desk.write("register", mode="SNI_ONLY", template=template))
    assert desk.described() == ("ACTIVE", "ENABLE")
    assert cas_of(desk, desk.ca().subject) == 1


def test_seal(desk: Desk) -> None:
    complete(desk, desk.write("seal"))
    public = (desk.folder / "seal.pem").read_bytes()
    assert find_public_key(KeyUri.parse(desk.uri("station-seal")), desk.token.pin, desk.token.latch)
    minutes.verify(desk.folder / "minutes-seal.md", public, desk.said.append)
    assert acts_on_record(desk) == ["seal"]


def test_import(desk: Desk) -> None:
    old_ca(desk)
    complete(desk, desk.write("import"))
    assert desk.ca().public_key() == desk.public_key()
    assert acts_on_record(desk) == ["import"]


def test_issuing_by_csr(desk: Desk) -> None:
    old_ca(desk, conf="basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign")
    (desk.folder / "provider-ca.pem").rename(desk.folder / "root.pem")
    file = desk.write("issuing")
    assert cut_everywhere(file)[0] == 4
    (desk.folder / "ext").write_text(
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    by = ["-CA", "root.pem", "-CAkey", "provider-key.pem", "-CAcreateserial", "-days", "90", "-extfile", "ext"]
    openssl(desk.folder, "x509", "-req", "-in", "ca.csr", *by, "-out", "issued.pem")
    complete(desk, file)
    assert desk.ca().public_key() == desk.public_key()


def test_issuing_with_the_root_s_key_in_reach(desk: Desk) -> None:
    root_outputs = {"certificate": "root.pem", "minutes": "minutes-root.md"}
    desk.perform("root", key=desk.uri("root-ca"), path_length=1, outputs=root_outputs)
    pin = {"file": str(desk.token.pin.file)}
    root = {"by": "key", "certificate": "root.pem", "key": desk.uri("root-ca"), "pin": pin, "validity_days": 90}
    outputs = {"certificate": "ca.pem", "minutes": "minutes-issuing.md"}
    complete(desk, desk.write("issuing", root=root, outputs=outputs))
    assert desk.ca().public_key() == desk.public_key()
    assert acts_on_record(desk) == ["root", "issuing"]


def test_a_new_ca_takes_the_old_one_s_place(desk: Desk, ca: ProviderCA) -> None:
    registered(desk, "old.json", ca)
    complete(desk, desk.write("rotate by key"))
    assert desk.ca().public_key() == desk.public_key()  # one pair of this name, or this raises
    assert (desk.described(), desk.described(ca.id)) == (("ACTIVE", "ENABLE"), ("INACTIVE", "DISABLE"))
    assert cas_of(desk, desk.ca().subject) == 1
    assert acts_on_record(desk) == ["rotate"]
    undone(desk, "rotate by key", {"ca.pem", "registration.json"})
    assert desk.described(ca.id) == ("ACTIVE", "ENABLE")
    assert acts_on_record(desk) == ["rotate", "undo rotate"]


def test_a_ca_that_went_out_of_service_comes_back(desk: Desk, ca: ProviderCA) -> None:
    registered(desk, "registration.json", ca)
    assert desk.perform("retire")
    undone(desk, "retire", set())
    assert desk.described(ca.id) == ("ACTIVE", "ENABLE")
    assert acts_on_record(desk) == ["retire", "undo retire"]


def test_a_ca_goes_out_of_service(desk: Desk, ca: ProviderCA) -> None:
    registered(desk, "registration.json", ca)
    complete(desk, desk.write("retire", delete=True))
    assert cas_of(desk, ca.certificate.subject) == 0


def test_an_undo_that_was_killed_is_gone_on_with(desk: Desk) -> None:
    desk.perform("seal")
    desk.perform("root")
    seal = {"key": desk.uri("station-seal"), "public": "seal.pem", "pin": {"file": str(desk.token.pin.file)}}
    desk.perform("register", seal=seal)
    name = desk.registration()["ca_certificate_id"]
    file = desk.folder / "register.yaml"
    for writes in range(5):
        assert cut_after(file, writes, undo=True) == -signal.SIGKILL
        if cas_of(desk, desk.ca().subject):
            assert writes < 2
            assert desk.go_on(file), "nothing is taken back yet"
        else:  # from the first write after AWS IoT deleted it, whatever is on disk
            assert "go on with it: --undo" in refusal(lambda: desk.go_on(file), Fault.CEREMONY)
    assert not cas_of(desk, desk.ca().subject)
    desk.undo("register")
    assert cas_of(desk, desk.ca().subject) == 0
    (aside,) = desk.folder.glob("undone-*")
    assert {path.name for path in aside.iterdir()} == {
        *("minutes-undo.md", "minutes-undo.json"),
        *("minutes-register.md", "minutes-register.json", "registration.json"),
    }
    public = (desk.folder / "seal.pem").read_bytes()
    for each in ("minutes-undo.md", "minutes-register.md"):
        minutes.verify(aside / each, public, desk.said.append)
    told = (aside / "minutes-undo.md").read_text()
    assert f"CA {name} is deleted in AWS IoT" in told
    assert "# REHEARSAL of the act undo register: minutes" in told
    assert acts_on_record(desk)[-1] == "undo register"
    assert desk.perform("register", seal=seal)
    assert desk.described(name) == ("ACTIVE", "ENABLE")
    minutes.verify(aside / "minutes-register.md", public, desk.said.append)  # the new outputs are not its own
