"""The TLS credentials of a simulated Zephyr board, after ``tls_credentials_shell.c``: its words are that file's."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from station.sim.board_faults import Faults
from station.sim.terminal import keep, kept

KNOWN = {
    "volatile": ("", "the credentials' backend is the volatile one"),
    "no-digest": ("", "the backend gives no digests: cred list shows an error for each"),
    "add-fails": ("", "the backend stores nothing"),
    "key-exists": ("", "a key cannot be deleted"),
}
_NAMES = {"CA": "CA_CERT", "SERV": "SERVER_CERT", "PK": "PRIVATE_KEY", "PK_PSA": "PRIVATE_KEY_PSA"}
_BUFFER = 1_024
_WIDTH = 32


class ShellError(Exception):
    """What a command prints in red."""


class Credentials:
    """The store, and the buffer into which credentials are gathered."""

    def __init__(self, store: Path, faults: Faults, *, loads: bool) -> None:
        self._store, self._faults, self.loads = store, faults, loads
        self._size = faults.number("buffer") or _BUFFER
        self._buffer = b""

    def restart(self) -> None:
        """RAM is lost; with the volatile backend, the credentials too."""
        self._buffer = b""
        if "volatile" in self._faults or "forget" in self._faults:
            for file in self._store.glob("*.cred"):
                file.unlink()

    def obey(self, words: list[str]) -> str:
        """What ``cred <words>`` prints."""
        verbs: Mapping[str, Callable[[list[str]], str]] = {
            "buf": self._buf,
            "add": self._add,
            "del": self._del,
            "get": self._get,
            "list": self._list,
        }
        if not words or words[0] not in verbs:
            raise ShellError("cred - TLS Credentials Commands")
        return verbs[words[0]](words[1:])

    def clear(self, *, quietly: bool = False) -> str:
        """Empty the buffer; where asked to be quiet, it is only told if something was in it."""
        was, self._buffer = self._buffer, b""
        return "" if quietly and not was else "Credential buffer cleared.\n"

    def load(self, came: bytes) -> str:
        """What `cred buf load` got until Ctrl-C."""
        self._append(came)
        return f"Stored {len(self._buffer)} bytes.\n"

    def key(self, words: list[str]) -> str:
        """What ``nrf_cloud_cred <words>`` prints."""
        from station.sim.board_crypto import make_csr, make_key

        match words:
            case ["keygen", tag]:
                if kept(self._store, f"{tag}-key.pem") is not None:
                    raise ShellError(f"Key already exists in sec tag {tag}. Use 'delete' to remove it first.")
                keep(self._store, f"{tag}-key.pem", make_key("p256"))
                keep(self._store, f"{tag}-PK_PSA.cred", b"\x00\x00\x00\x01")
                return f"Generated device key in sec tag {tag}\n"
            case ["csr", tag, subject]:
                key = kept(self._store, f"{tag}-key.pem")
                if key is None:
                    raise ShellError("CSR generation failed: -2")
                csr = make_csr(key, subject.removeprefix("CN="))
                if "bad-csr-signature" in self._faults:
                    csr = csr[:-1] + bytes([csr[-1] ^ 1])
                return f"CSR: {base64.b64encode(csr).decode()}\nCSR generation complete\n"
            case ["delete", tag]:
                if "key-exists" in self._faults:
                    raise ShellError("Key deletion failed: -5")
                for name in (f"{tag}-key.pem", f"{tag}-PK_PSA.cred"):
                    (self._store / name).unlink(missing_ok=True)
                return f"Deleted device key in sec tag {tag}\n"
        raise ShellError("nrf_cloud_cred: wrong parameter count")

    def _buf(self, words: list[str]) -> str:
        match words:
            case ["-h" | "--help"] | []:
                load = "  load   : Load credential directly to buffer so it can be added.\n" if self.loads else ""
                return (
                    "buf - Buffer in credential data so it can be added.\nSubcommands:\n"
                    f"  clear  : Clear the credential buffer\n{load}"
                )
            case ["clear"]:
                return self.clear()
            case [chunk]:
                self._append(chunk.encode("latin-1"))
                return f"Stored {len(chunk)} bytes.\n"
        raise ShellError("buf: wrong parameter count")

    def _append(self, chunk: bytes) -> None:
        if len(self._buffer) + len(chunk) >= self._size:
            self._buffer = b""
            raise ShellError(
                "Not enough room in credential buffer for provided data. Increase"
                " CONFIG_TLS_CREDENTIALS_SHELL_CRED_BUF_SIZE.\nCredential buffer cleared."
            )
        self._buffer += chunk

    def _add(self, words: list[str]) -> str:
        try:
            tag, kind, backend, form = words
        except ValueError:
            raise ShellError("add: wrong parameter count") from None
        name = _NAMES.get(kind, kind)
        if backend != "DEFAULT" or form != "bint" or kind not in _NAMES:
            raise ShellError(f"{form} is not a valid storage format.")
        if not self._buffer:
            raise ShellError("Please provide a credential to add.")
        if kept(self._store, f"{tag}-{kind}.cred") is not None:
            raise ShellError(f"TLS credential with sectag {tag} and type {name} already exists.\n{self.clear()}")
        text, said = self._buffer, self.clear()
        try:
            raw = base64.b64decode(text, validate=True) + b"\0"
        except binascii.Error:
            raise ShellError(f"Could not decode input from base64, error: -22\n{said}") from None
        if "add-fails" in self._faults:
            raise ShellError(f"Failed to add TLS credential with sectag {tag} and type {name}. Error: -12\n.{said}")
        keep(self._store, f"{tag}-{kind}.cred", raw)
        heap = ""
        if "volatile" in self._faults:
            heap = (
                "\x1b[1;33mCredential has been copied to heap. Memory will be leaked if this credential is deleted"
                " without using the shell.\n\x1b[m"
            )
        return f"{heap}Added TLS credential of type {name}, sectag {tag}, and length {len(raw)} bytes.\n{said}"

    def _del(self, words: list[str]) -> str:
        tag, kind = words
        name = _NAMES.get(kind, kind)
        if kept(self._store, f"{tag}-{kind}.cred") is None:
            raise ShellError(f"There is no TLS credential with sectag {tag} and type {name}.")
        (self._store / f"{tag}-{kind}.cred").unlink()
        return f"Deleted TLS credential with sectag {tag} and type {name}.\n"

    def _get(self, words: list[str]) -> str:
        tag, kind, _ = words
        raw = self._shown(tag, kind)
        if raw is None:
            raise ShellError(f"There is no TLS credential with sectag {tag} and type {_NAMES.get(kind, kind)}.")
        if len(raw) > self._size + 1:
            raise ShellError(f"Not enough room in the credential buffer to retrieve credential with sectag {tag}")
        step = _WIDTH // 4 * 3
        text = raw[:-1]
        lines = [base64.b64encode(text[at : at + step]).decode() for at in range(0, len(text), step)]
        return "\n".join(lines) + "\nCredential buffer cleared.\n"

    def _list(self, words: list[str]) -> str:
        lines = []
        for file in sorted(self._store.glob("*.cred")):
            tag, kind = file.stem.split("-")
            if any(asked not in {"any", found} for asked, found in zip(words, (tag, kind), strict=False)):
                continue
            raw = self._shown(tag, kind) or b""
            digest = base64.b64encode(hashlib.sha256(raw).digest()).decode()
            # A key in PSA cannot be read, so there is nothing to digest.
            lost = "no-digest" in self._faults or kind == "PK_PSA"
            lines.append(f"{tag},{kind},ERROR,-95\n" if lost else f"{tag},{kind},{digest},0\n")
        return "".join(lines) + f"{len(lines)} credentials found.\n"

    def _shown(self, tag: str, kind: str) -> bytes | None:
        raw = kept(self._store, f"{tag}-{kind}.cred")
        if raw and kind == "SERV" and "flip" in self._faults:
            return raw[:40] + bytes([raw[40] ^ 1]) + raw[41:]
        return raw
