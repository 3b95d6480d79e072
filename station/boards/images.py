"""A product's firmware images, as files that were reviewed."""

from __future__ import annotations

import hashlib
from typing import Final

from station.faults import Fault, FaultError
from station.model import Image

_IMAGE_MAX: Final = 64 * 1024 * 1024  # bytes; the largest flash that these boards have


def reviewed(image: Image) -> bytes:
    """The bytes of an image, which are those that were reviewed.

    Raises:
        FaultError: `Fault.IMAGE_WRONG` where the file cannot be read, is empty, over 64 MiB, or of another SHA-256.
    """
    try:
        with image.file.open("rb") as file:
            content = file.read(_IMAGE_MAX + 1)
    except OSError as error:
        raise FaultError(Fault.IMAGE_WRONG, f"{image.file} cannot be read: {error.strerror}") from None
    if not 0 < len(content) <= _IMAGE_MAX:
        raise FaultError(Fault.IMAGE_WRONG, f"{image.file} is empty or larger than {_IMAGE_MAX} bytes")
    found = hashlib.sha256(content).hexdigest()
    if found != image.sha256:
        raise FaultError(Fault.IMAGE_WRONG, f"{image.file} has the SHA-256 {found}, the product says {image.sha256}")
    return content
