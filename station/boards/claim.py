"""A port that somebody else's program opens, held for one run all the same."""

from __future__ import annotations

import errno
import hashlib
import os
import socket

from station.faults import Fault, FaultError


class Claim:
    """The word that this process works on ``port``. It ends with `release`, or with the process.

    It is a name in the abstract Unix socket space, not a lock on the device: the flasher, which opens the port itself,
    must find it free (pyserial's ``exclusive`` and UUCP's ``flock`` both lock the device).

    Raises:
        FaultError: `Fault.LIFTED` where there is no such port; `Fault.PORT_DENIED` where another run holds it.
    """

    def __init__(self, port: str) -> None:
        try:
            real = os.path.realpath(port, strict=True)
        except OSError as error:
            fault = Fault.LIFTED if error.errno == errno.ENOENT else Fault.PORT_DENIED
            raise FaultError(fault, f"{port}: {error.strerror}") from None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(f"\0station-port-{hashlib.sha256(os.fsencode(real)).hexdigest()}")
        except OSError as error:
            self._socket.close()
            raise FaultError(Fault.PORT_DENIED, f"{port}: another run holds it ({error.strerror})") from None

    def release(self) -> None:
        """Give it back. Releasing twice does no harm."""
        self._socket.close()
