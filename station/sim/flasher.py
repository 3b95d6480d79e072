"""A flasher for the family `command`: ``python -m station.sim.flasher STEP STORE [TROUBLE]``.

It was written from ``docs/boards/command.md`` alone.
It works as a debug probe does, straight on the chip's flash: the folder STORE, named after the chip, with the files
that a simulated board keeps there. ``trouble`` makes it one that nobody wants beside his line.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FILES = ("chain.pem", "roots.pem", "key.pem")


def main(step: str, store: Path, trouble: str = "") -> int:
    """Do one step; the exit code is the page's."""
    question = json.loads(sys.stdin.buffer.read())
    store = Path(question["port"]).parent / store  # where it is relative, from the port's folder
    if trouble:
        kind, _, value = trouble.partition("=")
        code = _TROUBLES[kind](value, question)
        if code is not None:
            return code
    if question["version"] != 1 or question["step"] != step:
        _log(f"asked for {question['step']!r}, started for {step!r}")
        return 2
    _log(f"flasher: {step} at {question['port']}")
    _say(json.dumps(_STEPS[step](question, store)))
    return 0


def _identify(question: dict[str, Any], store: Path) -> dict[str, Any]:
    serial = (store / "serial").read_text() if (store / "serial").exists() else store.name.removeprefix("CHIP-")
    firmware = hashlib.sha256((store / "firmware").read_bytes()).hexdigest()[:8] if _has(store, "firmware") else "1.0.0"
    return {"serial": serial, "chip": store.name, "model": question["product"]["model"], "firmware": firmware}


def _flash(question: dict[str, Any], store: Path) -> dict[str, Any]:
    content = b"".join(Path(image["file"]).read_bytes() for image in question["images"])
    (store / "firmware").write_bytes(content)
    return {}


def _enroll(question: dict[str, Any], store: Path) -> dict[str, Any]:
    """As a chip with an on-board key: openssl stands for its crypto."""
    kind = {"p256": "P-256", "p384": "P-384"}[question["key_type"]]
    key = store / "key.pem"
    subprocess.run(
        ["/usr/bin/openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{kind}", "-out", str(key)],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    csr = subprocess.run(
        ["/usr/bin/openssl", "req", "-new", "-key", str(key), "-subj", f"/CN={question['subject']}", "-outform", "DER"],
        check=True,
        capture_output=True,
    ).stdout
    return {"csr": base64.b64encode(csr).decode()}


def _install(question: dict[str, Any], store: Path) -> dict[str, Any]:
    (store / "chain.pem").write_bytes(b"".join(base64.b64decode(text) for text in question["chain"]))
    (store / "roots.pem").write_bytes(base64.b64decode(question["roots"]))
    if question["key"] is not None:
        (store / "key.pem").write_bytes(base64.b64decode(question["key"]))
        (store / "given").touch()
    return {}


def _inspect(question: dict[str, Any], store: Path) -> dict[str, Any]:
    if not _has(store, "chain.pem"):
        return {"chain": []}
    shown = {name: (store / name).read_bytes() for name in _FILES}
    answer: dict[str, Any] = {
        "chain": [{"data": base64.b64encode(shown["chain.pem"]).decode()}],
        "roots": {"sha256": hashlib.sha256(shown["roots.pem"]).hexdigest()},
    }
    if _has(store, "given"):
        answer["key"] = {"sha256": hashlib.sha256(shown["key.pem"]).hexdigest()}
        return answer
    message = b"station possession v1\n" + base64.b64decode(question["nonce"])
    signed = subprocess.run(
        ["/usr/bin/openssl", "dgst", "-sha256", "-sign", str(store / "key.pem")],
        input=message,
        check=True,
        capture_output=True,
    ).stdout
    answer["key"] = {"signature": base64.b64encode(signed).decode()}
    return answer


def _has(store: Path, name: str) -> bool:
    return (store / name).exists()


_STEPS: dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]] = {
    "identify": _identify,
    "flash": _flash,
    "enroll": _enroll,
    "install": _install,
    "reset": lambda _question, _store: {},
    "inspect": _inspect,
    "dial": lambda _question, _store: {"ending": "unreachable"},
}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _log(text: str) -> None:
    sys.stderr.write(text + "\n")


def _exit(value: str, _question: dict[str, Any]) -> int:
    _log("probe: no board found")
    return int(value)


def _signal(value: str, _question: dict[str, Any]) -> None:
    os.kill(os.getpid(), int(value))


def _hang(_value: str, _question: dict[str, Any]) -> None:
    """Deaf, and silent to the end: nothing but a clock can tell."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in (1, 2):
        os.close(number)
    time.sleep(600)


def _grandchild(value: str, _question: dict[str, Any]) -> None:
    """One that holds the pipes, and outlives its parent."""
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    Path(value).write_text(str(child.pid))


def _hang_with_grandchild(value: str, question: dict[str, Any]) -> None:
    _grandchild(value, question)
    time.sleep(600)


def _half(value: str, _question: dict[str, Any]) -> None:
    """Half an answer, then silence."""
    _say(value)
    sys.stdout.flush()
    time.sleep(600)


def _slow(value: str, _question: dict[str, Any]) -> None:
    time.sleep(float(value))


def _renumber(_value: str, question: dict[str, Any]) -> None:
    """The port goes while the board restarts, and is another one when it is back."""
    Path(question["port"]).unlink()
    Path(question["port"]).touch()


def _echo(_value: str, question: dict[str, Any]) -> None:
    _say(json.dumps(question))


def _garbage(_value: str, _question: dict[str, Any]) -> None:
    sys.stdout.buffer.write(bytes(range(256)))
    sys.stdout.flush()


def _endless(_value: str, _question: dict[str, Any]) -> None:
    while True:
        sys.stdout.buffer.write(b"A" * 65_536)


def _long_log(_value: str, _question: dict[str, Any]) -> None:
    for _ in range(160):
        sys.stderr.buffer.write(b"log " * 16_384)


def _say_this(value: str, _question: dict[str, Any]) -> int:
    _say(value)
    return 0


def _leak(value: str, question: dict[str, Any]) -> int:
    _log(json.dumps(question))
    _say(json.dumps(question))
    return int(value)


def _environment(value: str, _question: dict[str, Any]) -> None:
    Path(value).write_text(json.dumps({"env": dict(os.environ), "argv": sys.argv, "cwd": str(Path.cwd())}))


# What bad flashers do: the exit code, or None where the step goes on behind it.
_TROUBLES: dict[str, Callable[[str, dict[str, Any]], int | None]] = {
    "exit": _exit,
    "signal": _signal,
    "hang": _hang,
    "grandchild": _grandchild,
    "hang-with-grandchild": _hang_with_grandchild,
    "half": _half,
    "slow": _slow,
    "renumber": _renumber,
    "echo": _echo,
    "garbage": _garbage,
    "endless": _endless,
    "long-log": _long_log,
    "say": _say_this,
    "leak": _leak,
    "environment": _environment,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
