"""What the act `register` wrote, read again by later acts, by the hand-over and by a station that adopts it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from station.config.loader import Strict
from station.faults import Fault, FaultError

_MAX_FILE = 65_536


class Registration(Strict):
    """``registration.json``."""

    ca_certificate_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    ca_certificate_arn: Annotated[str, Field(pattern=r"^arn:[\x21-\x7e]{1,300}$")]
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")]
    mode: Literal["DEFAULT", "SNI_ONLY"]
    endpoint: Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,253}$")]
    registered_at: Annotated[str, Field(max_length=40)]
    rehearsal: bool
    simulator: Annotated[str, Field(pattern=r"^http://127\.0\.0\.1:[0-9]{1,5}$")] | None = None


def load_registration(path: Path) -> Registration:
    """Read one.

    Raises:
        FaultError: `Fault.CONFIG`.
    """
    try:
        with path.open("rb") as file:
            return Registration.model_validate_json(file.read(_MAX_FILE))
    except OSError as error:
        raise FaultError(Fault.CONFIG, f"the registration {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FaultError(
            Fault.CONFIG, f"{path} is no registration as `register` writes it: {where} {first['msg']}"
        ) from None
