"""Delivery: on disk before it is tried, tried again until it is done, told while it is not, never twice, never lost.

The mail server is a real one (aiosmtpd) with real TLS; the S3 is MiniStack's.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from datetime import timedelta
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cloud import SimCloud
from month import RunFact, put
from test_yields_files import DAY, NOON, NOW, maker, orders

from station.aws import calls
from station.config.report import Report
from station.faults import Fault, FaultError
from station.ledger import SqliteLedger, anchors, verify
from station.sim.cloud import _make_server_certificate
from station.yields import delivery, mail
from station.yields.making import Maker, Wanted

ADDRESS = "line-1@example.com"


class Mailbox:
    """What the server took; ``refuse`` is what it says instead."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes]] = []
        self.refuse = ""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self.refuse:
            return self.refuse
        self.taken += [(to, envelope.content) for to in envelope.rcpt_tos]
        return "250 OK"


class Server(Controller):
    """aiosmtpd's, on a port that the kernel chooses."""

    def _trigger_server(self) -> None:
        self.port = port(self)
        super()._trigger_server()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mail")
    _make_server_certificate(folder, "server")
    return folder


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def server(pki: Path, mailbox: Mailbox) -> Iterator[Controller]:
    """A mail server that wants STARTTLS, and a login over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem")

    def login(_server: Any, _session: Any, _envelope: Any, _mechanism: Any, given: LoginPassword) -> AuthResult:
        return AuthResult(success=(given.login, given.password) == (b"line-1", b"pa55"), handled=False)

    controller = Server(
        mailbox,
        hostname="127.0.0.1",
        port=0,
        tls_context=context,
        require_starttls=True,
        authenticator=login,
        auth_required=True,
    )
    controller.start()
    yield controller
    controller.stop()


def port(server: Controller) -> int:
    listening: Any = server.server
    number: int = listening.sockets[0].getsockname()[1]
    return number


def settings(pki: Path, at: int, password: str = "pa55", **more: Any) -> Report:  # noqa: S107 - a test server's
    secret = pki / f"password-{password}"
    secret.write_text(f"{password}\n")
    secret.chmod(0o600)
    told = {
        "server": "localhost",
        "port": at,
        "roots": str(pki / "server-roots.pem"),
        "user": "line-1",
        "login": {"file": str(secret)},
        "sender": ADDRESS,
        "to": ["quality@example.com", "boss@example.com"],
        "timeout_s": 5,
        **more,
    }
    return Report.model_validate_json(json.dumps({"timezone": "Asia/Ho_Chi_Minh", "mail": told}))


def one_day(ledger: SqliteLedger, folder: Path, told: Report, language: str = "vi") -> Maker:
    put(ledger, orders(), [RunFact("r", "SN-1", NOON, "PASS")])
    made_by = maker(ledger, folder, language, told)
    made_by.make(Wanted(day=DAY, formats=("html", "csv"), deliver=True), NOW)
    return made_by


def deliver(made_by: Maker, folder: Path) -> list[Any]:
    return delivery.deliver(folder, made_by.settings, lambda _: None, pause=lambda _: None)


def test_each_person_gets_the_page_by_mail_once(
    ledger: SqliteLedger, tmp_path: Path, pki: Path, server: Controller, mailbox: Mailbox
) -> None:
    made_by = one_day(ledger, tmp_path, settings(pki, port(server)))
    assert deliver(made_by, tmp_path) == []
    assert deliver(made_by, tmp_path) == []
    made_by.make(Wanted(day=DAY, formats=("html",), deliver=True), NOW)
    assert deliver(made_by, tmp_path) == []
    assert [to for to, _ in mailbox.taken] == ["quality@example.com", "boss@example.com"]
    message = message_from_bytes(mailbox.taken[0][1], policy=policy.default)
    assert message["Subject"].startswith("100,0\u00a0% trong 1 bo mạch mới đạt ngay lần đầu".replace("\u00a0", " "))
    (page,) = message.iter_attachments()
    assert page.get_filename() == "yield-line-1-2026-11-24.html"
    assert "Tỷ lệ đạt" in page.get_content()


def test_the_mail_takes_the_newest_anchor_out_of_the_machine(
    ledger: SqliteLedger, tmp_path: Path, pki: Path, server: Controller, mailbox: Mailbox
) -> None:
    anchors.add_head(ledger.store, "line-1", "2026-11-23")
    head = anchors.add_head(ledger.store, "line-1", "2026-11-24")
    made_by = one_day(ledger, tmp_path, settings(pki, port(server)))
    assert deliver(made_by, tmp_path) == []
    mail_file = tmp_path / "as-it-was-saved.eml"
    mail_file.write_bytes(mailbox.taken[0][1])
    (found,) = anchors.of_file(mail_file)
    assert head is not None
    assert found.text == head.text
    verdict = verify.ledger_file(ledger.store.path, [found])
    assert (verdict.findings, verdict.anchor) == ([], found)


def test_what_is_not_taken_is_kept_told_and_tried_again(
    ledger: SqliteLedger, tmp_path: Path, pki: Path, server: Controller, mailbox: Mailbox
) -> None:
    made_by = one_day(ledger, tmp_path, settings(pki, port(server)), "en")
    mailbox.refuse = "451 the disk is full"
    left = deliver(made_by, tmp_path)
    assert [(one.report, one.where) for one in left] == [
        ("2026-11-24", "mail quality@example.com"),
        ("2026-11-24", "mail boss@example.com"),
    ]
    assert "S643" in left[0].why
    assert "the disk is full" in left[0].why
    # The next day's page says so.
    page = made_by.make(Wanted(day=DAY + timedelta(days=1), formats=("html",)), NOW + timedelta(days=1)).folder
    assert "2026-11-24 is not delivered to mail boss@example.com yet" in next(page.glob("*.html")).read_text()
    mailbox.refuse = ""
    assert deliver(made_by, tmp_path) == []
    assert len(mailbox.taken) == 2
    identities = {message_from_bytes(raw)["Message-ID"] for _, raw in mailbox.taken}
    assert len(identities) == 2


def test_a_mail_server_that_is_away_is_a_fault_with_a_next_step_and_the_report_stays(
    ledger: SqliteLedger, tmp_path: Path, pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        away = settings(pki, free.getsockname()[1])
    monkeypatch.setattr(delivery, "_PAUSE_S", 0)
    made_by = one_day(ledger, tmp_path, away)
    with pytest.raises(FaultError) as error:
        made_by.deliver(lambda _: None)
    assert error.value.fault is Fault.REPORT_UNDELIVERED
    assert next((tmp_path / "2026-11-24").glob("*.html")).stat().st_size > 1000


def test_a_wrong_password_is_said_without_it(
    ledger: SqliteLedger, tmp_path: Path, pki: Path, server: Controller
) -> None:
    told = settings(pki, port(server), password="wr0ng")
    made_by = one_day(ledger, tmp_path, told)
    (first, *_) = deliver(made_by, tmp_path)
    assert "S643" in first.why
    assert "the login is refused" in first.why
    assert "wr0ng" not in (tmp_path / "2026-11-24" / "delivery.json").read_text()


def test_a_server_of_another_name_or_root_gets_nothing(
    ledger: SqliteLedger, tmp_path: Path, pki: Path, server: Controller, mailbox: Mailbox
) -> None:
    _make_server_certificate(pki, "other")
    told = settings(pki, port(server), roots=str(pki / "other-roots.pem"))
    made_by = one_day(ledger, tmp_path, told)
    (first, *_) = deliver(made_by, tmp_path)
    assert "CERTIFICATE_VERIFY_FAILED" in first.why
    assert mailbox.taken == []


def test_a_server_without_tls_gets_no_password(ledger: SqliteLedger, tmp_path: Path, pki: Path) -> None:
    class Plain(Mailbox):
        seen: list[str] = []  # noqa: RUF012 - one server, one list

        async def handle_EHLO(self, server: Any, session: Any, envelope: Any, hostname: str, answers: Any) -> Any:  # noqa: N802 - aiosmtpd's name
            session.host_name = hostname
            self.seen.append(hostname)
            return answers

    controller = Server(Plain(), hostname="127.0.0.1", port=0)
    controller.start()
    try:
        made_by = one_day(ledger, tmp_path, settings(pki, port(controller)))
        (first, *_) = deliver(made_by, tmp_path)
        assert "STARTTLS" in first.why
    finally:
        controller.stop()
    assert Plain.seen


def test_a_password_that_others_may_read_is_not_used(
    ledger: SqliteLedger, tmp_path: Path, pki: Path, server: Controller, mailbox: Mailbox
) -> None:
    told = settings(pki, port(server), password="open")
    (pki / "password-open").chmod(0o644)
    made_by = one_day(ledger, tmp_path, told)
    (first, *_) = deliver(made_by, tmp_path)
    assert "chmod 0600" in first.why
    assert mailbox.taken == []


def test_a_subject_is_one_line() -> None:
    assert mail.printable_line("a\r\nBcc: x@example.com") == "a Bcc: x@example.com"


def test_a_running_day_is_not_sent(ledger: SqliteLedger, tmp_path: Path, pki: Path) -> None:
    made_by = maker(ledger, tmp_path, "en", settings(pki, 1))
    made_by.make(Wanted(day=DAY, formats=("csv",), deliver=True), NOON)
    assert delivery.undelivered(tmp_path, made_by.settings) == []


@pytest.fixture
def s3(cloud: SimCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """S3 as the boss sees it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = boto3.client("s3", region_name="us-east-1", endpoint_url=cloud.said["api_url"])
    yield client
    client.close()


def to_s3(url: str, bucket: str) -> Report:
    told = {"bucket": bucket, "region": "us-east-1", "prefix": "line-1/", "simulator": url}
    return Report.model_validate_json(json.dumps({"s3": told}))


def test_a_report_goes_to_s3_whole(ledger: SqliteLedger, tmp_path: Path, cloud: SimCloud, s3: Any) -> None:
    made_by = one_day(ledger, tmp_path, to_s3(cloud.said["api_url"], "yields"))
    (first,) = deliver(made_by, tmp_path)
    assert "S644" in first.why
    assert "NoSuchBucket" in first.why
    s3.create_bucket(Bucket="yields")
    assert deliver(made_by, tmp_path) == []
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="yields")["Contents"]]
    assert keys == [f"line-1/2026-11-24/yield-line-1-2026-11-24.{end}" for end in ("csv", "html")]
    for key in keys:
        body = s3.get_object(Bucket="yields", Key=key)["Body"].read()
        assert body == (tmp_path / "2026-11-24" / key.rpartition("/")[2]).read_bytes()


def test_a_report_that_s3_has_in_another_form_is_never_written_over(
    ledger: SqliteLedger, tmp_path: Path, cloud: SimCloud, s3: Any
) -> None:
    s3.create_bucket(Bucket="yields-2")
    key = "line-1/2026-11-24/yield-line-1-2026-11-24.html"
    s3.put_object(Bucket="yields-2", Key=key, Body=b"of another station with this prefix")
    made_by = one_day(ledger, tmp_path, to_s3(cloud.said["api_url"], "yields-2"))
    (first,) = deliver(made_by, tmp_path)
    assert first.why == f"S645 s3://yields-2/{key} holds something else"
    assert s3.get_object(Bucket="yields-2", Key=key)["Body"].read() == b"of another station with this prefix"
    s3.delete_object(Bucket="yields-2", Key=key)
    assert deliver(made_by, tmp_path) == []  # the file that was there from the try before is no hindrance


def test_a_store_that_is_away_or_in_trouble_is_told_and_tried_again(
    ledger: SqliteLedger, tmp_path: Path, cloud: SimCloud, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_PATIENCE_S", 0.1)
    s3.create_bucket(Bucket="yields-3")
    cloud.troubles(api={"PutObject": "SlowDown"})
    made_by = one_day(ledger, tmp_path, to_s3(cloud.said["api_url"], "yields-3"))
    (first,) = deliver(made_by, tmp_path)
    assert first.why.startswith("S644 s3://yields-3: ")
    assert "SlowDown" in first.why
    with socket.create_server(("127.0.0.1", 0)) as free:
        away = to_s3(f"http://127.0.0.1:{free.getsockname()[1]}", "yields-3")
    (first,) = delivery.deliver(tmp_path, away, lambda _: None, pause=lambda _: None)
    assert "S644" in first.why
    cloud.troubles()
    assert deliver(made_by, tmp_path) == []


def test_a_torn_note_of_what_was_delivered_is_said(tmp_path: Path, pki: Path) -> None:
    (tmp_path / "2026-11-24").mkdir()
    (tmp_path / "2026-11-24" / "delivery.json").write_text('{"to": ')
    with pytest.raises(FaultError) as error:
        delivery.undelivered(tmp_path, settings(pki, 1))
    assert error.value.fault is Fault.REPORT_UNWRITTEN


def test_mail_failures_have_one_fault(pki: Path, tmp_path: Path) -> None:
    told = settings(pki, 9).mail
    assert told is not None
    with pytest.raises(FaultError) as error:
        mail.send(told, "x@example.com", "s", "t", tmp_path, NOW)
    assert error.value.fault is Fault.MAIL_FAILED
