"""What every long-running process of the house does: it tells systemd, and logs one JSON object an event."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path

import structlog

log = structlog.get_logger()


def notify(*lines: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens outside of it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto("\n".join(lines).encode(), f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError as error:
            log.warning("systemd does not listen", detail=str(error))


def age_s() -> float:
    """Seconds since this process began, the interpreter's start and all imports among them (proc(5), starttime)."""
    # The name in the second field may hold anything; what follows its last bracket does not.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def log_as_json(**bound: str) -> None:
    """One JSON object an event, a line each, on stderr: systemd's journal keeps it. Libraries and dying threads too.

    ``bound`` stands in each of them.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[structlog.typing.Processor] = [
        # Without locals: they hold keys.
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(**bound)
    libraries = logging.StreamHandler(sys.stderr)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    # Warnings only: what botocore tells below that holds credentials.
    logging.basicConfig(handlers=[libraries], level=logging.WARNING, force=True)
    threading.excepthook = _thread_died


def _thread_died(what: threading.ExceptHookArgs) -> None:
    error = what.exc_value or what.exc_type()
    log.critical("a thread died", thread=what.thread.name if what.thread else None, exc_info=error)
