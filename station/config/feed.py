"""Where the feed's lines lie between station and provider."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from station.config.loader import FilePath, Strict


class FolderShelf(Strict):
    """A folder that stations write and the provider reads: a share, or what some other tool carries over."""

    kind: Literal["folder"]
    folder: FilePath


class S3Shelf(Strict):
    """A bucket of the provider's; stations may put under ``prefix``, and nothing else."""

    kind: Literal["s3"]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]{1,64}/){0,4}$")] = "feed/"


class MqttShelf(Strict):
    """A topic of the provider's own AWS IoT: stations publish to ``topic/<station>``."""

    kind: Literal["mqtt"]
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9:_-]{1,64}(/[A-Za-z0-9:_-]{1,64}){0,4}$")] = "station/feed"


Shelf: TypeAlias = Annotated[FolderShelf | S3Shelf | MqttShelf, Field(discriminator="kind")]


class FeedSettings(Strict):
    """The station tells the provider what may be activated, each line under the station's seal."""

    at: Shelf
