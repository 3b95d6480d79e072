"""The station's shelf, as its settings name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from station.aws.shelf import S3Shelf, TopicShelf
from station.config.feed import FeedSettings, FolderShelf, MqttShelf
from station.config.feed import S3Shelf as S3Settings
from station.feed import shelf

if TYPE_CHECKING:
    from station.config.settings import Aws


def shelf_of(feed: FeedSettings, aws: Aws, station: str) -> shelf.Shelf:
    """Where the lines of ``station`` go."""
    api_url = aws.simulator.api_url if aws.simulator else None
    match feed.at:
        case FolderShelf(folder=folder):
            return shelf.FolderShelf(folder)
        case S3Settings(bucket=bucket, prefix=prefix):
            return S3Shelf(bucket, prefix, aws.region, api_url=api_url)
        case MqttShelf(topic=topic):
            return TopicShelf(topic, station, aws.region, api_url or f"https://{aws.endpoint}")
