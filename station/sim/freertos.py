"""A simulated STM32U5 on a pty: ``python -m station.sim.freertos LINK --serial NAME ...``.

Its command line is written after FreeRTOS' ``iot-reference-stm32u5``: ``cli_uart_drv.c`` (echo, prompt, Ctrl-C),
``cli_conf.c``, ``cli_pki.c`` and ``cli_utils.c``. ``--serial`` is the thing name that is in its flash already; ``-``
for a board that has none yet.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import re
import sys
import time
from pathlib import Path

from station.sim import terminal
from station.sim.board_faults import Faults
from station.sim.board_wire import Wire
from station.sim.terminal import Serving, Terminal, keep, kept

_PROMPT = b"> "
_LINE, _PEM_LINE, _DER = 128, 64, 2_048
_LOG = (
    b"<INF>   12045 [MQTTAgent] Connecting to the broker. (mqtt_agent_task.c:1023)\r\n",
    b"<ERR>   12311 [MQTTAgent] Error: no network. (mqtt_agent_task.c:1040)\r\n",
    b"<INF>   13002 [lwIP] Success: link is up > (net_main.c:88)\r\n",
)
_KNOWN = {
    "interrupted": ("", "a log line comes behind every second line of a PEM"),
    "import-fails": ("", "an import says nothing"),
    "no-csr": ("", "no CSR is printed"),
    "no-commit": ("", "the configuration cannot be saved"),
    "other-key": ("", "the public key that is exported is another one"),
}
_DEFAULTS = {"mqtt_endpoint": "", "gg_endpoint": "", "mqtt_port": "8883", "wifi_ssid": "", "wifi_credential": ""}
_NUMBERS = ("mqtt_port",)


class Cli:
    """The command line: one task that reads a line, obeys, and prompts for the next."""

    def __init__(self, wire: Wire, asked: argparse.Namespace) -> None:
        self._wire, self._store, self._faults = wire, asked.store, asked.faults
        self._terminal = Terminal(wire, asked.faults, _LOG)
        self._pki = Pki(asked.store, asked.faults)
        self._held = bytearray()
        self._pem: list[bytes] | None = None  # the lines of an import so far
        self._label = ""
        if kept(self._store, "thing_name") is None:
            keep(self._store, "thing_name", b"" if asked.serial == "-" else asked.serial.encode())
        self._staged = self._stored()
        self._began = time.monotonic()

    def serve(self) -> None:
        """Answer until the power goes."""
        self._start()
        while True:
            for byte in self._wire.take():
                self._hear(byte)

    def _start(self) -> None:
        self._began = time.monotonic()
        self._staged = self._stored()
        self._terminal.say(b"<INF>       1 [Main] Booting. (app_main.c:311)\r\n" + _PROMPT)

    def _stored(self) -> dict[str, str]:
        """The configuration in flash; what was not committed is lost."""
        keys = ("thing_name", *_DEFAULTS)
        return {key: (kept(self._store, key) or _DEFAULTS.get(key, "").encode()).decode() for key in keys}

    def _hear(self, byte: int) -> None:
        if byte == 0x03:
            self._held.clear()
            self._terminal.say(b"\r\n" + _PROMPT)
        elif byte not in b"\r\n\0":
            if len(self._held) < _LINE - 1:
                self._held.append(byte)
                self._terminal.echo(bytes([byte]))
        elif self._held:
            line = bytes(self._held)
            self._held.clear()
            self._terminal.echo(b"\r\n")
            self._line(line)

    def _line(self, line: bytes) -> None:
        if self._pem is not None:
            self._import(line)
            return
        if self._terminal.due() or (line == b"reset" and "no-restart" not in self._faults):
            if line == b"reset":
                self._terminal.say(b"Resetting device.")
            self._restart()
            return
        words = line.decode("latin-1").split()
        if words[:3] == ["pki", "import", "cert"]:
            self._pem, self._label = [], words[3] if words[3:] else "tls_cert"
            self._terminal.say(_PROMPT)
            return
        said = self._obey(words)
        self._terminal.reply(said.replace("\n", "\r\n").encode("latin-1") + _PROMPT)

    def _import(self, line: bytes) -> None:
        """One more line of a PEM; past its end, or at one that is too long, lines are commands again."""
        assert self._pem is not None  # noqa: S101 - asked by _line
        self._pem.append(line)
        if len(line) <= _PEM_LINE and not line.startswith(b"-----END "):
            self._terminal.say(_PROMPT)
            return
        lines, self._pem = self._pem, None
        self._terminal.reply(self._pki.imported(self._label, lines).replace("\n", "\r\n").encode() + _PROMPT)

    def _obey(self, words: list[str]) -> str:
        match words:
            case ["conf", *rest]:
                return self._conf(rest)
            case ["pki", *rest]:
                return self._pki.obey(rest, self._staged["thing_name"])
            case ["reset"]:
                return "Resetting device.\n"
            case ["uptime"]:
                ms = int((time.monotonic() - self._began) * 1000)
                return f"up 0 day(s) 00:00:{ms // 1000:02}.{ms % 1000:03}\n"
        return "Command not recognized. Enter 'help' to view a list of available commands.\n"

    def _conf(self, words: list[str]) -> str:
        match words:
            case ["set", key, *value] if key in self._staged:
                self._staged[key] = value[0] if value else ""
                return self._shown(key)
            case ["get"]:
                return "".join(map(self._shown, self._staged))
            case ["get" | "set", key, *_]:
                return self._shown(key)
            case ["commit"]:
                return self._commit()
        return "conf:\n    Get/ Set/ Commit runtime configuration values\n"

    def _shown(self, key: str) -> str:
        if key not in self._staged:
            return f"Error: key: {key} was not recognized.\n"
        value = self._staged[key]
        return f"{key}={value}\n" if key in _NUMBERS else f'{key}="{value}"\n'

    def _commit(self) -> str:
        if "no-commit" in self._faults:
            return "Error: Could not save configuration to NVM.\n"
        for key, value in self._staged.items():
            keep(self._store, key, value.encode())
        return "Configuration saved to NVM.\n"

    def _restart(self) -> None:
        if "forget" in self._faults:
            for file in self._store.glob("*.der"):
                file.unlink()
        self._held.clear()
        self._pem = None
        self._terminal.restarted()
        self._start()


class Pki:
    """Keys and certificates by their labels, each one object."""

    def __init__(self, store: Path, faults: Faults) -> None:
        self._store, self._faults = store, faults

    def obey(self, words: list[str], thing_name: str) -> str:
        """What ``pki <words>`` prints."""
        match words:
            case ["generate", "key"]:
                return self._generate()
            case ["generate", "csr"]:
                return self._csr(thing_name)
            case ["export", "cert", *label]:
                der = kept(self._store, f"{label[0] if label else 'tls_cert'}.der")
                if der and "flip" in self._faults and not label:
                    der = der[:-1] + bytes([der[-1] ^ 1])
                return self._pem("CERTIFICATE", der) if der else ""
            case ["export", "key"]:
                return self._public()
        return "pki:\n    Perform public/private key operations.\n"

    def imported(self, label: str, lines: list[bytes]) -> str:
        """What an import prints behind the last line: nothing, where it failed on what it read."""
        from cryptography import x509

        size = 0
        for line in lines[1:]:
            if size + len(line) + 1 >= _DER:
                return "Error: Out of memory to store the given PEM file.\n"
            size += len(line) * 3 // 4
        if any(len(line) > _PEM_LINE for line in lines):
            return "Error: Current line exceeds maximum line length for a PEM file.\n"
        if not re.match(rb"-----BEGIN .*-----", lines[0]):
            return "Error: PEM header does not contain the expected text: '-----BEGIN '.\n"
        try:
            der = base64.b64decode(b"".join(lines[1:-1]), validate=True)
            x509.load_der_x509_certificate(der)
        except (binascii.Error, ValueError):
            return ""
        if "import-fails" in self._faults:
            return ""
        keep(self._store, f"{label}.der", der)
        return f"Success: Certificate loaded to label: '{label}'.\n"

    def _generate(self) -> str:
        from station.sim.board_crypto import make_key

        keep(self._store, "tls_key_priv.pem", make_key("p256"))
        said = "SUCCESS: Key pair generated and stored in\nPrivate Key Label: tls_key_priv\n"
        return f"{said}Public Key Label: tls_key_pub\n{self._public_pem()}"

    def _csr(self, thing_name: str) -> str:
        from station.sim.board_crypto import make_csr

        key = kept(self._store, "tls_key_priv.pem")
        if key is None or "no-csr" in self._faults:
            return ""
        csr = make_csr(key, thing_name)
        if "bad-csr-signature" in self._faults:
            csr = csr[:-1] + bytes([csr[-1] ^ 1])
        return self._pem("CERTIFICATE REQUEST", csr)

    def _public(self) -> str:
        if kept(self._store, "tls_key_priv.pem") is None:
            return "ERROR: Failed to locate public key with label: 'tls_key_pub\n"
        return "Public Key Label: tls_key_pub\n" + self._public_pem()

    def _public_pem(self) -> str:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

        from station.sim.board_crypto import make_key

        key = kept(self._store, "tls_key_priv.pem") or b""
        public = load_pem_private_key(make_key("p256") if "other-key" in self._faults else key, None).public_key()
        return self._pem("PUBLIC KEY", public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def _pem(self, name: str, der: bytes) -> str:
        """As ``vPrintDer`` prints it: base64 of 48 bytes a line."""
        lines = [f"-----BEGIN {name}-----\n"]
        lines += [base64.b64encode(der[at : at + 48]).decode() + "\n" for at in range(0, len(der), 48)]
        lines.append(f"-----END {name}-----\n")
        if "interrupted" not in self._faults:
            return "".join(lines)
        log = _LOG[0].decode().replace("\r", "")
        return "".join(line + (log if number % 2 else "") for number, line in enumerate(lines))


def _make(wire: Wire, asked: argparse.Namespace) -> Serving:
    return Cli(wire, asked)


if __name__ == "__main__":
    sys.exit(
        terminal.run(
            {**terminal.COMMON, **_KNOWN},
            _make,
            modes=("ntz",),
            text="A simulated STM32U5 with FreeRTOS' reference CLI.",
        )
    )
