"""A page becomes PDF in a process of its own: it loads while runs are counted, and prints while units are written."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from station.faults import Fault, FaultError

_PRINTING_S: Final = 300.0  # a hundred times what a page takes


class Printer:
    """Prints one page. To be closed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def close(self) -> None:
        """End its process, whatever it is at."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def begin(self, page: str, file: Path) -> None:
        """Have ``page`` (HTML) printed to ``file``, and do not wait for it."""
        pipe: IO[bytes] = self._process.stdin  # type: ignore[assignment]  # it is a pipe
        with suppress(BrokenPipeError), pipe:  # `end` tells why
            pipe.write(f"{file}\n{page}".encode())
        self._process.stdin = None

    def end(self) -> None:
        """Wait until it is printed.

        Raises:
            FaultError: `Fault.REPORT_UNWRITTEN` where it is not; Pango may be missing.
        """
        try:
            _, said = self._process.communicate(timeout=_PRINTING_S)
        except subprocess.TimeoutExpired as error:
            raise FaultError(Fault.REPORT_UNWRITTEN, f"the PDF is not printed within {_PRINTING_S:.0f} s") from error
        if self._process.returncode:
            why = (said.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
            raise FaultError(Fault.REPORT_UNWRITTEN, f"the PDF: {why}")


def main() -> None:
    """Load, then print what comes: a line with the file's path, then the page."""
    # The same page gives the same bytes (https://reproducible-builds.org/specs/source-date-epoch/).
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    try:
        import weasyprint  # noqa: PLC0415 - what is missing is told
    except OSError as error:
        sys.exit(f"it needs Pango ({error}); apt-get install libpango-1.0-0 libpangoft2-1.0-0")
    path, _, page = sys.stdin.buffer.read().decode().partition("\n")
    if page:
        weasyprint.HTML(string=page, url_fetcher=_refuse).write_pdf(path)


def _refuse(url: str, *_: Any, **__: Any) -> Any:
    raise ValueError(f"the page fetches nothing, and not {url[:80]}")


if __name__ == "__main__":
    main()
