"""The provider's ceremony files: one reviewed YAML an act."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, RootModel, model_validator

from station.config.guards import REHEARSAL
from station.config.loader import FilePath, Strict, read, validate
from station.config.settings import Simulator
from station.config.tokens import KeyUriText, Pin
from station.model import KeyType


class Subject(Strict):
    """The CA's name."""

    common_name: Annotated[str, Field(min_length=1, max_length=64)]
    organization: Annotated[str, Field(min_length=1, max_length=64)]
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None


class RootOutputs(Strict):
    """What the act leaves."""

    certificate: FilePath


class RegisterOutputs(Strict):
    """What the act leaves."""

    registration: FilePath


class RootAct(Strict):
    """Make the CA key in its token and certify it by itself."""

    act: Literal["root"]
    rehearsal: bool
    key: KeyUriText
    pin: Pin
    state: FilePath
    key_type: KeyType
    subject: Subject
    validity_days: Annotated[int, Field(ge=1, le=18_262)]
    path_length: Annotated[int, Field(ge=0, le=2)] = 0
    outputs: RootOutputs

    @model_validator(mode="after")
    def _says_what_it_is(self) -> RootAct:
        marked = REHEARSAL in self.subject.common_name
        if self.rehearsal and not marked:
            raise ValueError(
                f"a rehearsal's common_name should contain {REHEARSAL}: no production station takes it then"
            )
        if marked and not self.rehearsal:
            raise ValueError(f"the common_name says {REHEARSAL}; a production CA must not")
        return self


class RegisterAct(Strict):
    """Make AWS IoT know the CA: proof of possession, active, auto-registration on."""

    act: Literal["register"]
    rehearsal: bool
    key: KeyUriText
    pin: Pin
    state: FilePath
    certificate: FilePath
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")]
    # SNI_ONLY registers without proof of possession; this house never does (jitr.md).
    mode: Literal["DEFAULT"] = "DEFAULT"
    simulator: Simulator | None = None
    outputs: RegisterOutputs

    @model_validator(mode="after")
    def _all_or_nothing(self) -> RegisterAct:
        if (self.simulator is not None) != self.rehearsal:
            raise ValueError("a rehearsal registers at a `simulator`, and only a rehearsal does")
        return self


Act: TypeAlias = Annotated[RootAct | RegisterAct, Field(discriminator="act")]


class CeremonyFile(RootModel[Act]):
    """One file of ``ceremony/``: its ``act`` says which of the two it is."""


def load_ceremony(path: Path) -> RootAct | RegisterAct:
    """Read one ceremony file.

    Raises:
        ConfigError: with every mistake that was found.
    """
    return validate(read(path), CeremonyFile).root
