"""The sealed feed: what a station tells, what a provider believes, and what no stranger can make it believe."""

from __future__ import annotations

import base64
import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import CA, admitted, certify, end, note, production, rows, stranger
from ledgers import unit as make_unit

from station.faults import Fault, FaultError
from station.feed.lines import MAX_LINE, FeedLine, opened, sealed
from station.feed.register import FeedRegister, load_seals
from station.feed.shelf import FolderShelf
from station.feed.writer import FeedWriter
from station.ledger import SqliteLedger, verify
from station.ledger.standing import LedgerRegister
from station.model import Run, Standing, StandingState, Step, certificate_id
from station.seal import _DOMAIN, seal_id
from station.status import StatusBoard

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
ID = "ab" * 32


class KeyInHand:
    """A seal whose key is here: what a token signs for `station.seal.Seal`, which has tests of its own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def seals(self) -> dict[str, bytes]:
        return {seal_id(self.public): self.public}

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(_DOMAIN + message, ec.ECDSA(hashes.SHA256()))


SEAL = KeyInHand()


def a_line(**more: Any) -> FeedLine:
    standing = Standing(ID, CA, "SN-1", more.pop("state", StandingState.CONNECTING))
    fields = {"seq": 7, "at": NOW, "expires": NOW + timedelta(minutes=10), **more}
    return FeedLine("line-1", fields["seq"], standing, fields["at"], fields["expires"])


def a_raw(seal: KeyInHand = SEAL, **more: Any) -> bytes:
    return sealed(a_line(**more), seal.public, seal.sign)


def refused(raw: bytes) -> str:
    with pytest.raises(FaultError) as error:
        opened(raw, SEAL.seals, NOW)
    assert error.value.fault is Fault.FEED_REFUSED
    return error.value.detail


def test_a_line_comes_back_as_it_was_sealed() -> None:
    raw = a_raw()
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1
    assert len(raw) < 1_000
    assert opened(raw, SEAL.seals, NOW) == a_line()


def test_a_seal_that_nobody_trusts_is_refused() -> None:
    assert "nobody trusts" in refused(a_raw(KeyInHand()))


def test_every_changed_byte_of_the_body_breaks_the_seal() -> None:
    whole = json.loads(a_raw())
    for index in range(0, len(whole["body"]), 7):
        changed = whole["body"][:index] + ("0" if whole["body"][index] != "0" else "1") + whole["body"][index + 1 :]
        assert "the seal does not hold" in refused(json.dumps({**whole, "body": changed}).encode())


def resealed(**changes: Any) -> bytes:
    """A line with a wrong body, under a right seal: a station gone mad."""
    body = json.dumps({**json.loads(json.loads(a_raw())["body"]), **changes})
    signature = base64.b64encode(SEAL.sign(b"feed v1\n" + body.encode())).decode()
    return json.dumps({"body": body, "seal": seal_id(SEAL.public), "signature": signature}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"seq": -1},
        {"seq": "7"},
        {"seq": True},
        {"state": "please"},
        {"certificate": "../" + "0" * 61},
        {"ca": "A" * 64},
        {"thing": "SN-1/../../x"},
        {"thing": ""},
        {"station": "<script>"},
        {"at": (NOW + timedelta(hours=1)).isoformat()},
        {"expires": (NOW - timedelta(hours=1)).isoformat()},
        {"expires": (NOW + timedelta(days=4000)).isoformat()},
        {"expires": 5},
        {"more": 1},
    ],
)
def test_even_under_a_right_seal_nothing_odd_is_taken(changes: dict[str, Any]) -> None:
    refused(resealed(**changes))


def test_a_line_that_is_too_long_is_not_even_parsed() -> None:
    assert f"more than {MAX_LINE}" in refused(b" " * (MAX_LINE + 1))


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode)))
def test_noise_is_refused_and_nothing_else_is_raised(raw: bytes) -> None:
    refused(raw)


def test_nested_noise_is_refused() -> None:
    refused(b"[" * 2000)
    refused(json.dumps({"body": "[" * 2000, "seal": seal_id(SEAL.public), "signature": ""}).encode())


# The shelf, and the register over it.


@pytest.fixture
def shelf(tmp_path: Path) -> FolderShelf:
    (tmp_path / "feed").mkdir()
    return FolderShelf(tmp_path / "feed")


class At:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def register(shelf: FolderShelf) -> FeedRegister:
    return FeedRegister(shelf, SEAL.seals, At())


def test_what_is_laid_down_is_believed_until_it_expires(shelf: FolderShelf, register: FeedRegister) -> None:
    assert register.standing(ID) is None
    shelf.put(ID, a_raw())
    assert register.standing(ID) == a_line().standing
    later = FeedRegister(shelf, SEAL.seals, lambda: NOW + timedelta(minutes=11))
    found = later.standing(ID)
    assert found is not None
    assert found.state is StandingState.EXPIRED


def test_an_older_line_laid_back_is_refused(shelf: FolderShelf, register: FeedRegister) -> None:
    old, new = a_raw(seq=7), a_raw(seq=8, state=StandingState.OUT)
    shelf.put(ID, old)
    assert register.standing(ID) is not None
    shelf.put(ID, new)
    found = register.standing(ID)
    assert found is not None
    assert not found.state.wanted
    shelf.put(ID, old)
    assert register.standing(ID) is None


def test_a_line_about_another_certificate_is_no_permission(shelf: FolderShelf, register: FeedRegister) -> None:
    other = "cd" * 32
    shelf.put(other, a_raw())
    assert register.standing(other) is None


def test_a_forged_line_is_as_good_as_none(shelf: FolderShelf, register: FeedRegister) -> None:
    shelf.put(ID, a_raw(KeyInHand()))
    assert register.standing(ID) is None


def test_a_huge_file_in_a_line_s_place_is_not_read_whole(shelf: FolderShelf, register: FeedRegister) -> None:
    shelf.put(ID, b"x" * 5_000_000)
    assert len(shelf.get(ID) or b"") == MAX_LINE + 1
    assert register.standing(ID) is None


def test_what_was_laid_down_long_ago_is_removed(shelf: FolderShelf, tmp_path: Path) -> None:
    old, new = "a" * 64, "b" * 64
    for name in (old, new):
        shelf.put(name, a_raw())
    (laid,) = tmp_path.rglob(f"{old}.jsonl")
    os.utime(laid, (1000, 1000))
    shelf.forget(1001)
    assert shelf.get(old) is None
    assert shelf.get(new) is not None


def test_a_shelf_that_is_gone_is_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FaultError) as error:
        FeedRegister(FolderShelf(file), SEAL.seals).standing(ID)
    assert error.value.fault is Fault.FEED_DOWN
    with pytest.raises(FaultError):
        FolderShelf(tmp_path / "none").put(ID, a_raw())


def test_seals_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "seal.pem").write_bytes(SEAL.public)
    assert load_seals([tmp_path / "seal.pem"]) == SEAL.seals
    with pytest.raises(FaultError) as missing:
        load_seals([tmp_path / "none.pem"])
    assert missing.value.fault is Fault.CONFIG


# The writer.


class Records:
    """A shelf that keeps what came, and may be away."""

    def __init__(self) -> None:
        self.lines: list[FeedLine] = []
        self.away = False
        self.came = threading.Event()

    def put(self, certificate_id: str, line: bytes) -> None:
        if self.away:
            raise FaultError(Fault.CLOUD_UNREACHABLE, "the shelf is away")
        self.lines.append(opened(line, SEAL.seals, datetime.now(UTC)))
        self.came.set()

    def prove(self) -> str:
        return "in memory"

    def get(self, certificate_id: str) -> bytes | None:
        return None

    def states(self) -> list[str]:
        return [line.standing.state.value for line in self.lines]


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def status() -> StatusBoard:
    return StatusBoard("line-1", ("1",), simulated=False)


def writer_of(ledger: SqliteLedger, records: Records, status: StatusBoard) -> FeedWriter:
    return FeedWriter("line-1", ledger, records, SEAL.public, SEAL.sign, status=status, connect_valid_s=600)


@pytest.fixture
def writer(ledger: SqliteLedger, records: Records, status: StatusBoard) -> FeedWriter:
    ledger.add_order(production(quantity=50), "test")
    return writer_of(ledger, records, status)


def to_connect(ledger: SqliteLedger, serial: str, key: str = "") -> tuple[Run, str]:
    run = admitted(ledger, make_unit(serial))
    leaf = certify(ledger, run, key or serial)
    for step in (Step.IDENTIFY, Step.ADMIT, Step.ENROLL, Step.ISSUE, Step.INSTALL, Step.VERIFY):
        note(ledger, run, step)
    return run, certificate_id(leaf)


def test_a_run_at_connect_is_told_and_so_is_its_end(writer: FeedWriter, ledger: SqliteLedger, records: Records) -> None:
    good, first = to_connect(ledger, "SN-1")
    assert writer.round() == 1
    assert writer.round() == 0
    assert (records.lines[0].standing.certificate_id, records.states()) == (first, ["connecting"])
    assert records.lines[0].expires - records.lines[0].at == timedelta(minutes=10)
    note(ledger, good, Step.CONNECT)
    end(ledger, good)
    lost, _ = to_connect(ledger, "SN-2")
    writer.round()
    end(ledger, lost, Fault.LIFTED)
    assert writer.round() == 1
    assert records.states() == ["connecting", "connecting", "passed", "out"]
    seqs = [line.seq for line in records.lines]
    assert seqs == sorted(set(seqs))
    assert writer.round() == 0


def test_a_run_that_never_came_to_connect_is_not_told(
    writer: FeedWriter, ledger: SqliteLedger, records: Records
) -> None:
    run = admitted(ledger, make_unit("SN-1"))
    certify(ledger, run, "SN-1")
    note(ledger, run, Step.ISSUE)
    writer.round()
    end(ledger, run, Fault.INSTALL_REFUSED)
    writer.round()
    assert records.lines == []


def test_what_the_shelf_did_not_take_is_told_after_a_restart(
    writer: FeedWriter, ledger: SqliteLedger, records: Records, status: StatusBoard
) -> None:
    to_connect(ledger, "SN-1")
    records.away = True
    with pytest.raises(FaultError):
        writer.round()
    records.away = False
    assert writer_of(ledger, records, status).round() == 1
    assert records.states() == ["connecting"]


def test_the_thread_wakes_with_the_status_and_outlives_a_shelf_that_is_away(
    writer: FeedWriter, ledger: SqliteLedger, records: Records, status: StatusBoard
) -> None:
    writer.start()
    try:
        records.away = True
        to_connect(ledger, "SN-1")
        status.post_outbox(1)
        records.away = False
        assert records.came.wait(20)
    finally:
        writer.stop()
    assert records.states() == ["connecting"]


def test_the_provider_reads_the_same_from_the_feed_as_from_the_ledger(
    ledger: SqliteLedger, shelf: FolderShelf, status: StatusBoard
) -> None:
    ledger.add_order(production(quantity=50), "test")
    writer = FeedWriter("line-1", ledger, shelf, SEAL.public, SEAL.sign, status=status, connect_valid_s=600)
    feed, record = FeedRegister(shelf, SEAL.seals), LedgerRegister(ledger.store.read)
    run, name = to_connect(ledger, "SN-1")
    other, second = to_connect(ledger, "SN-2")
    writer.round()
    assert feed.standing(name) == record.standing(name)
    end(ledger, other, Fault.STILL_PENDING)
    writer.round()
    for one in (name, second):
        assert feed.standing(one) == record.standing(one)
    assert run.fault is None


def test_what_was_told_follows_from_the_record_or_verify_names_it(
    ledger: SqliteLedger, writer: FeedWriter, ledger_path: Path
) -> None:
    def found() -> list[str]:
        return [f"{one.where.split()[0]}: {one.what}" for one in verify.ledger_file(ledger_path).findings]

    run, _ = to_connect(ledger, "SN-1")
    writer.round()
    assert found() == []
    end(ledger, run, Fault.STILL_PENDING)
    assert found() == []  # the station was stopped before it told that
    writer.round()
    assert found() == []
    again, _ = to_connect(ledger, "SN-2")
    writer.round()
    end(ledger, again)
    writer.round()
    assert [state for (state,) in rows(ledger_path, "SELECT state FROM live_feed ORDER BY seq")] == ["out", "passed"]
    assert found() == []
    for forged, what in (
        ("UPDATE live_feed SET state = 'provisioned', sent = 1", "live_feed: does not follow from the record"),
        ("UPDATE live_feed SET state = 'ACTIVE'", "live_feed: does not follow from the record"),
        ("UPDATE live_feed SET seq = seq + 9", "live_feed: has a line that says something else"),
        ("UPDATE live_feed SET line = x'5b5d'", "live_feed: has a line that says something else"),
    ):
        with stranger(ledger_path) as file:
            file.execute("BEGIN")
            kept = file.execute("SELECT number, state, seq, line FROM live_feed").fetchall()
            file.execute(forged)
            file.execute("COMMIT")
            assert found() == [what] * 2
            file.executemany("UPDATE live_feed SET state = ?2, seq = ?3, line = ?4 WHERE number = ?1", kept)
    assert found() == []
