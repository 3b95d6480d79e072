"""The station's settings and its products, as values that cannot be wrong by themselves or together."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, field_validator, model_validator

from station.config.feed import FeedSettings
from station.config.guards import refuse_mixing
from station.config.lamps import Lamp, Sounds
from station.config.line import LineSettings
from station.config.loader import ConfigError, Document, FilePath, Location, Model, Name, Strict, read, validate
from station.config.products import Options, product_of
from station.config.proof import Proof
from station.config.report import Report
from station.config.slots import (
    SLOTS_MAX,
    ByProbe,
    MapFile,
    SlotSettings,
    SlotTimes,
    map_path,
    map_problems,
    place_problems,
    placed,
    refuse_doubles,
)
from station.config.tokens import Hsm, SealSettings
from station.model import Product
from station.people import person

_MAX_PRODUCTS = 500

Seconds: TypeAlias = Annotated[float, Field(ge=0.1, le=3600)]
# AWS IoT's own patterns (botocore's service-2.json: PolicyName, ThingTypeName), without what would need quoting.
PolicyName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9+=,.@_-]{1,128}$")]
ThingTypeName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9:_-]{1,128}$")]


class Ca(Strict):
    """The CA that signs the units' certificates."""

    certificate: FilePath


class StationActivates(Strict):
    """The station attaches ``policy`` and the thing (of ``thing_type``), then sets the certificate ACTIVE."""

    by: Literal["station"]
    policy: PolicyName
    thing_type: ThingTypeName | None = None


class ProviderActivates(Strict):
    """The provider's own rule does it; the station waits."""

    by: Literal["provider"]
    feed: FeedSettings | None = None


class Simulator(Strict):
    """Where the simulated AWS IoT answers."""

    api_url: Annotated[str, Field(pattern=r"^http://127\.0\.0\.1:[0-9]{1,5}$")]
    alpn: bool = False


class Aws(Strict):
    """The AWS IoT Core that the units connect to."""

    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")]
    endpoint: Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 8883
    ca_certificate_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    server_roots: FilePath
    server_roots_for: str | None = None
    activation: Annotated[StationActivates | ProviderActivates, Field(discriminator="by")]
    dial_timeout_s: Seconds = 5.0
    connect_deadline_s: Seconds = 60.0
    simulator: Simulator | None = None

    @field_validator("endpoint")
    @classmethod
    def _a_host_name(cls, endpoint: str) -> str:
        try:
            ipaddress.ip_address(endpoint)
        except ValueError:
            return endpoint
        raise ValueError("is an IP address; AWS IoT needs the host name (it goes into SNI)")


class StationFile(Strict):
    """``station.yaml``."""

    station: Name
    language: Literal["en", "vi"]
    operator: Annotated[str, Field(max_length=64), AfterValidator(person)]
    simulate: bool
    state: FilePath
    runtime: FilePath
    slots: Annotated[tuple[SlotSettings, ...], Field(max_length=SLOTS_MAX)]
    hsm: Hsm
    ca: Ca
    seal: SealSettings | None = None
    aws: Aws
    line: LineSettings | None = None
    proof: Proof = Proof()
    slot_times: SlotTimes = SlotTimes()
    line_lamp: Lamp | None = None
    sounds: Sounds | None = None
    report: Report = Report()
    stop_grace_s: Annotated[float, Field(ge=0, le=600)] = 30.0

    @field_validator("slots")
    @classmethod
    def _each_once(cls, slots: tuple[SlotSettings, ...]) -> tuple[SlotSettings, ...]:
        refuse_doubles(slots)
        return slots

    @model_validator(mode="after")
    def _a_seal_apart(self) -> StationFile:
        if self.seal is not None and self.seal.key == self.hsm.key:
            raise ValueError(
                "seal.key is the CA's key; the seal has one of its own (`station ceremony` with `act: seal`)"
            )
        if isinstance(self.aws.activation, ProviderActivates) and self.aws.activation.feed and self.seal is None:
            raise ValueError("aws.activation.feed needs a `seal`: the provider believes no line without one")
        return self


class Config(StationFile):
    """Everything the station was told; ``hash`` (hex SHA-256 over all files) names it on every record."""

    products: Mapping[str, Product]
    hash: str


def load(path: Path, options: Options | None = None) -> Config:
    """Read ``station.yaml`` and the ``products/`` beside it.

    Args:
        path: ``station.yaml``.
        options: the model of a family's options, by its name, where the products' are to be read too: a command that
            asks no board does without loading their families.

    Raises:
        ConfigError: `Fault.CONFIG` with every mistake that was found in all files; `Fault.SIMULATION_MIXED` where each
            is right by itself but simulated and real parts stand together.
    """
    problems: list[str] = []
    documents: list[Document] = []
    station = _collect(path, StationFile, documents, problems)
    if station is not None:
        station = _with_map(station, path, documents, problems)
    products: dict[str, Product] = {}
    for file in _product_files(path.parent / "products", problems):
        try:
            documents.append(read(file))
            products[file.stem] = product_of(documents[-1], options)
        except ConfigError as error:
            problems += error.problems
    if station is not None:
        problems += [documents[0].problem(*each) for each in _unknown_products(station, products)]
    if station is None or problems:
        raise ConfigError(problems)
    refuse_mixing(documents[0], station)
    return Config.model_construct(**dict(station), products=MappingProxyType(products), hash=_hash(documents))


@dataclass(frozen=True, slots=True)
class JigSettings:
    """What the commands of the jig need, also before every slot has a place."""

    own: tuple[SlotSettings, ...]  # as they stand in station.yaml
    slots: tuple[SlotSettings, ...]  # with the map's places
    runtime: Path
    map_path: Path


def load_slots(path: Path) -> JigSettings:
    """The slots of ``station.yaml``, each in its place as far as it has one.

    Raises:
        ConfigError: `Fault.CONFIG`, as `load`, for this file and the map.
    """
    station = validate(read(path), StationFile)
    found = validate(read(map_path(path)), MapFile) if map_path(path).exists() else None
    return JigSettings(station.slots, placed(station.slots, found), station.runtime, map_path(path))


def _with_map(station: StationFile, path: Path, documents: list[Document], problems: list[str]) -> StationFile:
    """The settings with each slot in its place: what says none is looked up in the slot map beside the file."""
    found = None
    if map_path(path).exists():
        found = _collect(map_path(path), MapFile, documents, problems)
        if found is None:
            return station
        problems += [documents[-1].problem(*each) for each in map_problems(station.slots, found)]
    slots = placed(station.slots, found)
    problems += [documents[0].problem(*each) for each in place_problems(slots)]
    return station.model_copy(update={"slots": slots})


def _unknown_products(station: StationFile, products: Mapping[str, Product]) -> Iterator[tuple[Location, str]]:
    for index, slot in enumerate(station.slots):
        if isinstance(slot.presence, ByProbe) and slot.presence.product not in products:
            yield (
                ("slots", index, "presence", "product"),
                f"no product is called {slot.presence.product!r}; there are {', '.join(products)}",
            )


def _collect(path: Path, model: type[Model], documents: list[Document], problems: list[str]) -> Model | None:
    try:
        documents.append(read(path))
        return validate(documents[-1], model)
    except ConfigError as error:
        problems += error.problems
        return None


def _product_files(folder: Path, problems: list[str]) -> list[Path]:
    files = sorted(folder.glob("*.yaml"))[:_MAX_PRODUCTS]
    if not files:
        problems.append(f"{folder}: holds no product; a product is one .yaml file there")
    return files


def _hash(documents: list[Document]) -> str:
    values = [document.value for document in documents]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
