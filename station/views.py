"""What the commands print for people. Plain text where there is no terminal: rich decides that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from station.config.messages import Messages
from station.family import Family, Limits
from station.faults import Fault, printable

if TYPE_CHECKING:
    from station.doctor import Finding
    from station.jig.survey import Plugged, SlotView
    from station.reconcile import Progress, Result

_STYLES = {
    "PASS": "green",
    "FAIL": "red",
    "ERROR": "yellow",
    "ABORTED": "yellow",
    "PROVISIONED": "cyan",
    "running": "blue",
}


def print_status(status: dict[str, Any]) -> None:
    """The slots as a table, and what else an engineer asks first."""
    console = Console(soft_wrap=True)
    table = Table("slot", "state", "unit", "step", "since", "fault", box=None, pad_edge=False)
    for slot in status["slots"]:
        table.add_row(*_slot_row(slot))
    mark = "  SIMULATED: nothing here is production" if status["simulated"] else ""
    ending = "  stopping" if status["stopping"] else ""
    console.print(f"{escape(status['station'])}{mark}{ending}", style="bold")
    if status["andon"]:
        console.print(andon_line(status["andon"]), style="bold red")
    console.print(table)
    for slot, why in status["lamps"]:
        whose = f"the lamp of slot {escape(slot)}" if slot else "the line's lamp"
        console.print(f"{whose} does not work: {escape(why)}", style="yellow")
    if status["line"]:
        style = "yellow" if status["line"]["fault"] else None
        console.print(escape(line_sentence(status["line"], Messages.load("en"))), style=style)
    if status["unclosed"]:
        console.print(escape(unclosed_sentence(status["unclosed"], Messages.load("en"))), style="yellow")
    if status["outbox"]:
        console.print(f"{status['outbox']} certificate(s) wait to be taken out of service", style="yellow")


def print_jig(slots: Iterable[SlotView], others: Iterable[Plugged]) -> None:
    """The slots with what is in them, then the ports that are no slot and why."""
    console = Console(soft_wrap=True, highlight=False)
    table = Table("slot", "place", "in it", "usb", "product", "serial", box=None, pad_edge=False)
    for slot in slots:
        for index, port in enumerate(slot.ports or (None,)):
            first = (slot.name, slot.place) if index == 0 else ("", "")
            table.add_row(*(escape(word) for word in (*first, *_port_words(port))))
        if len(slot.ports) > 1:
            table.add_row("", "several ports: name an interface, or learn this slot again", style="yellow")
    console.print(table)
    for one in others:
        known = ", ".join(word for word in (one.usb, one.product, one.serial) if word)
        console.print(escape(f"no slot: {one.port}{f' ({known})' if known else ''}: {one.why}"), style="dim")


def _port_words(port: Plugged | None) -> tuple[str, str, str, str]:
    return (port.tty, port.usb, port.product, port.serial) if port else ("-", "", "", "")


def print_changes(changes: Iterable[dict[str, Any]]) -> None:
    """A line for each change of a slot, for as long as there are changes."""
    seen: dict[str, dict[str, Any]] = {}
    console = Console(soft_wrap=True, highlight=False)
    standing, apart = False, None
    for status in changes:
        if status["line"] and status["line"]["fault"] != apart:
            apart = status["line"]["fault"]
            console.print(escape(line_sentence(status["line"], Messages.load("en"))), style="yellow")
        if bool(status["andon"]) is not standing:
            standing = not standing
            console.print(andon_line(status["andon"]) if standing else "the line goes on", style="bold red")
        for slot in status["slots"]:
            if seen.get(slot["slot"]) != slot:
                seen[slot["slot"]] = slot
                console.print(slot_line(slot), style=_STYLES.get(_word(slot)))


def andon_line(andon: dict[str, Any]) -> str:
    """Why the line stands, and whose move it is."""
    messages, fault = Messages.load("en"), Fault(andon["fault"])
    return escape(
        f"{messages.word('andon')}; {messages.word('move')} {messages.word(andon['blame'])}:"
        f" {fault.code} {messages.title(fault)} ({andon['detail']})."
        f" Tried {andon['trials']} time(s) since {_when(andon['since'])}; it goes on by itself."
    )


def line_sentence(link: dict[str, Any], messages: Messages) -> str:
    """How the station stands with its line, and what to do where it is out of touch."""
    left = ", ".join(f"{number}: {units}" for number, units in link["left"]) or messages.word("line none")
    if link["fault"] is None and link["synced_at"] is None:
        return messages.word("line begins")
    synced = _when(link["synced_at"]) if link["synced_at"] else messages.word("line never")
    facts = {"synced": synced, "backlog": link["backlog"], "left": left}
    if link["fault"] is None:
        return messages.word("line in touch").format(**facts)
    fault = Fault(link["fault"])
    told = messages.word("line away").format(
        **facts, since=_when(link["since"]), fault=f"{fault.code} {messages.title(fault)}", detail=link["detail"]
    )
    return f"{told} {messages.remedy(fault)}"


def unclosed_sentence(unclosed: dict[str, Any], messages: Messages) -> str:
    """Why a day of the record is not closed yet, and what to do."""
    fault = Fault(unclosed["fault"])
    facts = {"fault": f"{fault.code} {messages.title(fault)}", "detail": unclosed["detail"]}
    said = messages.word("day unclosed").format(**facts, since=_when(unclosed["since"]))
    return f"{said} {messages.remedy(fault)}"


def slot_line(slot: dict[str, Any]) -> str:
    """One slot's change as a line."""
    time = datetime.fromisoformat(slot["since"]).astimezone().strftime("%H:%M:%S")
    words = [time, f"slot {slot['slot']}", _word(slot), slot["serial"] or ""]
    if slot["state"] == "running" and slot["step"]:
        words.append(slot["step"])
    if slot["fault"]:
        words.append(f"{slot['fault']} {Messages.load('en').title(Fault(slot['fault']))} ({slot['detail']})")
    return escape("  ".join(word for word in words if word))


def print_orders(orders: list[dict[str, Any]]) -> None:
    """The work orders as a table."""
    if not orders:
        Console().print("no work order yet; open one: station orders add NUMBER --product NAME --quantity N")
        return
    table = Table("order", "product", "kind", "passed", "of", "state", box=None, pad_edge=False)
    for progress in orders:
        order = progress["order"]
        state = "closed" if progress["closed_at"] else "open"
        table.add_row(
            escape(order["number"]),
            escape(order["product"]),
            order["kind"],
            str(progress["passed"]),
            str(order["quantity"]),
            state,
        )
    Console(soft_wrap=True).print(table)


def print_unit(serial: str, runs: list[dict[str, Any]]) -> None:
    """One unit's runs, each with its steps: what happened, when, who, and which certificate came of it."""
    console = Console(soft_wrap=True, highlight=False)
    messages = Messages.load("en")
    console.print(f"{escape(serial)}: {len(runs)} run(s)", style="bold")
    for run in runs:
        outcome = run["outcome"] or "running"
        console.print(f"\n{_when(run['started_at'])}  {outcome}", style=_STYLES.get(outcome))
        for name in ("run", "order", "product", "operator", "slot", "station", "chip_id", "firmware", "software"):
            if run.get(name):
                console.print(f"  {name:<12} {escape(str(run[name]))}")
        for certificate in run["certificates"]:
            console.print(f"  certificate  {certificate['number']}  {certificate['certificate_id'] or 'never issued'}")
        if run["key_proof"]:
            console.print(f"  {'key':<12} {run['key_proof']}")
        for step in run["steps"]:
            console.print(f"  {step['step']:<12} {step['duration_ms']:>8.1f} ms  {step['fault'] or ''}")
        if run["fault"]:
            console.print(
                f"  {run['fault']} {messages.title(Fault(run['fault']))}: {escape(run['detail'])}", style="red"
            )


def print_transcript(found: dict[str, Any]) -> None:
    """A line for each line that passed; what a terminal would obey is shown, not obeyed."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"run {escape(found['run'])}", style="bold")
    for entry in found["entries"]:
        for line in entry["text"].splitlines() or [""]:
            console.print(f"{entry['ms']:>8} ms {entry['way']} {escape(printable(line, 4096))}")


def print_families(families: Iterable[tuple[str, Family]]) -> None:
    """Each board family with what its firmware can hold, by default options. No line is cut, whatever the terminal."""
    console = Console(soft_wrap=True, highlight=False)
    for name, family in families:
        limits = family.limits(family.options.model_construct())
        console.print(f"[bold]{name}[/]  {escape(family.title)}")
        for what, told in _told(limits):
            console.print(f"    {what:20} {escape(told)}")


def _told(limits: Limits) -> Iterator[tuple[str, str]]:
    yield "keys by the board", ", ".join(sorted(limits.board_keys)) or "none"
    yield "keys by the station", ", ".join(sorted(limits.station_keys)) or "none"
    yield "chain", " or ".join(sorted(limits.forms))
    dials = ["the board"] if limits.dials else []
    dials += ["the station, where it made the key"] if limits.station_keys else []
    yield "first contact by", " or ".join(dials) or "nobody: its units end as PROVISIONED"
    yield "firmware images", "yes" if limits.flashes else "no"
    sizes = {
        f"bytes of {'DER' if limits.der else 'PEM'} a place": limits.place_bytes,
        "bytes of DER a certificate": limits.certificate_bytes,
        "bytes of server roots": limits.roots_bytes,
        "server root(s)": limits.root_count,
    }
    yield "holds", ", ".join(f"{size} {what}" for what, size in sizes.items() if size is not None) or "no known limit"
    if limits.lifted_by:
        yield "lifted by", limits.lifted_by


def _slot_row(slot: dict[str, Any]) -> tuple[str, ...]:
    word = _word(slot)
    style = _STYLES.get(word, "dim")
    fault = ""
    if slot["fault"]:
        fault = f"{slot['fault']} {Messages.load('en').title(Fault(slot['fault']))}: {slot['detail']}"
    since = datetime.now(UTC) - datetime.fromisoformat(slot["since"])
    return (
        escape(slot["slot"]),
        f"[{style}]{word}[/]",
        escape(slot["serial"] or ""),
        slot["step"] or "",
        f"{max(0, int(since.total_seconds()))} s",
        escape(fault),
    )


def _word(slot: dict[str, Any]) -> str:
    return str(slot["outcome"] or slot["state"])


def _when(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


_LEVELS = {"good": ("ok", "green"), "warn": ("note", "yellow"), "bad": ("NO", "bold red")}


def print_findings(findings: Iterable[Finding]) -> None:
    """A line for each part, and under each that is not well, what to do."""
    console, messages = Console(soft_wrap=True, highlight=False), Messages.load("en")
    for found in findings:
        word, style = _LEVELS[found.level.value]
        title = f"{found.fault.code} {messages.title(found.fault)}: " if found.fault else ""
        console.print(f"{word:<4} {found.part:<15} {escape(title + found.text)}", style=style)
        if found.fault:
            console.print(f"     Next: {escape(messages.remedy(found.fault))}")


@contextmanager
def progress() -> Iterator[Progress]:
    """A line on stderr that counts up while there is a terminal to look at it."""
    console = Console(stderr=True)
    with console.status("asking AWS IoT") as shown:
        yield lambda what, count: shown.update(f"{what}: {count}") if console.is_terminal else None


def print_reconciled(result: Result) -> None:
    """How many of each kind, then each difference with what was done or is to be done."""
    console = Console(soft_wrap=True, highlight=False)
    for kind, count in result.counts.items():
        if count:
            console.print(f"{count:>8}  {kind.value}", style="green" if kind.well else "yellow")
    for one in result.found:
        what = one.fixed or f"next: {one.kind.next}"
        console.print(f"{one.kind.value}  {one.serial or '-'}  {one.certificate_id}  {one.status}  {escape(what)}")
    if not result.found:
        console.print("the ledger and AWS IoT agree")
