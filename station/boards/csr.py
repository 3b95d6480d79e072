"""What must be mended in the CSRs of some firmwares before a strict parser takes them. Shared by the families."""

from __future__ import annotations

from typing import Final

# ecdsa-with-SHA256, -SHA384 and -SHA512 (RFC 5758, 3.2): their parameters must be absent.
_ECDSA: Final = tuple(bytes.fromhex(f"06082a8648ce3d0403{last}") for last in ("02", "03", "04"))
_NULL: Final = b"\x05\x00"
_SEQUENCE: Final = 0x30


def mended(csr: bytes) -> bytes:
    """A CSR (DER) without the NULL that some firmwares put behind the name of its signature algorithm.

    ``cryptography`` refuses such a CSR (ParseError ExtraData, Csr::signature_alg). The signature covers the request
    info alone (RFC 2986, 3), so it is as good as before. What is no such CSR comes back as it is: the CA says what is
    wrong with it.
    """
    outer = _parts(csr)
    if len(outer) != 1 or outer[0][0] != _SEQUENCE:
        return csr
    parts = _parts(outer[0][1])
    if len(parts) != 3 or parts[1][0] != _SEQUENCE or parts[1][1] not in {name + _NULL for name in _ECDSA}:
        return csr
    (info_tag, info), (tag, algorithm), (sign_tag, signature) = parts
    return _tlv(_SEQUENCE, _tlv(info_tag, info) + _tlv(tag, algorithm.removesuffix(_NULL)) + _tlv(sign_tag, signature))


def _parts(der: bytes) -> list[tuple[int, bytes]]:
    """The tags and contents that stand one after another in ``der`` (X.690, 8.1); none where they do not add up."""
    found, at = [], 0
    while at < len(der):
        head = der[at : at + 2]
        if len(head) < 2:
            return []
        size, at = head[1], at + 2
        if size & 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(der[at : at + count], "big"), at + count
        if at + size > len(der):
            return []
        found.append((head[0], der[at : at + size]))
        at += size
    return found


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
