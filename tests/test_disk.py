"""Files are whole or not there."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from station import disk


def test_a_file_is_replaced_and_has_the_mode_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    old = os.umask(0o022)
    try:
        disk.put(file, b"one", 0o644)
        disk.put(file, b"two", 0o644)
    finally:
        os.umask(old)
    assert file.read_bytes() == b"two"
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    disk.put(file, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # python ignores SIGXFSZ: the write fails with EFBIG
    try:
        with pytest.raises(OSError, match="File too large"):
            disk.put(file, b"n" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
