"""The family `esp32`: Espressif's chips through their loader, by esptool, with the key made on the station.

What a unit gets is one flash partition (`secure_cert`, or `nvs`), written whole, verified by the chip's own MD5, read
back after the reset. esptool runs in a child process for each run (`flasher`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from station.boards.claim import Claim
from station.boards.enrollment import EVERY_KEY, enroll_here
from station.boards.flasher import Answer, Flasher, OrderError
from station.boards.images import reviewed
from station.boards.nvs import NAME, strings
from station.boards.secure_cert import INTEGRITY_ROOM, Entry, EntryType, build, parse, room
from station.credentials import Credentials, Enrollment, Evidence, Held
from station.family import Family, Limits
from station.faults import Fault, FaultError
from station.interfaces import Stop
from station.model import Call, ChainForm, Ending, Product, Unit
from station.transcript import Transcript

_SECTOR: Final = 4_096
_BEHIND_BOOTLOADER: Final = 0x8000  # cmds.write_flash of esptool 5.6: a bootloader under another key bricks such a chip
_LOAD_S: Final = 30.0  # esptool's import: 0.1 s, and more on a laden machine
_CONNECT_S: Final = 30.0  # two attempts of four resets each, the stub at 115,200 baud
_ORDER_S: Final = 20.0
_LEAVE_S: Final = 3.0
_BACK_S: Final = 10.0  # a USB port that went away at the reset
_ERASE_S: Final = 80.0  # a MiB; twice what esptool itself allows for
_END: Final = b"\0"  # of each PEM text
_NVS_LEAST: Final = 0x3000
_NVS_TEXT: Final = 3_999  # bytes of one string, beside its NUL
_KEY_MOST: Final = 3_400  # bytes of an RSA-4096 key as PEM

# What esptool says of an answer that came damaged (loader.py): by noise on the line, or by a chip that restarted.
_CUT_INTO: Final = re.compile(
    "noise or corruption|No more data|Invalid SLIP escape|doesn't match request"
    "|Corrupt data|Expected digest|Digest mismatch"
)

_Name: TypeAlias = Annotated[str, Field(pattern=NAME)]


class Nvs(BaseModel):
    """The names of the strings in an NVS partition: at most 15 characters, longer ones are cut without a word.

    ``ca`` is written where the chain is ``leaf,ca``; without ``roots`` the server roots are the firmware's own.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    namespace: _Name = "certs"
    certificate: _Name = "client_cert"
    ca: _Name = "client_ca"
    key: _Name = "client_key"
    roots: _Name | None = None

    @model_validator(mode="after")
    def _all_different(self) -> Nvs:
        names = [name for name in (self.certificate, self.ca, self.key, self.roots) if name is not None]
        if len(set(names)) != len(names):
            raise ValueError("each string should have a name of its own")
        return self


class Options(BaseModel):
    """`options` of a product of this family.

    ``offset`` and ``size`` are the partition's: `esp_secure_cert`, or with ``nvs`` an NVS partition that nothing else
    writes to. ``secure_boot`` is what the eFuses must say; a chip with flash encryption or in secure download mode is
    refused. ``serial_prefix`` stands before the MAC in the unit's serial. ``roots`` is the user entry (51 to 55) that
    takes the server roots; without it they are the firmware's own.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    offset: Annotated[int, Field(ge=0, lt=2**32, multiple_of=_SECTOR)] = 0xD000
    size: Annotated[int, Field(ge=_SECTOR, le=0x10000, multiple_of=_SECTOR)] = 0x2000
    serial_prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,31})?$")] = ""
    roots: Annotated[int, Field(ge=51, le=55)] | None = None
    nvs: Nvs | None = None
    secure_boot: bool = False
    stub: bool = True
    reset: Literal["hard-reset", "watchdog-reset"] = "hard-reset"

    @model_validator(mode="after")
    def _fits_nvs(self) -> Options:
        if self.nvs is not None and self.size < _NVS_LEAST:
            raise ValueError(f"size: an NVS partition has at least {_NVS_LEAST:#x} bytes")
        if self.nvs is not None and self.roots is not None:
            raise ValueError("roots: is for esp_secure_cert; say nvs.roots")
        return self

    @property
    def places(self) -> dict[str, int | str]:
        """Where certificate, ca, key and (where they are installed) roots stand: a type, or a name in the NVS."""
        if self.nvs is not None:
            found: dict[str, int | str | None] = dict(self.nvs.model_dump(exclude={"namespace"}))
        else:
            types = {"certificate": EntryType.DEVICE_CERT, "ca": EntryType.CA_CERT, "key": EntryType.PRIVATE_KEY}
            found = {**types, "roots": self.roots}
        return {place: where for place, where in found.items() if where is not None}


class Esp32Board:
    """One chip in its loader, for one run. Satisfies `interfaces.Board`.

    Raises:
        FaultError: `Fault.LIFTED` where there is no such port, `Fault.PORT_DENIED` where another run or program holds
            it. Every method: `UNIT_SILENT`, `FLASHER_FAILED`, `FLASHER_LATE`, and what ``stop`` raises.
    """

    def __init__(self, port: str, product: Product, stop: Stop, transcript: Transcript) -> None:
        self._port, self._product, self._stop, self._transcript = port, product, stop, transcript
        self._options: Options = product.options or Options()
        self._claim = Claim(port)
        with contextlib.ExitStack() as unless_started:
            unless_started.callback(self._claim.release)
            self._flasher = Flasher(stop, transcript.received)
            unless_started.pop_all()
        self._found: dict[str, Any] | None = None
        self._seconds = _LOAD_S

    def identify(self) -> Unit:
        """Connect to the loader, and read the chip's MAC. Raises also `Fault.CHIP_STATE`."""
        found = self._connected()
        mac = str(self._ask("mac", Fault.UNIT_SILENT).values["mac"])
        return Unit(self._options.serial_prefix + mac, mac, str(found["chip"]), f"v{found['revision']}")

    def flash(self) -> None:
        """Write each image and have the chip hash it. Raises also `Fault.IMAGE_WRONG`, `Fault.UNIT_REFUSED`."""
        self._connected()
        for image in self._product.images:
            content = reviewed(image)
            self._transcript.note(f"{image.file.name}: {len(content)} bytes to {image.offset:#x}")
            self._write(image.offset, content, Fault.UNIT_REFUSED)

    def enroll(self, subject: str) -> Enrollment:
        """Make key and CSR here: a key on the chip needs firmware of its own."""
        self._stop.check()
        return enroll_here(subject, self._product.key_type)

    def install(self, credentials: Credentials) -> None:
        """Write the whole partition. Raises also `Fault.PRODUCT_UNFIT`, `Fault.INSTALL_REFUSED`."""
        partition = self._built(credentials)
        self._connected()
        self._transcript.note(f"not kept: a partition with the unit's private key, {len(partition)} bytes")
        self._write(self._options.offset, partition, Fault.INSTALL_REFUSED)

    def reset(self) -> None:
        """Restart the chip, and connect again, where its port is back if it is its own USB.

        Raises also `Fault.UNIT_RESET` where the stub is still at work.
        """
        self._connected()
        with self._absent():
            self._leave(_ORDER_S)
        end = time.monotonic() + _BACK_S
        while self._found is None and time.monotonic() < end:
            with self._absent():
                self._connected()
            self._stop.wait(0.05)
        if self._connected()["still_stub"]:
            raise FaultError(Fault.UNIT_RESET, f"the flasher stub still runs behind a {self._options.reset}")

    def inspect(self, nonce: bytes) -> Evidence:  # noqa: ARG002 - a chip in its loader signs nothing
        """Read the partition back; of the key, its SHA-256 is all that leaves this method."""
        self._connected()
        size = self._options.size
        read = self._ask(
            "read", Fault.UNIT_SILENT, timeout_s=_ORDER_S + self._line_s(2 * size), most=size,
            offset=self._options.offset, size=size,
        )  # fmt: skip
        held = self._texts_of(read.data)
        chain = tuple(Held(held[place], ending=_END) for place in ("certificate", "ca") if place in held)
        if not chain:
            return Evidence((), None)
        key = hashlib.sha256(held.get("key", b"")).digest()
        roots = Held(held.get("roots", b""), ending=_END) if "roots" in self._options.places else None
        return Evidence(chain, Held(key, digest=True, ending=_END), roots)

    def dial(self, call: Call) -> Ending:
        """Refused: a chip in its loader has no network."""
        raise FaultError(Fault.UNIT_CANNOT_DIAL, f"{call.client_id}: a chip in its loader has no network")

    def close(self) -> None:
        """Let the chip run its firmware, and give the port back. Never raises."""
        if self._found is not None:
            with contextlib.suppress(FaultError):
                self._leave(_LEAVE_S)
        self._flasher.close()
        self._claim.release()

    def _connected(self) -> dict[str, Any]:
        """What the chip said when it was connected to: now, where it is not."""
        if self._found is None:
            found = self._ask(
                "connect",
                Fault.UNIT_SILENT,
                timeout_s=_CONNECT_S,
                port=self._port,
                baud=self._product.baud,
                stub=self._options.stub,
            ).values
            self._right_state(found)
            self._found = found
        return self._found

    def _right_state(self, found: dict[str, Any]) -> None:
        if found["secure_download"]:
            raise FaultError(Fault.CHIP_STATE, "the chip is in secure download mode: nothing can be read back")
        if found["flash_encryption"]:
            raise FaultError(Fault.CHIP_STATE, "the chip's flash encryption is on: it must come after provisioning")
        if found["secure_boot"] is not self._options.secure_boot:
            on = "on" if found["secure_boot"] else "off"
            raise FaultError(Fault.CHIP_STATE, f"the chip's secure boot is {on}, the product says otherwise")
        if found["secure_boot_v1"] and any(image.offset < _BEHIND_BOOTLOADER for image in self._product.images):
            raise FaultError(
                Fault.CHIP_STATE,
                f"the chip has secure boot of version 1: esptool writes no image below {_BEHIND_BOOTLOADER:#x} there",
            )

    def _built(self, credentials: Credentials) -> bytes:
        """The whole partition. Raises `Fault.PRODUCT_UNFIT` where it is too small."""
        leaf, *ca = credentials.texts()
        texts = {"certificate": leaf, "key": credentials.key_text(), "roots": credentials.server_roots}
        texts |= {"ca": ca[0]} if ca else {}
        places, nvs = self._options.places, self._options.nvs
        chosen = {places[place]: text for place, text in texts.items() if place in places}
        if nvs is not None:
            given = json.dumps({name: text.decode("ascii") for name, text in chosen.items()}).encode()
            size = self._options.size
            return self._ask("nvs", Fault.PRODUCT_UNFIT, given, most=size, size=size, namespace=nvs.namespace).data
        try:
            return build([Entry(int(kind), text + _END) for kind, text in chosen.items()], self._options.size)
        except ValueError as error:
            raise FaultError(Fault.PRODUCT_UNFIT, f"esp_secure_cert: {error}") from None

    def _texts_of(self, partition: bytes) -> dict[str, bytes]:
        """What stands at each place of a partition that was read back."""
        try:
            found = self._parsed(partition)
        except ValueError as error:
            raise FaultError(Fault.READBACK_DIFFERS, f"the partition: {error}") from None
        return {place: found[where] for place, where in self._options.places.items() if where in found}

    def _parsed(self, partition: bytes) -> Mapping[Any, bytes]:
        if self._options.nvs is not None:
            return strings(partition, self._options.nvs.namespace)
        return {one.type: one.data for one in parse(partition)}

    def _write(self, offset: int, content: bytes, fault: Fault) -> None:
        timeout_s = _ORDER_S + self._line_s(len(content)) + _ERASE_S * len(content) / 2**20
        self._ask("write", fault, content, timeout_s=timeout_s, offset=offset)

    def _leave(self, timeout_s: float) -> None:
        self._found = None
        self._ask("reset", Fault.UNIT_RESET, timeout_s=timeout_s, mode=self._options.reset)

    @contextlib.contextmanager
    def _absent(self) -> Iterator[None]:
        """A port that is not there, or not yet the station's to open, is no fault while its chip restarts."""
        try:
            yield
        except FaultError as error:
            self._stop.check()  # the board itself was lifted
            if error.fault not in {Fault.LIFTED, Fault.PORT_DENIED}:
                raise

    def _line_s(self, size: int) -> float:
        """Twice the time of ``size`` bytes on the line."""
        return 20 * size / self._product.baud

    def _ask(self, do: str, fault: Fault, payload: bytes = b"", *, timeout_s: float = _ORDER_S, **told: Any) -> Answer:
        """One order, once more where noise cut into its answer; ``fault`` where the chip does not do it."""
        for last in (False, True):
            extra, self._seconds = self._seconds, 0.0
            try:
                return self._flasher.ask(do, payload, timeout_s=timeout_s + extra, **told)
            except OrderError as error:
                self._found = None
                if error.kind == "ModuleNotFoundError":
                    raise FaultError(Fault.FLASHER_FAILED, f"{error}; next: docs/boards/esp32.md") from None
                if last or not _CUT_INTO.search(str(error)):
                    raise FaultError(self._fault_of(error, fault), f"{do}: {error}") from None
                self._transcript.note(f"{do}: {error} Once more.")
            if do != "connect":
                self._connected()
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    def _fault_of(self, error: OrderError, fault: Fault) -> Fault:
        """By esptool's own words, where they say more than that the chip did not do it."""
        if not Path(self._port).exists() or error.kind in {"SerialException", "OSError", "error"}:
            return Fault.LIFTED
        return Fault.PORT_DENIED if str(error).startswith("Could not open") else fault


def _limits(options: Options) -> Limits:
    if options.nvs is not None:
        return Limits(
            forms=frozenset(ChainForm),
            station_keys=EVERY_KEY,
            flashes=True,
            place_bytes=_NVS_TEXT,
            roots_bytes=None if options.nvs.roots is None else _NVS_TEXT,
            lifted_by="nothing: a string in the NVS stands within one page; esp_secure_cert holds more",
        )
    # The longest key, the integrity entry and the head of a certificate's entry stand beside the certificates.
    place = options.size - room(_KEY_MOST) - INTEGRITY_ROOM - room(0) - 16
    return Limits(
        forms=frozenset(ChainForm),
        station_keys=EVERY_KEY,
        flashes=True,
        place_bytes=max(place, 0),
        roots_bytes=None if options.roots is None else max(place - _SECTOR // 2, 0),
        lifted_by="a larger esp_secure_cert partition (`size`, and the firmware's partition table)",
    )


FAMILY: Final = Family(
    title="Espressif chips (ESP32 and later) by esptool: the esp_secure_cert partition, firmware images",
    driver=Esp32Board,
    limits=_limits,
    options=Options,
)
