"""The family `linux`: a gateway behind the login of its serial console, with a POSIX shell and ``openssl``.

Every command is sent with a random tag and answers in one line between marks: exit status, a hash, the output in
base64. So kernel messages, an echo and a prompt of any kind may stand around it, and an answer that one of them cut
into is asked for again: every command here may run twice. A line of input is at most 4,095 bytes long (the tty's
canonical mode, termios(3)), so files go in pieces. What is secret is typed, piped or written within `Wire.private`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from station.boards.enrollment import EVERY_KEY, enroll_here
from station.boards.linux_dial import command as dial_command
from station.boards.linux_dial import ending as dial_ending
from station.boards.wire import Wire, plain
from station.credentials import Credentials, Enrollment, Evidence, Held, possession_message
from station.family import Family, Limits
from station.faults import Fault, FaultError, printable
from station.interfaces import Stop
from station.model import Call, ChainForm, Ending, KeyOrigin, KeyType, Product, Unit
from station.secret import SecretSource
from station.transcript import Transcript

_SHORT_S: Final = 5.0
_LOGIN_S: Final = 15.0
_LOGOUT_S: Final = 1.0
_KEY_S: Final = 120.0  # RSA-4096 on a small core
_RESTART_S: Final = 180.0
_TRIES: Final = 3
_LINE_MAX: Final = 4_095  # termios(3), of the canonical mode
_PIECE: Final = 1_536  # bytes of a file a line: 2,048 in base64, well within a line of 4,095
_FILE_MAX: Final = 32_768
_OUTPUT_MAX: Final = 65_536

_PATH: Final = Field(pattern=r"^/[A-Za-z0-9._/-]{1,200}$")
_LOGIN: Final = re.compile(rb"login: *$", re.IGNORECASE)
_PASSWORD: Final = re.compile(rb"assword: *$")
# login(1) says this of a wrong one, in every implementation; the kernel's messages that pass may say "incorrect" too.
_AFTER_USER: Final = re.compile(rb"assword: *|[#$>] *$|Login incorrect")
_AFTER_PASSWORD: Final = re.compile(rb"Login incorrect|[#$>] *$")
_NAMES: Final = ("cert.pem", "ca.pem")
_CURVES: Final = {KeyType.P256: "P-256", KeyType.P384: "P-384"}


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    return (info.context or Path()) / path


class Password(BaseModel):
    """Where the console's password is: a systemd credential, or a 0600 file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    credential: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    file: Annotated[Path, AfterValidator(_beside_the_file)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Password:
        if (self.credential is None) == (self.file is None):
            raise ValueError("should name one of `credential` and `file`")
        return self


class Options(BaseModel):
    """`options` of a product of this family: who logs in, where the names stand, where the credentials go."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "root"
    password: Password | None = None
    serial: Annotated[str, _PATH] = "/proc/device-tree/serial-number"
    chip: Annotated[str, _PATH] = "/sys/class/net/eth0/address"
    model: Annotated[str, _PATH] = "/proc/device-tree/model"
    firmware: Annotated[str, _PATH] = "/etc/version"
    folder: Annotated[str, _PATH] = "/etc/aws-iot"
    dialler: Literal["openssl", "mosquitto"] = "openssl"


class _Password(SecretSource):
    __slots__ = ()
    what = "console's password"


class LinuxBoard:
    """One gateway at its console, for one run. Satisfies `interfaces.Board`.

    Raises:
        FaultError: each method `UNIT_SILENT`, `UNIT_GARBLED`, `UNIT_REFUSED` (a command failed; its last line is the
            detail), `CONFIG` (the password), `LIFTED`, and what ``stop`` raises.
    """

    def __init__(self, port: str, product: Product, stop: Stop, transcript: Transcript) -> None:
        self._product, self._stop = product, stop
        self._options: Options = product.options or Options()
        self._wire = Wire(port, product.baud, stop, transcript)
        self._logged_in = False

    def identify(self) -> Unit:
        """Read serial, chip id, model and firmware from their files. Raises also `Fault.UNIT_IDENTITY`."""
        paths = (self._options.serial, self._options.chip, self._options.model, self._options.firmware)
        words = self._run("; ".join(f"cat {path}; echo; echo =" for path in paths), _SHORT_S)
        told = words.decode("latin-1").split("=\n")
        if len(told) != 5:
            raise FaultError(Fault.UNIT_GARBLED, f"{len(told) - 1} names where four were asked")
        # A device tree's strings end in NUL, and a model has spaces; a MAC's colons are no part of a name.
        return Unit(*(re.sub(r"[^A-Za-z0-9._-]+", "-", word.strip(" \0\r\n").replace(":", "")) for word in told[:4]))

    def flash(self) -> None:
        """Refused: a gateway that boots has its firmware."""
        raise FaultError(Fault.CONFIG, "the family linux flashes no firmware")

    def enroll(self, subject: str) -> Enrollment:
        """Have ``openssl`` make key and CSR on the gateway; or make both here."""
        if self._product.key_origin is KeyOrigin.STATION:
            self._stop.check()
            return enroll_here(subject, self._product.key_type)
        kind = self._product.key_type
        how = (
            f"EC -pkeyopt ec_paramgen_curve:{_CURVES[kind]} -pkeyopt ec_param_enc:named_curve"
            if kind in _CURVES
            else f"RSA -pkeyopt rsa_keygen_bits:{kind.removeprefix('rsa')}"
        )
        key, digest = self._path("key.pem"), "sha384" if kind is KeyType.P384 else "sha256"
        made = (
            f"umask 077; mkdir -p {self._options.folder} && openssl genpkey -algorithm {how} -out {key}.new 2>/dev/null"
            f" && mv {key}.new {key} && sync"
            # A small gateway may have no openssl.cnf, and `req` wants one.
            f" && printf '[req]\\ndistinguished_name=d\\n[d]\\n' >{key}.cnf"
            f" && openssl req -config {key}.cnf -new -key {key} -{digest} -subj /CN={shlex.quote(subject)} -outform DER"
            f"; r=$?; rm -f {key}.cnf; (exit $r)"
        )
        return Enrollment(self._run(made, _KEY_S))

    def install(self, credentials: Credentials) -> None:
        """Write roots, key (where the station made it) and chain: hashed under another name first, then renamed."""
        self._run(f"umask 077; mkdir -p {self._options.folder}", _SHORT_S)
        self._put("roots.pem", credentials.server_roots)
        if credentials.private_key is not None:
            with self._wire.private("the unit's private key"):
                self._put("key.pem", credentials.key_text())
        for name, text in zip(_NAMES, credentials.texts(), strict=False):
            self._put(name, text)

    def reset(self) -> None:
        """Reboot, and log in again; the kernel's boot id must be another. Raises also `Fault.UNIT_RESET`."""
        before = self._boot_id()
        self._wire.write(b"reboot\n")
        end = time.monotonic() + _RESTART_S
        self._wire.through_restart(lambda: self._rebooted(before, end), _RESTART_S)

    def inspect(self, nonce: bytes) -> Evidence:
        """Read the chain back, hash the roots, and have ``nonce`` signed by the key in its file."""
        names = [self._path(name) for name, _ in zip(_NAMES, self._places(), strict=False)]
        chain = tuple(Held(self._run(f"cat {name} 2>/dev/null || true", _SHORT_S)) for name in names)
        if not all(held.value for held in chain):
            return Evidence((), None)
        message = base64.b64encode(possession_message(nonce)).decode()
        key = self._path("key.pem")
        sign = f"test -s {key} && printf %s {message} | base64 -d | openssl dgst -sha256 -sign {key}"
        modes = self._run(f"ls -l {key} | cut -c1-10", _SHORT_S).strip()
        if modes not in {b"-rw-------", b"-r--------"}:
            raise FaultError(Fault.READBACK_DIFFERS, f"the key's mode is {printable(modes.decode('latin-1'), 20)}")
        roots = Held(self._digest("roots.pem") or b"", digest=True)
        return Evidence(chain, self._run(sign, _SHORT_S), roots)

    def dial(self, call: Call) -> Ending:
        """Have the gateway connect with what it stored. Raises also `Fault.UNIT_CANNOT_DIAL`."""
        asked = dial_command(self._options.dialler, self._options.folder, call, self._product.chain_form)
        output = self._run(asked, call.timeout_s + call.hold_s + _LOGIN_S)
        return dial_ending(self._options.dialler, output, call)

    def close(self) -> None:
        """Log out, as far as anybody listens, and give the port back. Never raises."""
        try:
            if self._logged_in:
                self._wire.write(b"exit\n")
                # To give the port back drops what is still on its way.
                self._wire.until(_LOGIN, _LOGOUT_S)
        except FaultError:
            pass
        finally:
            self._wire.close()

    def _path(self, name: str) -> str:
        return f"{self._options.folder}/{name}"

    def _places(self) -> range:
        return range(2 if self._product.chain_form is ChainForm.TWO_SLOTS else 1)

    def _rebooted(self, before: bytes, end: float) -> None:
        """Wait for a boot id that is not ``before``: what a console says meanwhile is anything."""
        self._logged_in = False
        while True:
            self._wire.wait(0.2)
            try:
                now = self._boot_id()
            except FaultError as error:
                if error.fault not in {Fault.UNIT_SILENT, Fault.UNIT_GARBLED} or time.monotonic() > end:
                    raise
                self._logged_in = False
                continue
            if now != before:
                return
            if time.monotonic() > end:
                raise FaultError(Fault.UNIT_RESET, f"the boot id is {before[:40]!r} as before: it did not reboot")

    def _boot_id(self) -> bytes:
        return self._run("cat /proc/sys/kernel/random/boot_id", _SHORT_S).strip()

    def _digest(self, name: str) -> bytes | None:
        said = self._run(f"sha256sum {self._path(name)} 2>/dev/null || true", _SHORT_S)[:64]
        return bytes.fromhex(said.decode()) if re.fullmatch(rb"[0-9a-f]{64}", said) else None

    def _put(self, name: str, content: bytes) -> None:
        """One file in pieces at their own places, so that a piece may be written twice; hashed, then renamed."""
        if len(content) > _FILE_MAX:
            raise FaultError(Fault.PRODUCT_UNFIT, f"{name} has {len(content)} bytes; {_FILE_MAX} is the most")
        path, wanted = self._path(name), hashlib.sha256(content).hexdigest()
        self._run(f"umask 077; : > {path}.new", _SHORT_S)
        for index, start in enumerate(range(0, len(content), _PIECE)):
            piece = base64.b64encode(content[start : start + _PIECE]).decode()
            write = f"dd of={path}.new bs={_PIECE} seek={index} conv=notrunc 2>/dev/null"
            self._run(f"printf %s {piece} | base64 -d | {write}", _SHORT_S + len(piece) * 20 / self._wire.baud)
        keep = f"mv {path}.new {path} && sync"
        check = f"sha256sum {path}.new | grep -q ^{wanted}"
        try:
            self._run(f"{check} && {keep} || sha256sum {path} | grep -q ^{wanted}", _SHORT_S)
        except FaultError as error:
            if error.fault is not Fault.UNIT_REFUSED:
                raise
            raise FaultError(
                Fault.INSTALL_REFUSED, f"{path}: what the gateway wrote is not what it was given"
            ) from None

    def _run(self, command: str, total_s: float) -> bytes:
        """The output of a command that ended well; stderr where it did not."""
        for _ in range(_TRIES):
            if not self._logged_in:
                self._log_in()
            try:
                answer = self._asked(command, total_s)
            except FaultError as error:
                # The mark itself was cut, or the gateway restarted by itself: whoever logs in again finds out.
                if error.fault is not Fault.UNIT_SILENT or total_s > _SHORT_S:
                    raise
                answer, self._logged_in = None, False
            if answer is None:
                continue
            status, output = answer
            if status:
                last = (output.decode("latin-1").strip().splitlines() or ["no reason given"])[-1]
                raise FaultError(Fault.UNIT_REFUSED, f"exit {status}: {printable(last, 200)}")
            return output
        raise FaultError(Fault.UNIT_GARBLED, f"{_TRIES} times no whole answer")

    def _asked(self, command: str, total_s: float) -> tuple[int, bytes] | None:
        """Status and output; None where something cut into the answer."""
        tag = secrets.token_hex(4)
        # The tag stands in two halves in what is sent: an echo of it is no answer.
        line = (
            f"{{ {command}; }} >/tmp/.s.$$ 2>/tmp/.e.$$; r=$?; [ $r = 0 ] || cat /tmp/.e.$$ >/tmp/.s.$$;"
            ' h=$(sha256sum </tmp/.s.$$ | cut -c1-16); b=$(base64 </tmp/.s.$$ | tr -d "\\n");'
            " rm -f /tmp/.s.$$ /tmp/.e.$$;"
            f" printf '\\n=%s%s:%s:%s:%s=\\n' {tag[:4]} {tag[4:]} $r $h $b\n"
        )
        if len(line) > _LINE_MAX:
            raise FaultError(
                Fault.PRODUCT_UNFIT,
                f"a command of {len(line)} bytes does not fit the {_LINE_MAX} of a console's line; a shorter `folder`,"
                " client id or topic lifts it",
            )
        wanted = re.compile(rb"=%s:(\d{1,3}):([0-9a-f]{16}):([A-Za-z0-9+/]*={0,2})=\r?\n" % tag.encode())
        mark = re.compile(rb"=%s:[^\n]*\n|%s" % (tag.encode(), _LOGIN.pattern), re.IGNORECASE)
        said = self._wire.ask(line.encode("ascii"), mark, total_s, most=_OUTPUT_MAX * 2)[0]
        found = wanted.fullmatch(said)
        if found is None:
            # A login where an answer should be: the gateway restarted by itself.
            self._logged_in = not _LOGIN.search(said)
            return None
        try:
            output = base64.b64decode(found[3], validate=True)
        except binascii.Error:
            return None
        return (int(found[1]), output) if hashlib.sha256(output).hexdigest()[:16].encode() == found[2] else None

    def _log_in(self) -> None:
        """Come to a shell, whatever stands on the console now: its login, a shell, or something half typed."""
        end = time.monotonic() + _LOGIN_S
        while time.monotonic() < end:
            self._wire.write(b"\x15\n")
            said = plain(self._wire.drain(0.2, 3.0))
            if _LOGIN.search(said):
                self._wire.write(self._options.user.encode() + b"\n")
                if b"assword" in self._wire.until(_AFTER_USER, _LOGIN_S)[0]:
                    self._give_password()
            elif _PASSWORD.search(said):
                continue  # somebody's half login: the empty password ends it
            if self._is_a_shell():
                self._quiet()
                self._logged_in = True
                return
        raise FaultError(Fault.UNIT_SILENT, "no shell and no login prompt on the console")

    def _is_a_shell(self) -> bool:
        tag = secrets.token_hex(4)
        # The tag stands in two halves in what is sent: an echo of it is no answer.
        self._wire.write(f"printf '=%s%s=' {tag[:4]} {tag[4:]}\n".encode("ascii"))
        try:
            self._wire.until(re.compile(b"=%s=" % tag.encode()), 2.0)
        except FaultError as error:
            if error.fault is not Fault.UNIT_SILENT:
                raise
            return False
        return True

    def _give_password(self) -> None:
        told = self._options.password
        if told is None:
            raise FaultError(Fault.CONFIG, "the console asks for a password; name it in the product's options")
        secret = _Password(told.credential, told.file).read()
        with self._wire.private("the console's password"):
            self._wire.write(secret.encode() + b"\n")
            said = self._wire.until(_AFTER_PASSWORD, _LOGIN_S)[0]
            self._wire.drain(0.05, 1.0)  # the rest of an echo, where the password itself holds what ends a prompt
        if said.startswith(b"Login"):
            raise FaultError(Fault.UNIT_REFUSED, f"the login of {self._options.user} was refused: a wrong password")

    def _quiet(self) -> None:
        """No echo, no history, no prompt, and of the kernel's messages as few as root may say.

        And no line editor: busybox's takes 1,024 characters a line where nobody chose otherwise
        (CONFIG_FEATURE_EDITING_MAX_LEN), and echoes them itself. ``read`` takes a whole line of the tty's.
        """
        quiet = "stty -echo 2>/dev/null; unset HISTFILE; PS1=; PS2=; dmesg -n 1 2>/dev/null"
        self._wire.write(f'{quiet}; while IFS= read -r l; do eval "$l"; done\n'.encode("ascii"))
        self._wire.drain(0.1, 1.0)


def _limits(options: Options) -> Limits:
    limits = Limits(
        forms=frozenset(ChainForm),
        board_keys=EVERY_KEY,
        station_keys=EVERY_KEY,
        dials=True,
        place_bytes=_FILE_MAX,
        roots_bytes=_FILE_MAX,
        lifted_by="nothing: a file system has room",
    )
    if options.dialler == "openssl":
        return limits
    # AWS IoT registers a certificate at first contact by the CA that is sent along.
    alone = "mosquitto_pub sends what is in cert.pem alone; with `dialler: openssl` each form is sent whole"
    return replace(limits, forms=limits.forms - {ChainForm.TWO_SLOTS}, fixed_by=alone)


FAMILY: Final = Family(
    title="Linux gateways behind the login of their serial console",
    driver=LinuxBoard,
    options=Options,
    limits=_limits,
)
