"""Packs the Lambda function: this software's own modules that it needs, what pip put beside them, and the seals."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from station.faults import Fault, FaultError
from station.feed.register import load_seals

_TIME: Final = (2020, 1, 1, 0, 0, 0)  # the same content gives the same zip
_LIST: Final = """
import sys, station.activator.function
for module in sorted(sys.modules):
    if module.split(".")[0] == "station":
        print(module)
"""


def modules() -> list[str]:
    """The modules of the house that the function imports, found by importing it."""
    done = subprocess.run([sys.executable, "-I", "-c", _LIST], capture_output=True, text=True, check=True)
    return done.stdout.split()


def package(target: Path, seals: Iterable[Path], vendored: Path | None) -> int:
    """Write the zip; returns its bytes.

    Args:
        target: the file to write; it is replaced.
        seals: public keys of the stations that shall be believed.
        vendored: a folder that ``pip install --target`` filled; None where a Lambda layer brings the libraries.

    Raises:
        FaultError: `Fault.CONFIG` where a file cannot be read or written; `Fault.SEAL_INVALID` for a seal that is none.
    """
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
            for name, content in sorted({**_own(), **_seals(seals), **dict(_tree(vendored))}.items()):
                entry = zipfile.ZipInfo(name, _TIME)
                entry.external_attr = 0o644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                out.writestr(entry, content)
        return target.stat().st_size
    except OSError as error:
        raise FaultError(Fault.CONFIG, f"{error.filename or target}: {error.strerror}") from error


def _own() -> dict[str, bytes]:
    root = Path(__file__).parent.parent
    found = {}
    for module in modules():
        inner = Path(*module.split(".")[1:])
        file = root / inner / "__init__.py" if (root / inner).is_dir() else (root / inner).with_suffix(".py")
        found[str(Path("station") / file.relative_to(root))] = file.read_bytes()
    return found


def _seals(files: Iterable[Path]) -> dict[str, bytes]:
    return {f"seals/{name[:16]}.pem": pem for name, pem in load_seals(files).items()}


def _tree(folder: Path | None) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")) if folder else []:
        if file.is_file() and "__pycache__" not in file.parts:
            yield str(file.relative_to(folder or file)), file.read_bytes()
