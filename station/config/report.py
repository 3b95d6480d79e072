"""What the yield report is told: whose clock a day is by, what was aimed at, and where the report goes."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, field_validator, model_validator

from station.config.loader import FilePath, Strict
from station.config.secrets import Password
from station.model import Step

FORMATS = ("html", "pdf", "csv", "json", "openhtf")

_ADDRESS = r"^[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,190}$"


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError) as error:
        raise ValueError("is no time zone that this machine knows; see `timedatectl list-timezones`") from error
    return name


def _clock(text: str) -> str:
    time.fromisoformat(text)
    return text


ClockTime: TypeAlias = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"), AfterValidator(_clock)]
Percent: TypeAlias = Annotated[float, Field(gt=0, le=100)]


class Shift(Strict):
    """Hours that people work, by the wall clock; one that ends at or before its start crosses midnight."""

    name: Annotated[str, Field(min_length=1, max_length=24)]
    starts: ClockTime
    ends: ClockTime


class Targets(Strict):
    """What was aimed at. What is not named is not judged."""

    fpy_percent: Percent | None = None
    final_yield_percent: Percent | None = None
    units_per_hour: Annotated[float, Field(gt=0, le=100_000)] | None = None
    cycle_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    steps_s: dict[Step, Annotated[float, Field(gt=0, le=3600)]] = Field(default_factory=dict)


class Mail(Strict):
    """The mail server that takes the report. Never without TLS: it is about a customer's production."""

    server: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["starttls", "implicit"] = "starttls"
    roots: FilePath | None = None
    user: Annotated[str, Field(min_length=1, max_length=190)] | None = None
    login: Password | None = None
    sender: Annotated[str, Field(pattern=_ADDRESS)]
    to: Annotated[tuple[Annotated[str, Field(pattern=_ADDRESS)], ...], Field(min_length=1, max_length=50)]
    timeout_s: Annotated[float, Field(ge=1, le=120)] = 20.0

    @model_validator(mode="after")
    def _both(self) -> Mail:
        if (self.user is None) != (self.login is None):
            raise ValueError("`user` and `login` stand together, or neither does")
        return self


class Bucket(Strict):
    """The S3 bucket that takes the report. ``simulator`` is where a simulated S3 answers."""

    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")]
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.=/-]{0,200}$")] = ""
    simulator: Annotated[str, Field(pattern=r"^http://127\.0\.0\.1:[0-9]{1,5}$")] | None = None


class Report(Strict):
    """The section ``report`` of ``station.yaml``. Every key has a value that works."""

    timezone: Annotated[str, Field(max_length=64), AfterValidator(_zone)] = "UTC"
    day_starts: ClockTime = "00:00"
    shifts: Annotated[tuple[Shift, ...], Field(max_length=6)] = ()
    targets: Targets = Targets()
    formats: Annotated[tuple[Literal["html", "pdf", "csv", "json", "openhtf"], ...], Field(min_length=1)] = (
        "html",
        "pdf",
        "csv",
        "json",
    )
    folder: FilePath | None = None
    expiring_days: Annotated[int, Field(ge=1, le=3650)] = 90
    mail: Mail | None = None
    s3: Bucket | None = None

    @field_validator("shifts")
    @classmethod
    def _each_name_once(cls, shifts: tuple[Shift, ...]) -> tuple[Shift, ...]:
        names = [shift.name for shift in shifts]
        if len(set(names)) != len(names):
            raise ValueError("two shifts have one name; each has its own")
        return shifts

    @property
    def zone(self) -> ZoneInfo:
        """The clock on the factory's wall."""
        return ZoneInfo(self.timezone)

    def folder_in(self, state: Path) -> Path:
        """Where reports are written: ``folder``, or ``reports`` in the station's state."""
        return self.folder or state / "reports"
