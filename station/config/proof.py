"""Settings of the proof: where archives go, and where the days' heads are anchored outside of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from station.config.loader import FilePath, Strict


class AnchorBucket(Strict):
    """An S3 bucket for anchors; best one with Object Lock, to which the station may only add."""

    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9/_.=-]{0,200}$")] = "anchors/"


class Proof(Strict):
    """How days are closed. Archives are under the state folder where nothing else is said."""

    archives: FilePath | None = None
    s3: AnchorBucket | None = None

    def archives_in(self, state: Path) -> Path:
        """Where archives are: ``archives``, or the folder of that name in the station's state."""
        return self.archives or state / "archives"
