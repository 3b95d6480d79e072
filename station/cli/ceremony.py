"""Commands of the provider: ceremonies and their minutes; what is handed over to a line, and adopted by a station."""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from station.cli.parsing import Commands, command, name, with_by

if TYPE_CHECKING:
    from station.ceremony import People
    from station.seal import Seal

_WAITS = 4
_ROOTS = Path(__file__).parent.parent.parent / "config" / "amazon-roots.pem"

_EXAMPLES = """\
examples:
  station ceremony root.yaml register.yaml --rehearse   both acts, in a scratch token and a simulated AWS IoT
  station ceremony root.yaml --by "Lan" --witness "Minh"
  station ceremony register.yaml --undo                 delete the registration again
  station ceremony verify minutes-root.md --seal seal.pem

exit codes: 0 complete, 1 a fault, 4 begun and waiting for somebody else (perform the same file again then)
"""


def add_to(commands: Commands) -> None:
    """Add this module's commands."""
    act = command(
        commands,
        "ceremony",
        _ceremony,
        "perform acts that reviewed files describe (may be repeated), or verify minutes",
    )
    act.epilog, act.formatter_class = _EXAMPLES, argparse.RawDescriptionHelpFormatter
    act.add_argument("file", type=Path, nargs="+", help="an act's file, several in their order; or: verify MINUTES")
    act.add_argument("--yes", action="store_true", help="do not ask after printing the plan")
    act.add_argument("--rehearse", action="store_true", help="in a scratch SoftHSM token and the simulated cloud")
    act.add_argument("--scratch", type=Path, help="a new folder for the rehearsal (default: below $TMPDIR)")
    act.add_argument("--undo", action="store_true", help="take back what the act did at AWS IoT")
    act.add_argument(
        "--witness", type=name, action="append", default=[], help="who watches, for the minutes; repeat it"
    )
    act.add_argument("--seal", type=Path, help="the public key by which to verify minutes (default: the station's)")
    with_by(act)

    give = command(commands, "handover", _handover, "write what a line needs into a new folder; never a private key")
    give.add_argument("folder", type=Path)
    give.add_argument("--registration", type=Path, required=True, help="what the act register wrote")
    give.add_argument("--ca", type=Path, required=True, help="the CA certificate")
    give.add_argument("--products", type=Path, nargs="+", required=True, help="product files")
    give.add_argument("--activation", choices=("station", "provider"), default="station", help="who sets ACTIVE")
    give.add_argument("--policy", help="the policy that the station attaches (with --activation station)")
    give.add_argument("--thing-type", help="the type of the things that the station makes (with --activation station)")
    give.add_argument("--roots", type=Path, default=_ROOTS, help="server roots (default: Amazon's, as shipped)")
    give.add_argument("--port", type=int, default=8883, help="8883, or 443 with ALPN")
    give.add_argument("--seal-of", type=Path, metavar="ACT", help="sign the checksums with the seal of this act's file")
    with_by(give)

    take = command(commands, "adopt", _adopt, "prove a hand-over and configure this station from it")
    take.add_argument("folder", type=Path)
    take.add_argument("--seal", type=Path, help="the public key of the provider's seal: the hand-over must be under it")


def _handover(arguments: argparse.Namespace) -> None:
    from station.ceremony import handover

    said = handover.facts(
        arguments.by,
        activation=arguments.activation,
        policy=arguments.policy,
        thing_type=arguments.thing_type,
        port=arguments.port,
    )
    with _seal_of(arguments.seal_of) as seal:
        files = handover.make(
            arguments.folder,
            said,
            registration=arguments.registration,
            certificate=arguments.ca,
            roots=arguments.roots,
            products=arguments.products,
            seal=seal,
        )
    print(*(f"  {file}" for file in files), sep="\n")
    print(f"the hand-over is whole: {arguments.folder}; to look at it again: cd there, sha256sum -c SHA256SUMS")


def _seal_of(file: Path | None) -> AbstractContextManager[Seal | None]:
    from station.ceremony import seal
    from station.config import load_ceremony
    from station.faults import Fault, FaultError

    if file is None:
        return nullcontext()
    act = load_ceremony(file)
    if act.seal is None:
        raise FaultError(Fault.HANDOVER, f"{file} names no seal")
    return seal.named(act.seal, act.state)


def _adopt(arguments: argparse.Namespace) -> None:
    from station.ceremony.adopt import adopt
    from station.seal import read_public

    seal = read_public(arguments.seal) if arguments.seal else None
    adopt(arguments.folder, arguments.config, lambda line: print(line, flush=True), seal)
    print("next: station config check, then station doctor")


def _ceremony(arguments: argparse.Namespace) -> int:
    if arguments.file[0] == Path("verify"):
        return _verify(arguments)
    if arguments.rehearse:
        return _rehearse(arguments)
    from station import ceremony
    from station.config import load_ceremony

    acts = [(file, load_ceremony(file)) for file in arguments.file]
    for file, act in acts:
        for line in ceremony.plan(act, undoing=arguments.undo):
            print(line, flush=True)
        if not _asked(arguments, "Type yes to go on: ", "yes"):
            print("nothing was done", file=sys.stderr)
            return 1
        if arguments.undo:
            ceremony.undo(act, file, _people(arguments))
        elif not ceremony.perform(act, file, _people(arguments)):
            return _WAITS
    return 0


def _rehearse(arguments: argparse.Namespace) -> int:
    from tempfile import mkdtemp

    from station.ceremony.rehearsal import Simulation, rehearse
    from station.sim import line

    folder = arguments.scratch or Path(mkdtemp(prefix="station-rehearsal-"))
    with ExitStack() as parts:
        simulation = Simulation(
            label=line.TOKEN,
            module=line.softhsm_module(),
            make_token=line.make_token,
            start_cloud=lambda where, environment: line.start_cloud(where, parts, environment),
            environment=line.aws_credentials(),
        )
        done = rehearse(
            arguments.file,
            folder,
            simulation,
            _people(arguments),
            lambda: _asked(arguments, "Type yes to go on: ", "yes"),
        )
    print(f"what the rehearsal left is in {folder}")
    return 0 if done else _WAITS


def _people(arguments: argparse.Namespace) -> People:
    from station.ceremony import People

    return People(
        by=arguments.by,
        say=lambda line: print(line, flush=True),
        # --yes answers for the plan, never for what only a person can know.
        confirm=lambda question, word: not arguments.yes and _asked(arguments, question, word),
        witnesses=tuple(arguments.witness),
    )


def _asked(arguments: argparse.Namespace, question: str, word: str) -> bool:
    if arguments.yes:
        return True
    try:
        return input(question).strip() == word
    except EOFError:
        return False


def _verify(arguments: argparse.Namespace) -> int:
    from station.ceremony import minutes
    from station.faults import Fault, FaultError

    if len(arguments.file) < 2:
        raise FaultError(Fault.CEREMONY, "say which minutes: station ceremony verify MINUTES --seal seal.pem")
    trusted = _trusted(arguments)
    for path in arguments.file[1:]:
        minutes.verify(path, trusted, lambda line: print(line, flush=True))
    return 0


def _trusted(arguments: argparse.Namespace) -> bytes | None:
    """The seal named, else the station's, where this is a station."""
    path: Path | None = arguments.seal
    if path is None and arguments.config.exists():
        from station.config import load

        seal = load(arguments.config).seal
        path = seal.public if seal else None
    from station.seal import read_public

    return read_public(path) if path else None
