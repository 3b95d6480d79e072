"""Makes NSS softokn a plain PKCS#11 module, in any Python started with this folder in PYTHONPATH.

softokn refuses ``C_Initialize(NULL)``, which is all that python-pkcs11 says: it wants its database's place as a library
parameter. NSS itself passes that; we put a function into softokn's own table that passes it on. For tests only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import ClassVar

_C_INITIALIZE = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)


class _Arguments(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS with NSS's ``LibraryParameters`` behind it."""

    _fields_: ClassVar = [
        ("mutexes", ctypes.c_void_p * 4),
        ("flags", ctypes.c_ulong),
        ("parameters", ctypes.c_char_p),
        ("reserved", ctypes.c_void_p),
    ]


def _pass_parameters(module: str, parameters: bytes) -> object:
    table = ctypes.c_void_p()
    ctypes.CDLL(module).C_GetFunctionList(ctypes.byref(table))
    assert table.value is not None
    place = table.value + 8  # CK_FUNCTION_LIST: a version, padding, then C_Initialize
    entry = ctypes.c_void_p.from_address(place)
    assert entry.value is not None
    real = _C_INITIALIZE(entry.value)
    arguments = _Arguments(parameters=parameters, flags=2)  # CKF_OS_LOCKING_OK
    wrapped = _C_INITIALIZE(lambda _: real(ctypes.addressof(arguments)))
    page = place // mmap.PAGESIZE * mmap.PAGESIZE
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(2 * mmap.PAGESIZE), 3):
        raise OSError(ctypes.get_errno(), "mprotect")
    entry.value = ctypes.cast(wrapped, ctypes.c_void_p).value
    return wrapped, arguments


if "TEST_NSS_FOLDER" in os.environ:
    _kept = _pass_parameters(
        os.environ["TEST_NSS_MODULE"],
        f"configdir='sql:{os.environ['TEST_NSS_FOLDER']}' secmod='secmod.db' flags=".encode(),
    )
