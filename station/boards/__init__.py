"""The board families. One is loaded only when a product names it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from pydantic import BaseModel

from station.family import Family
from station.faults import Fault, FaultError

_GROUP = "station.boards"


def families() -> list[str]:
    """The names of the installed families."""
    return sorted(entry_points(group=_GROUP).names)


@cache
def family(name: str) -> Family:
    """The board family of that name, loaded once: to look through all installed packages takes some 10 ms.

    Raises:
        FaultError: `Fault.CONFIG` where no installed package names it.
    """
    found = entry_points(group=_GROUP, name=name)
    if not found:
        raise FaultError(Fault.CONFIG, f"no board family is called {name!r}; installed are {', '.join(families())}")
    loaded: Family = next(iter(found)).load()
    return loaded


def options(name: str) -> type[BaseModel]:
    """The model of the options that a product file may give the family of that name. Raises as `family`."""
    return family(name).options
