"""The faults that a simulated board can be ordered to have, each told by ``python -m station.sim.board --help``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

COMMANDS = ("hello", "keygen", "csr", "write", "commit", "read", "sign", "dial", "reset")

# name -> (form of its argument, what it does)
KNOWN: Mapping[str, tuple[str, str]] = {
    "silent": ("", "never says anything"),
    "half-reply": ("", "sends half of its first reply and is silent from then on"),
    "garble": ("N", "every Nth reply has one byte changed"),
    "flood": ("", "answers hello with 10 MB without a line end"),
    "echo": ("", "echoes what it receives"),
    "noise": ("", "a log line cuts into every third reply"),
    "garbage": ("", "bytes of no meaning come before each reply"),
    "slow": ("MS", "each reply comes so much later"),
    "reset-at": ("COMMAND", "restarts once, instead of obeying this command"),
    "vanish-at": ("COMMAND", "is unplugged when it gets this command"),
    "swap-at": ("COMMAND:SERIAL:CHIP", "is another board once it has answered this command"),
    "bad-serial": ("TEXT", "hello gives this serial as it is, whatever it does to the frame"),
    "bad-csr-signature": ("", "the CSR's signature does not verify"),
    "key-file": ("PATH", "keygen takes this private key (PEM), as a clone of another unit would"),
    "weak-rsa": ("", "keygen makes an RSA-1024 key, whatever was asked for"),
    "csr-subject": ("TEXT", "the CSR asks for this common name"),
    "forget": ("", "a restart loses what was committed"),
    "flip": ("N", "the chain reads back with byte N changed (N counts round its length)"),
    "wrong-key": ("", "signs the nonce with a key that is not in its certificate"),
    "renumber": ("", "its port goes as it restarts, and comes back as another one"),
    "no-boot-change": ("", "answers reset with ok and does not restart"),
    "never-back": ("", "is silent after a reset"),
    "commit-hash": ("", "answers each commit with err code=hash"),
    "full": ("", "answers each write with err code=full"),
    "no-net": ("", "each dial ends unreachable"),
    "dial-ending": ("NAME", "each dial reports this ending without being made"),
    "refuse": ("COMMAND:CODE", "answers this command with this error"),
}


class Faults:
    """The faults ordered for one board.

    Raises:
        ValueError: for a fault that nobody knows, or an argument out of its form.
    """

    def __init__(self, ordered: Iterable[str] = (), known: Mapping[str, tuple[str, str]] = KNOWN) -> None:
        self._ordered: dict[str, str] = {}
        for text in ordered:
            name, _, argument = text.partition("=")
            if name not in known:
                raise ValueError(f"no fault is called {name!r}")
            _check(name, known[name][0], argument)
            self._ordered[name] = argument

    def __contains__(self, name: str) -> bool:
        return name in self._ordered

    def text(self, name: str, otherwise: str = "") -> str:
        """The argument of a fault; ``otherwise`` where it was not ordered."""
        return self._ordered.get(name, otherwise)

    def number(self, name: str) -> int:
        """The argument of a fault as a number; 0 where it was not ordered."""
        return int(self._ordered.get(name, "0"))

    def at(self, name: str, command: str) -> bool:
        """Whether a fault strikes at this command."""
        return self._ordered.get(name, "").partition(":")[0] == command

    def rest(self, name: str) -> str:
        """What follows the command in a fault's argument."""
        return self._ordered[name].partition(":")[2]


def _check(name: str, form: str, argument: str) -> None:
    right = {
        "": argument == "",
        "N": argument.isascii() and argument.isdigit() and int(argument or 0) > 0,
        "MS": argument.isascii() and argument.isdigit(),
        "COMMAND": argument in COMMANDS,
        "COMMAND:CODE": argument.count(":") == 1 and argument.partition(":")[0] in COMMANDS,
        "COMMAND:SERIAL:CHIP": argument.count(":") == 2 and argument.partition(":")[0] in COMMANDS,
    }.get(form, argument != "")
    if not right:
        raise ValueError(f"the fault {name} wants {form or 'no argument'}, not {argument!r}")
