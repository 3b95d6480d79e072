"""A station's settings on a machine where no station runs: what commands need that work on files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from station.model import KeyType

ROOT = Path(__file__).parent.parent


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings that are right, of a station that does not run. Its state is in the same folder."""
    from test_ca import make_key, make_root

    for name in ("station.yaml", "amazon-roots.pem", "products/console-board-key.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / "config" / name).read_bytes())
    root = make_root(make_key(KeyType.P256), since=datetime.now(UTC), days=7300)
    (tmp_path / "ca.pem").write_bytes(root.public_bytes(Encoding.PEM))
    file = tmp_path / "station.yaml"
    text = file.read_text().replace("/run/station", str(tmp_path)).replace("/var/lib/station", str(tmp_path))
    file.write_text(text)
    return file
