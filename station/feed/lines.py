r"""The feed's lines: JSON, one object a line, each under the seal of the station that wrote it.

    {"body":"{\"v\":1,\"station\":\"line-1\",\"seq\":17,\"state\":\"connecting\",...}","seal":"<id>","signature":"<base64>"}

The signature is over the body's bytes as they stand, so that nobody has to agree about a form of JSON. What comes in is
hostile until its seal is verified: bounded first, then verified, then read strictly.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from station.faults import Fault, FaultError
from station.model import NAME, SERIAL, Standing, StandingState
from station.seal import seal_id, verify

MAX_LINE: Final = 4_096  # bytes; a line has some 700
_DOMAIN: Final = b"feed v1\n"
_ID: Final = re.compile(r"[0-9a-f]{64}")
_AHEAD: Final = timedelta(minutes=5)  # a station's clock may be so much before ours
LONGEST: Final = timedelta(days=800)
_KEYS: Final = {"v", "station", "seq", "state", "certificate", "ca", "thing", "at", "expires"}

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class FeedLine:
    """How one certificate stands, by whose word, since when and for how long."""

    station: str
    seq: int
    standing: Standing
    at: datetime
    expires: datetime


def sealed(line: FeedLine, public_key_pem: bytes, sign: Sign) -> bytes:
    """The line as it leaves the station, with its line end. Raises what the token has against signing."""
    known = line.standing
    body = json.dumps(
        {
            "v": 1,
            "station": line.station,
            "seq": line.seq,
            "state": known.state.value,
            "certificate": known.certificate_id,
            "ca": known.authority,
            "thing": known.thing,
            "at": line.at.isoformat(timespec="seconds"),
            "expires": line.expires.isoformat(timespec="seconds"),
        },
        separators=(",", ":"),
    )
    signature = base64.b64encode(sign(_DOMAIN + body.encode())).decode()
    whole = {"body": body, "seal": seal_id(public_key_pem), "signature": signature}
    return json.dumps(whole, separators=(",", ":")).encode() + b"\n"


def opened(raw: bytes, seals: Mapping[str, bytes], now: datetime) -> FeedLine:
    """The line, once it is what a trusted station sealed. That it has expired is for the reader to see.

    Args:
        raw: what came, from anywhere.
        seals: public keys (PEM) by `seal.seal_id`.
        now: the reader's clock; a line from the future is refused.

    Raises:
        FaultError: `Fault.FEED_REFUSED` with what is wrong with it.
    """
    whole = _object(raw, MAX_LINE, {"body", "seal", "signature"})
    public = seals.get(str(whole["seal"]))
    if public is None:
        raise FaultError(Fault.FEED_REFUSED, f"nobody trusts the seal {str(whole['seal'])[:64]!r}")
    body = str(whole["body"]).encode()
    try:
        verify(public, _DOMAIN + body, base64.b64decode(str(whole["signature"]), validate=True))
    except (ValueError, FaultError) as error:
        raise FaultError(Fault.FEED_REFUSED, f"the seal does not hold: {error}") from error
    return _read(_object(body, MAX_LINE, _KEYS), now)


def _object(raw: bytes, limit: int, keys: set[str]) -> dict[str, Any]:
    if len(raw) > limit:
        raise FaultError(Fault.FEED_REFUSED, f"a line of more than {limit} bytes")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FaultError(Fault.FEED_REFUSED, "a line that is no JSON") from error
    if not isinstance(found, dict) or set(found) != keys:
        raise FaultError(Fault.FEED_REFUSED, "a line with other keys than a line has")
    return found


def _read(body: dict[str, Any], now: datetime) -> FeedLine:
    try:
        at, expires = (datetime.fromisoformat(body[name]).astimezone(UTC) for name in ("at", "expires"))
        right = (
            body["v"] == 1
            and type(body["seq"]) is int
            and 0 < body["seq"] < 2**63
            and NAME.fullmatch(body["station"])
            and _ID.fullmatch(body["certificate"])
            and _ID.fullmatch(body["ca"])
            and SERIAL.fullmatch(body["thing"])
            and at <= now + _AHEAD
            and timedelta(0) < expires - at < LONGEST
        )
        known = Standing(body["certificate"], body["ca"], body["thing"], StandingState(body["state"]))
    except (TypeError, ValueError, OverflowError) as error:
        raise FaultError(Fault.FEED_REFUSED, f"a sealed line with a wrong value: {error}") from error
    if not right:
        raise FaultError(Fault.FEED_REFUSED, f"a sealed line with a wrong value: {body}")
    return FeedLine(body["station"], body["seq"], known, at, expires)
