"""The report by e-mail: SMTP with TLS always (RFC 3207, RFC 8314), one message a person, its identity the report's."""

from __future__ import annotations

import hashlib
import mimetypes
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from station.config.report import Mail
from station.faults import Fault, FaultError, printable

_MOST_BYTES = 20 * 1024 * 1024  # what common servers take
_ATTACHED = (".html", ".pdf")


def send(settings: Mail, to: str, subject: str, text: str, report: Path, made_at: datetime) -> None:  # noqa: PLR0917
    """Hand one report to the mail server, for one person. Returns when the server has taken it.

    Raises:
        FaultError: `Fault.MAIL_FAILED`; the sentence says what the server said, and holds no password.
    """
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = printable_line(subject), settings.sender, to
    message["Date"] = format_datetime(made_at)
    # The same for each try: a mailbox that got it before a cut can tell.
    identity = hashlib.sha256(f"{report.name}\n{to}\n{made_at.isoformat()}".encode()).hexdigest()[:32]
    message["Message-ID"] = f"<{identity}@{settings.sender.partition('@')[2]}>"
    message.set_content(text)
    for file in _attachments(report):
        kind, _, detail = (mimetypes.guess_type(file.name)[0] or "application/octet-stream").partition("/")
        charset = {"charset": "utf-8"} if kind == "text" else None
        message.add_attachment(file.read_bytes(), maintype=kind, subtype=detail, filename=file.name, params=charset)
    with _translated(settings), _connected(settings) as server:
        server.send_message(message)


def printable_line(text: str) -> str:
    """One line: a subject must not begin a header of its own."""
    return " ".join(text.split())


def _attachments(report: Path) -> Iterator[Path]:
    left = _MOST_BYTES
    for file in sorted(report.iterdir()):
        if file.suffix in _ATTACHED and file.stat().st_size <= left:
            left -= file.stat().st_size
            yield file


@contextmanager
def _connected(settings: Mail) -> Iterator[smtplib.SMTP]:
    context = ssl.create_default_context(cafile=None if settings.roots is None else str(settings.roots))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.tls == "implicit":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            settings.server, settings.port, timeout=settings.timeout_s, context=context
        )
    else:
        server = smtplib.SMTP(settings.server, settings.port, timeout=settings.timeout_s)
    with server:
        if settings.tls == "starttls":
            server.starttls(context=context)
        if settings.user is not None and settings.login is not None:
            server.login(settings.user, settings.login.read())
        yield server


@contextmanager
def _translated(settings: Mail) -> Iterator[None]:
    where = f"{settings.server}:{settings.port}"
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        # Its text may quote what was sent.
        raise FaultError(Fault.MAIL_FAILED, f"{where}: the login is refused ({error.smtp_code})") from None
    except smtplib.SMTPRecipientsRefused as error:
        said = "; ".join(f"{to}: {code} {printable(str(text), 120)}" for to, (code, text) in error.recipients.items())
        raise FaultError(Fault.MAIL_FAILED, f"{where}: {said}") from error
    except (smtplib.SMTPException, OSError) as error:
        raise FaultError(Fault.MAIL_FAILED, f"{where}: {type(error).__name__}: {error}") from error
