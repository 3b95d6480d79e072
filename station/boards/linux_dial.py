"""How a Linux gateway makes the first contact by its own tools: the command, and the ending that its output tells."""

from __future__ import annotations

import re
import shlex
from typing import Final, Literal

from station.faults import Fault, FaultError, printable
from station.model import Call, ChainForm, Ending

_UNTRUSTED: Final = re.compile(rb"verify error|certificate verify failed|unable to get local issuer", re.IGNORECASE)
_UNREACHABLE: Final = re.compile(
    rb"connect:errno|Connection refused|getaddrinfo|Name or service|not known|No route|unreachable|Lookup error"
    rb"|BIO_connect|BIO_lookup|system lib:connect",
    re.IGNORECASE,
)
_MISSING: Final = re.compile(rb"not found|Could not open|No such file|unable to load", re.IGNORECASE)
_SPLIT: Final = b"\n=stderr=\n"


def command(dialler: Literal["openssl", "mosquitto"], folder: str, call: Call, form: ChainForm) -> str:
    """The shell command that makes ``call`` with the files in ``folder``; it ends by itself and never fails.

    ``openssl s_client`` speaks MQTT 3.1.1 as bytes: CONNECT, then PUBLISH at once, which the standard allows before the
    CONNACK (MQTT 3.1.1, 3.1.4); to hold, a PINGREQ at the end asks whether it is still there. ``mosquitto_pub`` is the
    tool of the AWS documentation.

    mosquitto_pub sends what is in ``cert.pem`` alone. ``openssl`` takes the leaf from there, and would send it twice if
    its file were given for the chain as well.
    """
    alpn, out = call.port == 443, f"{folder}/.dial"
    if dialler == "mosquitto" and not call.hold_s:
        asked = (
            f"mosquitto_pub --cafile {folder}/roots.pem --cert {folder}/cert.pem --key {folder}/key.pem"
            f" -h {shlex.quote(call.endpoint)} -p {call.port} -i {shlex.quote(call.client_id)} -q 1"
            f" -t {shlex.quote(call.topic)} -m {shlex.quote(call.payload.decode('ascii'))}"
            f"{' --tls-alpn x-amzn-mqtt-ca' if alpn else ''}"
        )
        return f"timeout {_seconds(call)} {asked} 2>&1; echo =exit=$?; true"
    sent = _packet(0x10, _text("MQTT") + b"\x04\x02\x00\x3c" + _text(call.client_id))
    if call.hold_s:
        talk = f"printf '{_octal(sent)}'; {_until(4, call.timeout_s, out)}; sleep {call.hold_s:g}; printf '\\300\\000'"
        talk += f"; {_until(6, 2.0, out)}"
    else:
        sent += _packet(0x32, _text(call.topic) + b"\x00\x01" + call.payload)
        talk = f"printf '{_octal(sent)}'; {_until(8, call.timeout_s, out)}"
    chain = "" if form is ChainForm.LEAF else f" -cert_chain {out}.c"
    ca = f"cat {folder}/ca.pem" if form is ChainForm.TWO_SLOTS else f"sed '1,/END CERTIFICATE/d' {folder}/cert.pem"
    asked = (
        f"openssl s_client -connect {shlex.quote(call.endpoint)}:{call.port} -servername {shlex.quote(call.endpoint)}"
        f" -cert {folder}/cert.pem{chain} -key {folder}/key.pem -CAfile {folder}/roots.pem"
        f" -verify_return_error -verify_hostname {shlex.quote(call.endpoint)} -quiet -no_ign_eof"
        f"{' -alpn x-amzn-mqtt-ca' if alpn else ''}"
    )
    return (
        f"rm -f {out}.x; : >{out}; {ca} >{out}.c; {{ {talk}; }} 2>/dev/null"
        f" | {{ timeout {_seconds(call)} {asked} >{out} 2>{out}.e; echo =exit=$? >{out}.x; }};"
        f" cat {out}.x {out}; printf '\\n=stderr=\\n'; cat {out}.e; rm -f {out} {out}.e {out}.x {out}.c"
    )


def _octal(data: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in data)


def _until(count: int, wait_s: float, out: str) -> str:
    """Wait until so many bytes have come or the tool has ended; in tenths where the shell's sleep knows them."""
    going = f"[ ! -e {out}.x ] && [ $(wc -c <{out}) -lt {count} ] && [ $n -lt {int(wait_s * 10)} ]"
    return f"n=0; while {going}; do sleep 0.1 || sleep 1; n=$((n+1)); done"


def ending(dialler: Literal["openssl", "mosquitto"], output: bytes, call: Call) -> Ending:
    """What the dial's output tells.

    Raises:
        FaultError: `Fault.UNIT_CANNOT_DIAL` where the tool or a file is missing.
    """
    status, _, rest = output.partition(b"\n") if output.startswith(b"=exit=") else (b"", b"", output)
    if dialler == "mosquitto" and not call.hold_s:
        return _of_mosquitto(output)
    said, _, errors = rest.partition(_SPLIT)
    if said[:1] == b"\x20" and len(said) >= 4:
        if said[3]:
            return Ending.REFUSED
        if call.hold_s:
            return Ending.ACKNOWLEDGED if said[4:6] == b"\xd0\x00" else Ending.UNACKNOWLEDGED
        return Ending.ACKNOWLEDGED if said[4:5] == b"\x40" else Ending.UNACKNOWLEDGED
    return _without_connack(status, errors)


def _without_connack(status: bytes, errors: bytes) -> Ending:
    if _UNTRUSTED.search(errors):
        return Ending.UNTRUSTED
    if _MISSING.search(errors):
        last = errors.decode("latin-1").strip().splitlines()[0]
        raise FaultError(Fault.UNIT_CANNOT_DIAL, printable(last, 200))
    if _UNREACHABLE.search(errors):
        return Ending.UNREACHABLE
    return Ending.SILENT if status in {b"=exit=124", b"=exit=143"} else Ending.DROPPED


def _of_mosquitto(output: bytes) -> Ending:
    said, _, status = output.rpartition(b"=exit=")
    match status.strip():
        case b"0":
            return Ending.ACKNOWLEDGED
        case b"127":
            raise FaultError(Fault.UNIT_CANNOT_DIAL, "the gateway has no mosquitto_pub")
        case b"124" | b"143":
            return Ending.SILENT
    if b"Refused: " in said or b"refused: not auth" in said.lower():
        return Ending.REFUSED
    return _without_connack(status, said)


def _seconds(call: Call) -> int:
    return int(call.timeout_s + call.hold_s) + 3


def _text(words: str) -> bytes:
    data = words.encode("ascii")
    return len(data).to_bytes(2, "big") + data


def _packet(kind: int, body: bytes) -> bytes:
    """A control packet with its remaining length (MQTT 3.1.1, 2.2.3)."""
    size, head = len(body), bytearray([kind])
    while True:
        head.append(size & 127 | (128 if size > 127 else 0))
        size >>= 7
        if not size:
            return bytes(head) + body
