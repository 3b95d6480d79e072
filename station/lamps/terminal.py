"""The lamp as a line on the station's terminal for each change. Colours only where there is a terminal."""

from __future__ import annotations

from typing import Final

from rich.console import Console

from station.lamps.signals import Colour, Frame

_STYLES: Final = {
    frozenset({Colour.GREEN}): "bold green",
    frozenset({Colour.RED}): "bold red",
    frozenset({Colour.AMBER}): "bold yellow",
    frozenset({Colour.BLUE}): "bold blue",
    frozenset({Colour.GREEN, Colour.BLUE}): "bold cyan",
    frozenset({Colour.RED, Colour.AMBER}): "bold magenta",
}


class TerminalLamp:
    """Prints what the lamp says; a terminal does not blink."""

    dims = False
    keeps = True

    def __init__(self, slot: str) -> None:
        self._slot, self._last = slot, ""
        self._console: Console | None = None

    def open(self) -> None:
        """Use this process's standard output."""
        self._console = Console(highlight=False, soft_wrap=True)

    def show(self, now: Frame, text: str) -> None:
        """Print each text once."""
        if text != self._last and self._console is not None:
            self._last = text
            style = _STYLES.get(frozenset(now.levels), "dim")
            self._console.print(f"[{self._slot}] {text}" if self._slot else text, style=style, markup=False)

    def close(self) -> None:
        """Nothing is held."""
