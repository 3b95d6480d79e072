"""The name of a key in a token: a ``pkcs11:`` URI (RFC 7512), the one name that every PKCS#11 tool shares."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

_WRITTEN: Final = re.compile(r"[A-Za-z0-9_.~:\[\]@!$'()*+,=%/-]*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TEXT: Final = ("token", "serial", "manufacturer", "model", "object")
_MAX_VALUE: Final = 255


@dataclass(frozen=True, slots=True)
class KeyUri:
    """One private key: the token it is in, its label or id, and the module that speaks to the token.

    ``id`` is CKA_ID. At least one of ``object`` (CKA_LABEL) and ``id`` names the key.
    """

    token: str
    module_path: str
    object: str | None = None
    id: bytes | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None

    @classmethod
    def parse(cls, text: str) -> KeyUri:
        """The URI as a value.

        Raises:
            ValueError: with a sentence that says what would be right.
        """
        if not text.startswith("pkcs11:"):
            raise ValueError("a key's URI begins with pkcs11: (RFC 7512)")
        path, _, query = text.removeprefix("pkcs11:").partition("?")
        found = _attributes(path, ";", {*_TEXT, "id", "type"})
        options = _attributes(query, "&", {"module-path"})
        if found.pop("type", b"private") != b"private":
            raise ValueError("the URI names a private key: type=private, or no type")
        module_path = _text("module-path", options.get("module-path", b""))
        if not module_path.startswith("/"):
            raise ValueError("the URI says where the module is: ?module-path=/usr/lib/...")
        key_id = found.pop("id", None)
        names = {name: _text(name, value) for name, value in found.items()}
        if not names.get("token"):
            raise ValueError("the URI names the token: token=LABEL")
        if not names.get("object") and not key_id:
            raise ValueError("the URI names the key in the token: object=LABEL or id=%01%02")
        return cls(module_path=module_path, id=key_id, **names)

    def __str__(self) -> str:
        """The URI again, attributes in the order of RFC 7512."""
        parts = [f"{name}={quote(value, safe='')}" for name in _TEXT if (value := getattr(self, name)) is not None]
        if self.id is not None:
            parts.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        return f"pkcs11:{';'.join(parts)};type=private?module-path={quote(self.module_path, safe='/')}"


def _attributes(text: str, separator: str, known: set[str]) -> dict[str, bytes]:
    """Name to raw value of each ``name=value`` in a piece of the URI."""
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else []:
        name, equals, value = part.partition("=")
        if name.startswith("pin-"):
            raise ValueError("a PIN must not stand in the URI, where it would reach logs and records")
        if not equals or name not in known:
            raise ValueError(f"the URI holds {name!r}, which is none of {', '.join(sorted(known))}")
        if name in found:
            raise ValueError(f"the URI says {name} twice")
        if not _WRITTEN.fullmatch(value) or _BAD_ESCAPE.search(value):
            raise ValueError(f"the URI's {name} holds a character that is to be written as %XX")
        raw = unquote_to_bytes(value)
        if not 0 < len(raw) <= _MAX_VALUE:
            raise ValueError(f"the URI's {name} is empty or longer than {_MAX_VALUE} bytes")
        found[name] = raw
    return found


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the URI's {name} is not UTF-8") from error
    if not text.isprintable():
        raise ValueError(f"the URI's {name} holds a control character")
    return text
