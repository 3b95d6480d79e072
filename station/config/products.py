"""A product's file: its family, its key, its certificate, its first contact."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator, model_validator

from station.config.loader import ConfigError, Document, FilePath, Name, Strict, validate, validate_within
from station.faults import FaultError
from station.model import ChainForm, FirstContact, Image, KeyOrigin, KeyType, Product, Profile

_MAX_IMAGES = 16
_MAX_ROOTS = 8
_CLIENT_ID = re.compile(r"[A-Za-z0-9_-]{0,60}\{serial\}[A-Za-z0-9_-]{0,60}")
_TOPIC = re.compile(
    r"(?!\$)[A-Za-z0-9:_-]*(\{serial\})?[A-Za-z0-9:_-]*(/[A-Za-z0-9:_-]*(\{serial\})?[A-Za-z0-9:_-]*){0,7}"
)


_RootName = Annotated[str, Field(min_length=1, max_length=64)]


class _Key(Strict):
    type: KeyType
    origin: KeyOrigin


class _Certificate(Strict):
    # AWS IoT takes any validity; a certificate past 50 years outlives every CA of ours.
    validity_days: Annotated[int, Field(ge=1, le=18_262)]
    backdate_s: Annotated[int, Field(ge=0, le=604_800)] = 3600
    organization: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    organizational_unit: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    chain: ChainForm = ChainForm.LEAF_CA

    def profile(self) -> Profile:
        return Profile(**self.model_dump(exclude={"chain"}))


class _FirstContact(Strict):
    by: FirstContact | None = None
    client_id: str = "{serial}"
    topic: str = "{serial}/hello"

    @field_validator("client_id")
    @classmethod
    def _names_the_unit(cls, text: str) -> str:
        if not _CLIENT_ID.fullmatch(text):
            raise ValueError("should hold {serial} once, beside it only A-Z a-z 0-9 _ - (it is the thing's name too)")
        return text

    @field_validator("topic")
    @classmethod
    def _a_topic(cls, text: str) -> str:
        if not text or not _TOPIC.fullmatch(text):
            raise ValueError("should be at most 8 levels of A-Z a-z 0-9 : _ - and {serial}; no wildcard, no leading $")
        return text


class _Image(Strict):
    file: FilePath
    offset: Annotated[int, Field(ge=0, lt=2**32)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ProductFile(Strict):
    """One file of ``products/``."""

    name: Name
    driver: Name
    model: Name
    firmware: Name | None = None
    baud: Annotated[int, Field(ge=1200, le=4_000_000)] = 115_200
    key: _Key
    certificate: _Certificate
    first_contact: _FirstContact = _FirstContact()
    images: Annotated[tuple[_Image, ...], Field(max_length=_MAX_IMAGES)] = ()
    server_roots: Annotated[tuple[_RootName, ...], Field(max_length=_MAX_ROOTS)] = ()
    options: Annotated[dict[str, Any], Field(default_factory=dict)]

    @model_validator(mode="after")
    def _somebody_dials(self) -> ProductFile:
        by = self.first_contact.by
        if by is FirstContact.STATION and self.key.origin is KeyOrigin.BOARD:
            raise ValueError(
                "first_contact: the key is on the board: the station cannot dial; say `by: board`, or `none`"
            )
        if by is FirstContact.NONE and self.key.origin is KeyOrigin.STATION:
            raise ValueError("first_contact: the station makes the key and so can dial; leave `by` out")
        return self

    def product(self, options: BaseModel | None = None) -> Product:
        """The product as the rest of the station knows it; ``options`` as its family reads them."""
        # Who holds the key dials, unless the file says otherwise.
        holder = FirstContact.STATION if self.key.origin is KeyOrigin.STATION else FirstContact.BOARD
        return Product(
            name=self.name,
            driver=self.driver,
            model=self.model,
            key_type=self.key.type,
            key_origin=self.key.origin,
            profile=self.certificate.profile(),
            client_id=self.first_contact.client_id,
            topic=self.first_contact.topic,
            baud=self.baud,
            firmware=self.firmware,
            chain_form=self.certificate.chain,
            first_contact=self.first_contact.by or holder,
            images=tuple(Image(image.file, image.offset, image.sha256) for image in self.images),
            server_roots=self.server_roots,
            options=options,
        )


Options = Callable[[str], type[BaseModel]]


def product_of(document: Document, options: Options | None) -> Product:
    """The product that a file describes. Without ``options`` (by family name, their model) these are not looked at.

    Raises:
        ConfigError: with every mistake that was found.
    """
    file = validate(document, ProductFile)
    if file.name != document.path.stem:
        raise ConfigError([document.problem(("name",), f"is {file.name!r} in a file called {document.path.name!r}")])
    if options is None:
        return file.product()
    try:
        model = options(file.driver)
    except FaultError as error:
        raise ConfigError([document.problem(("driver",), error.detail)]) from error
    return file.product(validate_within(document, ("options",), model))
