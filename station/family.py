"""What a board family says of itself, so that a product can be checked against it before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from station.interfaces import BoardDriver
from station.model import ChainForm, KeyType, Product


class NoOptions(BaseModel):
    """The options of a family that has none."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one family's firmware can hold and do, as its sources say.

    Attributes:
        forms: the forms of chain it can hold.
        board_keys: the types of key that the board makes itself.
        station_keys: the types of key it takes from the station.
        dials: whether the board can make the first contact by itself.
        flashes: whether the family writes firmware images.
        der: whether its places hold DER, one certificate each, instead of PEM.
        place_bytes: the most bytes of one place of the chain, in PEM or DER as it is written; None for no known limit.
        certificate_bytes: the most bytes (DER) of one certificate; None for no known limit.
        roots_bytes: the most bytes (PEM) of all server roots together; None for no known limit.
        root_count: the most server roots; None for no known limit.
        lifted_by: the firmware's option that lifts a limit of bytes, or why nothing does.
        fixed_by: what lifts every other limit (forms, keys, dialling, images, how many roots); mostly nothing.
    """

    forms: frozenset[ChainForm]
    board_keys: frozenset[KeyType] = frozenset()
    station_keys: frozenset[KeyType] = frozenset()
    dials: bool = False
    flashes: bool = False
    der: bool = False
    place_bytes: int | None = None
    certificate_bytes: int | None = None
    roots_bytes: int | None = None
    root_count: int | None = None
    lifted_by: str = ""
    fixed_by: str = "no option of the firmware lifts that"


@dataclass(frozen=True, slots=True)
class Family:
    """A board family; an entry point of the group ``station.boards`` names one.

    Attributes:
        title: one line for `station boards`.
        driver: what opens a board for one run.
        limits: the limits, by the product's options (an instance of ``options``).
        probe: whether a board answers at a port, within a second or so; None where the family cannot ask.
        options: the model of `options` in a product file: strict, frozen, unknown keys refused.
    """

    title: str
    driver: BoardDriver
    limits: Callable[[Any], Limits]
    options: type[BaseModel] = NoOptions
    probe: Callable[[str, Product], bool] | None = None
