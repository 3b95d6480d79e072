"""The minutes of an act: what was done by whom with what result, as Markdown for people and JSON for machines.

Both are one document: the JSON holds the hash of the Markdown, and the seal signs the JSON. Where there is no seal yet
(the act that makes it comes first at a new token) they say so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from station import seal
from station.ceremony.journal import Say, now
from station.ceremony.session import Session
from station.faults import Fault, FaultError, printable, readable
from station.seal import Seal

_MAX_MINUTES: Final = 1024 * 1024


def write(
    act: str, *, rehearsal: bool, session: Session, by: Seal | None, folder: Path | None = None
) -> dict[str, Any]:
    """Write both, once; an act that was cut here goes on with the same bytes. Returns the record.

    Args:
        act: what the minutes are of; of an undo, ``undo`` and the act.
        rehearsal: whether it is one.
        session: who did what.
        by: the seal, where there is one.
        folder: of an undo, where its minutes go; the act's own are written at its outputs.
    """
    journal, undo = session.journal, "undo " if folder else ""
    journal.add(**{f"{undo}ended": now()})
    made = journal.keep(
        f"{undo}record", lambda: _canonical(_record(act, session, rehearsal=rehearsal, by=by, undo=undo))
    )
    record = json.loads(made)
    text = _markdown(record)

    def signed() -> str:
        body = {**record, "markdown_sha256": hashlib.sha256(text.encode()).hexdigest()}
        signature = base64.b64encode(by.sign(_canonical(body).encode())).decode() if by else None
        public = by.public_key_pem.decode() if by else None
        return _document(body, public, signature)

    sealed = journal.keep(f"{undo}sealed", signed)
    journal.write_output(f"{undo}minutes", text, folder / "minutes-undo.md" if folder else None)
    journal.write_output(f"{undo}minutes_json", sealed, folder / "minutes-undo.json" if folder else None)
    return {**record, "minutes_sha256": hashlib.sha256(sealed.encode()).hexdigest()}


def verify(path: Path, public_key_pem: bytes | None, say: Say) -> None:
    """See that minutes are as they were sealed, Markdown and JSON, and tell what they are.

    Args:
        path: either of the two files; the other is beside it.
        public_key_pem: the seal that one trusts. The minutes hold their seal's public key too, but whoever forges the
            one forges the other.
        say: hears what was found.

    Raises:
        FaultError: `Fault.SEAL_INVALID` where they are not sealed, not by this seal, or were changed;
            `Fault.CONFIG` where they cannot be read.
    """
    text, raw = (_read(path.with_suffix(suffix)) for suffix in (".md", ".json"))
    try:
        document = json.loads(raw)
        body, said = dict(document["minutes"]), document["seal"]
        signature, public = said["signature"], said["public_key"]
        whole = _document(body, public, signature)
        wanted = body["markdown_sha256"]
        title = f"act {body['act']} of {body['ended']}, by {body['sittings'][-1]['by']}"
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise FaultError(Fault.SEAL_INVALID, f"{path} holds no minutes of this software: {error}") from None
    if hashlib.sha256(text).hexdigest() != wanted:
        raise FaultError(Fault.SEAL_INVALID, f"{path.with_suffix('.md')} is not the text that the JSON beside it names")
    if not signature:
        raise FaultError(
            Fault.SEAL_INVALID, f"{printable(title, 120)}: these minutes say themselves that no seal was there"
        )
    if public_key_pem is None:
        raise FaultError(
            Fault.SEAL_INVALID,
            f"sealed by {seal.seal_id(str(public).encode())}; that is theirs to say: name the seal that you trust,"
            " --seal FILE",
        )
    seal.verify(public_key_pem, _canonical(body).encode(), _decoded(signature))
    # What the signature leaves open: the white space, and the public key beside it.
    if raw != whole.encode() or str(public).encode() != public_key_pem.replace(b"\r\n", b"\n"):
        raise FaultError(Fault.SEAL_INVALID, f"{path.with_suffix('.json')} is not as it was written")
    say(f"{readable(title, 200)}: as sealed by {seal.seal_id(public_key_pem)}")
    _outputs_beside(path, body, say)


def _outputs_beside(path: Path, body: dict[str, Any], say: Say) -> None:
    """Outputs that lie beside the minutes are the ones that the minutes tell of."""
    for name, wanted in dict(body.get("outputs", {})).items():
        file = path.parent / Path(str(name)).name
        if not file.is_file():
            say(f"  {printable(str(name), 80)}: not beside the minutes, not looked at")
        elif hashlib.sha256(_read(file)).hexdigest() == wanted:
            say(f"  {printable(str(name), 80)}: as written then")
        else:
            raise FaultError(Fault.SEAL_INVALID, f"{file} is not what the act wrote")


def _record(act: str, session: Session, *, rehearsal: bool, by: Seal | None, undo: str) -> dict[str, Any]:
    facts = session.journal.facts
    record = {
        "version": 1,
        "id": facts["id"],
        "act": act,
        "rehearsal": rehearsal,
        "began": facts["began"],
        "ended": facts[f"{undo}ended"],
        "sittings": facts["sittings"],
        "file": {"name": session.file.name, "sha256": facts["file"]},
        "software": version("provisioning-station"),
        "host": platform.node(),
        "key_origin": session.evidence.get(
            "key_origin", "made in the token" if "public_key" in facts else "not made here"
        ),
        "token": facts.get("token"),
        "certificates": {
            name: _fingerprints(x509.load_pem_x509_certificate(pem.encode()))
            for name, pem in session.evidence.get("certificates", {}).items()
        },
        "aws": session.evidence.get("aws"),
        "steps": facts["steps"],
        "findings": facts.get("findings", []),
        "outputs": session.journal.output_hashes(),
        "seal": by.id if by else None,
    }
    return {name: value for name, value in record.items() if value not in (None, {}, []) or name == "seal"}


def _fingerprints(certificate: x509.Certificate) -> dict[str, str]:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "number": f"{certificate.serial_number:x}",
        "valid": f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}",
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "key_sha256": hashlib.sha256(spki).hexdigest(),
    }


def _markdown(record: dict[str, Any]) -> str:
    """For people. Every value is made harmless: file names and tokens' labels are others' words."""
    kind = "REHEARSAL of the act" if record["rehearsal"] else "Act"
    lines = [f"# {kind} {record['act']}: minutes", ""]
    lines += [f"From {record['began']} to {record['ended']} (UTC), on {_text(record['host'])}.", ""]
    for sitting in record["sittings"]:
        watched = f", watched by {', '.join(map(_text, sitting['witnesses']))}" if sitting["witnesses"] else ""
        lines.append(f"- {sitting['at']}: performed by {_text(sitting['by'])}{watched}")
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {name} | {_text(value)} |" for name, value in _flat(record)]
    lines += ["", "## Steps", "", "| time (UTC) | step | result |", "|---|---|---|"]
    lines += [f"| {step['at']} | {_text(step['name'])} | {_text(step['result'])} |" for step in record["steps"]]
    if "findings" in record:
        lines += ["", "## Take note", "", *(f"- the CA certificate {_text(finding)}" for finding in record["findings"])]
    sealed = f"Sealed by {record['seal']}." if record["seal"] else "NOT sealed: there was no seal when this was done."
    lines += ["", "## Seal", "", sealed, "", "Signatures of those present:", ""]
    return "\n".join(lines) + "\n"


def _flat(record: dict[str, Any]) -> list[tuple[str, object]]:
    """What stands in the first table, a row each."""
    rows: list[tuple[str, object]] = [("act id", record["id"])]
    rows += [("file", record["file"]["name"]), ("file SHA-256", record["file"]["sha256"])]
    rows += [("software", record["software"]), ("key", record["key_origin"])]
    token = dict(record.get("token", {}))
    attributes = token.pop("attributes", {})
    rows += [(f"token {name}", value) for name, value in token.items()]
    rows += [(f"key {name}", "unknown to the token" if value is None else value) for name, value in attributes.items()]
    for name, prints in record.get("certificates", {}).items():
        rows += [(f"certificate {name} {what}", value) for what, value in prints.items()]
    rows += [(f"AWS {name}", value) for name, value in record.get("aws", {}).items()]
    rows += [(f"output {name} SHA-256", value) for name, value in record.get("outputs", {}).items()]
    return rows


def _text(value: object) -> str:
    """Printable, and no Markdown of its own."""
    clean = readable(str(value), 400)
    return "".join(f"\\{char}" if char in r"\`*_[]<>|#" else char for char in clean)


def _document(body: dict[str, Any], public: object, signature: object) -> str:
    """The JSON file."""
    return json.dumps({"minutes": body, "seal": {"public_key": public, "signature": signature}}, indent=2) + "\n"


def _canonical(value: dict[str, Any]) -> str:
    """One text for one value: what the seal signs."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _decoded(signature: object) -> bytes:
    try:
        found = base64.b64decode(str(signature), validate=True)
    except ValueError:
        return b""
    return found if base64.b64encode(found).decode() == signature else b""  # the last letter's unused bits


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_MINUTES)
    except OSError as error:
        raise FaultError(Fault.CONFIG, f"{path} cannot be read: {error.strerror}") from error
