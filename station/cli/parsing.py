"""What every command's arguments share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from getpass import getuser
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from station.control import Control

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse gives it no other name


def command(
    within: Commands, name: str, function: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    """Add one command; its text serves the list and its own help."""
    parser = within.add_parser(name, help=text, description=text)
    parser.set_defaults(command=function)
    return parser


def group(commands: Commands, name: str, text: str) -> Commands:
    """Add a word that has commands of its own."""
    return commands.add_parser(name, help=text, description=text).add_subparsers(required=True, metavar="COMMAND")


def with_json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="for scripts")
    return parser


def with_by(parser: argparse.ArgumentParser) -> None:
    """Add ``--by``: who is on record."""
    parser.add_argument("--by", type=name, default=_login(), help="who is on record for it, by name (default: you)")


def name(text: str) -> str:
    """A person's name, in any script."""
    from station.people import person

    try:
        return person(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _login() -> str:
    """The person's login; empty, and so refused, for a user id that nobody has (a container's)."""
    try:
        return getuser()
    except (KeyError, OSError):
        return ""


def control(arguments: argparse.Namespace) -> Control:
    """The running station that the settings name."""
    from station.config import load
    from station.control import Control

    return Control(load(arguments.config).runtime / "control.sock")


def print_json(value: object) -> None:
    """One line of JSON, for scripts."""
    print(json.dumps(value, separators=(",", ":"), default=sorted))
