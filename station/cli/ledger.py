"""Commands on the record's file: is it as it was written, copies of it, its way back. They need no running station."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from station.cli.parsing import Commands, command, group, print_json, with_by, with_json

if TYPE_CHECKING:
    from station.ledger.anchors import Anchor
    from station.ledger.verify import Verdict

_VERIFY = """\
FILE may be a ledger, a copy of one, an export, an archive, or the folder of all archives, which then join without a
gap; no settings are needed then, nor a station.
Without FILE it is this station's own ledger, even while the line runs.

What comes after the newest anchor cannot be proved; give the anchors that left the machine: the report's mail as it was
saved (text or .eml), the file from S3, what `station ledger anchor --line` prints. With --seal each day's head in FILE
is held against its signature too. Exit code 0: as it was written; 1: not, each finding is named.

examples:
  station ledger verify
  station ledger verify copy.sqlite --anchor mail-2026-11-24.txt --seal seal.pem
  station ledger verify 2026-11-24.jsonl.gz --json
"""


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    ledger = group(commands, "ledger", "the record: verify, export, backup, restore")
    verify = with_json(command(ledger, "verify", _verify, "is the record as the station wrote it"))
    verify.epilog, verify.formatter_class = _VERIFY, argparse.RawDescriptionHelpFormatter
    verify.add_argument(
        "file",
        type=Path,
        nargs="?",
        help="a ledger, copy, export, archive, or folder of archives (default: this station's)",
    )
    verify.add_argument("--anchor", type=Path, action="append", default=[], help="a text that holds anchors; repeat it")
    verify.add_argument("--seal", type=Path, help="the seal's public key (PEM): every anchor must be signed by it")
    export = command(ledger, "export", _export, "the whole record as JSON Lines that verify by themselves")
    export.add_argument("target", type=Path, help="a new file; .gz is compressed")
    backup = command(ledger, "backup", _backup, "copy the ledger to a new file while the line runs")
    backup.add_argument("target", type=Path, help="a new file, best on another disk")
    restore = command(
        ledger, "restore", _restore, "put a verified backup in the ledger's place; the station is stopped"
    )
    restore.add_argument("source", type=Path)
    with_by(restore)
    with_by(command(ledger, "begin", _begin, "begin a new record: this station's is gone, and no backup is left"))
    anchor = with_json(command(ledger, "anchor", _anchor, "print the newest anchor, to be kept elsewhere"))
    anchor.add_argument("--line", metavar="LOGIN", help="of each station, from the line's PostgreSQL as this reader")
    anchor.add_argument("--password-file", type=Path, help="its password, mode 0600 (none: the server trusts us)")


def _own(arguments: argparse.Namespace) -> Path:
    from station.config import load

    return load(arguments.config).state / "ledger.sqlite"


def _verify(arguments: argparse.Namespace) -> int:
    from station import seal
    from station.ledger import export, verify

    anchors = [anchor for path in arguments.anchor for anchor in _anchors(path)]
    key = _public(arguments.seal) if arguments.seal else None
    if key is not None:
        for anchor in anchors:
            seal.verify(key, anchor.message, anchor.signature or b"")
    path = arguments.file or _own(arguments)
    if path.is_dir():
        verdict = export.verify_archives(path, anchors, _progress("archives"))
    elif path.name.endswith((".jsonl", ".jsonl.gz", ".gz")):
        verdict = export.verify_export(path, anchors, _progress("bytes"))
    else:
        verdict = verify.ledger_file(path, anchors, _progress("links"))
    if key is not None:
        verify.sealed_by(verdict, seal.seal_id(key), lambda message, signature: seal.verify(key, message, signature))
    if arguments.json:
        print_json(
            {
                "whole": not verdict.findings,
                "station": verdict.station,
                "links": verdict.links,
                "runs": verdict.runs,
                "hash": verdict.hash,
                "at": verdict.at,
                "schema": verdict.schema or None,
                "proved_to": verdict.anchor.seq if verdict.anchor else 0,
                "unproved": verdict.unproved,
                "heads": len(verdict.heads),
                "sealed": verdict.sealed if key is not None else None,
                "findings": [{"what": f.what, "where": f.where, "link": f.link} for f in verdict.findings],
            }
        )
    else:
        _say(path, verdict)
        if key is not None:
            print(f"Sealed: {verdict.sealed} of the {len(verdict.heads)} head(s) in it, by {arguments.seal}.")
    return 1 if verdict.findings else 0


def _say(path: Path, verdict: Verdict) -> None:
    from station.ledger import store

    for finding in verdict.findings:
        link = f"link {finding.link}: " if finding.link else ""
        print(f"{link}{finding.where}: {finding.what}")
    if verdict.findings:
        print(f"{path} is NOT as the station wrote it. Keep the file, and every anchor; call the auditor.")
        return
    print(f"{path} is as station {verdict.station} wrote it: {verdict.links} links, {verdict.runs} ended runs.")
    if verdict.schema not in {"", store.HEAD}:
        print(f"It is of schema {verdict.schema}, from before an update: restoring it brings it to {store.HEAD}.")
    if verdict.anchor:
        print(f"Proved to link {verdict.anchor.seq} by {verdict.anchor.source} of {verdict.anchor.day}.")
    if verdict.unproved:
        after = f"after link {verdict.anchor.seq}" if verdict.anchor else "in it"
        why = "no anchor given here is newer" if verdict.anchor else "no anchor was given (--anchor)"
        print(f"What happened {after} cannot be proved ({verdict.unproved} link(s)): {why}.")


def _anchors(path: Path) -> list[Anchor]:
    """Those in a text, or in a mail as it was saved, whatever its parts are coded in."""
    from station.faults import Fault, FaultError
    from station.ledger.anchors import of_file

    try:
        return of_file(path)
    except OSError as error:
        raise FaultError(Fault.ANCHOR_INVALID, f"{path} cannot be read: {error.strerror}") from error


def _public(path: Path) -> bytes:
    from station.faults import Fault, FaultError

    try:
        return path.read_bytes()
    except OSError as error:
        raise FaultError(Fault.SEAL_INVALID, f"{path} cannot be read: {error.strerror}") from error


def _export(arguments: argparse.Namespace) -> None:
    from station.faults import Fault, FaultError
    from station.ledger import export

    if arguments.target.exists():
        raise FaultError(Fault.LEDGER_DOWN, f"{arguments.target} is there already; name a new file")
    written = export.export(_own(arguments), arguments.target, progress=_progress("links"))
    print(f"{written.path}: links {written.first} to {written.last}; verify it: station ledger verify {written.path}")


def _backup(arguments: argparse.Namespace) -> None:
    from station.ledger import backup, digest, verify

    backup.backup(_own(arguments), arguments.target, _progress("pages"))
    verdict = verify.ledger_file(arguments.target, progress=_progress("links"))
    if verdict.findings:
        _say(arguments.target, verdict)
        raise SystemExit(1)
    beside = digest.beside(arguments.target)
    print(f"{arguments.target}: {verdict.links} links, verified; its SHA-256 is in {beside}, keep both")


def _restore(arguments: argparse.Namespace) -> None:
    from station.config import load
    from station.ledger import backup

    config = load(arguments.config)
    archives = config.proof.archives_in(config.state)
    kept = backup.restore(arguments.source, config.state, archives, arguments.by, config.station)
    print(f"the ledger is that of {arguments.source} now, and says so")
    if kept:
        print(f"the replaced one is kept: {kept}")


def _begin(arguments: argparse.Namespace) -> None:
    from station.config import load
    from station.ledger import backup

    config = load(arguments.config)
    backup.begin(config.state, config.proof.archives_in(config.state), arguments.by, simulated=config.simulate)
    print("a new record is begun, and says so: which units passed before is not known to it")


def _anchor(arguments: argparse.Namespace) -> int:
    found = _of_line(arguments) if arguments.line else _newest(arguments)
    if not found:
        print("no day is over yet that has anything on record", file=sys.stderr)
        return 1
    for one in found:
        if arguments.json:
            print_json({"station": one.station, "day": one.day, "link": one.seq, "hash": one.hash})
        else:
            print(one.text)
    return 0


def _newest(arguments: argparse.Namespace) -> list[Anchor]:
    from station.ledger.verify import heads

    return heads(_own(arguments))[-1:]


def _of_line(arguments: argparse.Namespace) -> list[Anchor]:
    from contextlib import closing

    from station.config import load
    from station.config.secrets import read_password
    from station.faults import Fault, FaultError
    from station.ledger.line import LineServer
    from station.ledger.line.status import newest_links

    config = load(arguments.config)
    if config.line is None:
        raise FaultError(Fault.CONFIG, "the settings have no section `line`: this station stands alone")
    password = read_password(arguments.password_file) if arguments.password_file else ""
    with closing(LineServer(config.line, password, arguments.line)) as server, server.transaction() as connection:
        return newest_links(connection)


def _progress(what: str) -> Callable[[int, int], None]:
    """A line that counts on a terminal, nothing anywhere else."""
    if not sys.stderr.isatty():
        return lambda _done, _of: None
    return lambda done, of: print(f"\r{what}: {done} of {of}", end="\n" if done == of else "", file=sys.stderr)
