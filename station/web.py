"""The control API, on a Unix socket. The operator's page will be served by the same application.

Who may open the socket may control the line: the socket's file mode (0660) is the whole authorization.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from station.control import short_path
from station.faults import Fault, FaultError
from station.model import NAME, SERIAL, OrderKind, WorkOrder
from station.people import person
from station.status import StatusBoard
from station.transcript import Entry

_MAX_BODY = 65_536
_MAX_WAIT_S = 30.0


class Record(Protocol):
    """What the API reads and writes in the ledger; values are dataclasses."""

    def transcript(self, serial: str, run: str | None = None) -> tuple[str, list[Entry]] | None:
        """A run's id and its exchange with the board."""

    def add_order(self, order: WorkOrder, by: str) -> None:
        """Open a work order."""

    def close_order(self, number: str, by: str) -> None:
        """Close a work order."""

    def orders(self) -> Any:
        """All work orders with their progress, oldest first."""

    def unit_history(self, serial: str) -> Any:
        """Everything on record about one unit."""


class Slots(Protocol):
    """What the API changes in the slots."""

    def disable(self, slot: str, by: str, why: str) -> None:
        """Take a slot out of service."""

    def enable(self, slot: str, by: str) -> None:
        """Put a slot into service again."""


def plain(value: object) -> Any:
    """A dataclass, enum or time as JSON knows it; faults by their code, times in ISO 8601 UTC."""
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case Path():
            return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, default=plain, separators=(",", ":")).encode()


def _refused(error: FaultError, status: HTTPStatus) -> _Json:
    return _Json({"fault": error.fault.code, "detail": error.detail}, status)


async def _on_fault(_request: Request, error: Exception) -> Response:
    if not isinstance(error, FaultError):
        raise error
    ours = error.fault in {Fault.LEDGER_DOWN, Fault.LEDGER_GONE, Fault.SLOT_STATE, Fault.UNEXPECTED}
    return _refused(error, HTTPStatus.SERVICE_UNAVAILABLE if ours else HTTPStatus.UNPROCESSABLE_ENTITY)


async def _on_http(request: Request, error: Exception) -> Response:
    """What Starlette refuses by itself: no such path, no such method."""
    if not isinstance(error, HTTPException):
        raise error
    said = FaultError(Fault.REQUEST_INVALID, f"{request.method} {request.scope['path']!r}: {error.detail}")
    return _refused(said, HTTPStatus(error.status_code))


async def _on_mistake(_request: Request, error: Exception) -> Response:
    """A mistake of ours; uvicorn logs it with its stack."""
    return _refused(FaultError(Fault.UNEXPECTED, type(error).__name__), HTTPStatus.INTERNAL_SERVER_ERROR)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries, bounded."""
    text = b""
    async for piece in request.stream():
        text += piece
        if len(text) > _MAX_BODY:
            raise FaultError(Fault.REQUEST_INVALID, f"the request is longer than {_MAX_BODY} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FaultError(Fault.REQUEST_INVALID, f"the request is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FaultError(Fault.REQUEST_INVALID, "the request is not a JSON object")
    return value


def _order(body: dict[str, Any], products: frozenset[str]) -> WorkOrder:
    """A work order from what a client sent."""
    unknown = sorted(set(body) - {"number", "product", "kind", "quantity", "serials", "reason", "by"})
    serials = body.get("serials", [])
    well_formed = (
        not unknown
        and all(isinstance(body.get(key), str) for key in ("number", "product", "kind", "by"))
        and type(body.get("quantity")) is int
        and isinstance(body.get("reason", ""), str)
        and isinstance(serials, list)
        and all(isinstance(serial, str) for serial in serials)
    )
    if not well_formed:
        raise FaultError(
            Fault.ORDER_INVALID,
            f"an order has number, product, kind, quantity, by, and may have serials, reason {unknown}",
        )
    if body["kind"] not in set(OrderKind):
        raise FaultError(Fault.ORDER_INVALID, f"the kind {body['kind']!r} is none of {', '.join(OrderKind)}")
    if body["product"] not in products:
        raise FaultError(
            Fault.ORDER_INVALID, f"no product file names {body['product']!r}; there are {', '.join(sorted(products))}"
        )
    return WorkOrder(
        body["number"],
        body["product"],
        OrderKind(body["kind"]),
        body["quantity"],
        tuple(serials),
        body.get("reason", ""),
    )


def _person(body: dict[str, Any]) -> str:
    by = body.get("by")
    try:
        return person(by if isinstance(by, str) else "")
    except ValueError as error:
        raise FaultError(Fault.ORDER_INVALID, f"'by' says who is on record for it; it {error}") from error


def _named(request: Request, key: str, alphabet: re.Pattern[str]) -> str:
    value = str(request.path_params[key])
    if not alphabet.fullmatch(value):
        raise FaultError(Fault.REQUEST_INVALID, f"{value!r} is not of the form {alphabet.pattern}")
    return value


def _said(entry: Entry) -> dict[str, Any]:
    return {"ms": entry.ms, "way": entry.way.value, "text": entry.data.decode("latin-1")}


def _slot_routes(slots: Slots) -> list[Route]:
    async def disable_slot(request: Request) -> Response:
        body = await _body(request)
        why = body.get("why")
        if not isinstance(why, str) or not why.strip():
            raise FaultError(Fault.REQUEST_INVALID, "'why' says why the slot is not to be used")
        slot = _named(request, "slot", NAME)
        await run_in_threadpool(slots.disable, slot, _person(body), why)
        return _Json({"slot": slot})

    async def enable_slot(request: Request) -> Response:
        slot = _named(request, "slot", NAME)
        await run_in_threadpool(slots.enable, slot, _person(await _body(request)))
        return _Json({"slot": slot})

    return [
        Route("/v1/slots/{slot:path}/disable", disable_slot, methods=["POST"]),
        Route("/v1/slots/{slot:path}/enable", enable_slot, methods=["POST"]),
    ]


def application(status: StatusBoard, record: Record, products: frozenset[str], slots: Slots) -> Starlette:
    """The API over what the station does now and what is on record; orders are taken for ``products`` only."""

    async def get_status(request: Request) -> Response:
        try:
            newer_than = int(request.query_params.get("newer_than", "0"))
            wait_s = min(float(request.query_params.get("wait_s", "0")), _MAX_WAIT_S)
        except ValueError as error:
            raise FaultError(Fault.REQUEST_INVALID, str(error)) from error
        if not wait_s >= 0:
            raise FaultError(Fault.REQUEST_INVALID, "wait_s is not a number of seconds")
        return _Json(asdict(await run_in_threadpool(status.wait, newer_than, wait_s)))

    async def get_orders(_request: Request) -> Response:
        return _Json([asdict(order) for order in await run_in_threadpool(record.orders)])

    async def post_order(request: Request) -> Response:
        body = await _body(request)
        order = _order(body, products)
        await run_in_threadpool(record.add_order, order, _person(body))
        return _Json(asdict(order), HTTPStatus.CREATED)

    async def close_order(request: Request) -> Response:
        number = _named(request, "number", NAME)
        await run_in_threadpool(record.close_order, number, _person(await _body(request)))
        return _Json({"number": number})

    async def get_unit(request: Request) -> Response:
        history = await run_in_threadpool(record.unit_history, _named(request, "serial", SERIAL))
        return _Json([asdict(run) for run in history])

    async def get_transcript(request: Request) -> Response:
        serial, run = _named(request, "serial", SERIAL), request.query_params.get("run")
        found = await run_in_threadpool(record.transcript, serial, run)
        if found is None:
            raise FaultError(Fault.NO_TRANSCRIPT, f"no transcript of {serial} is on record")
        return _Json({"run": found[0], "entries": [_said(entry) for entry in found[1]]})

    return Starlette(
        routes=[
            Route("/v1/status", get_status),
            Route("/v1/orders", get_orders),
            Route("/v1/orders", post_order, methods=["POST"]),
            Route("/v1/orders/{number:path}/close", close_order, methods=["POST"]),
            Route("/v1/units/{serial}/transcript", get_transcript),
            *_slot_routes(slots),
            Route("/v1/units/{serial:path}", get_unit),
        ],
        exception_handlers={FaultError: _on_fault, HTTPException: _on_http, Exception: _on_mistake},
    )


class ControlServer(threading.Thread):
    """Serves the API in a thread of its own on a Unix socket that it makes, and takes away again."""

    def __init__(self, app: Starlette, path: Path) -> None:
        super().__init__(name="control")
        self._path = path
        self._socket = _listen(path)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
            )
        )

    def run(self) -> None:
        """Serve until `stop`."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End within two seconds; the socket's file goes."""
        self._server.should_exit = True
        self.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    """A listening Unix socket, mode 0660 from its first moment. We hold the station's lock: any file there is stale."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    staging = path.with_name(f".{path.name}.new")
    staging.unlink(missing_ok=True)
    with short_path(staging) as name:
        listener.bind(name)
    staging.chmod(0o660)
    listener.listen(16)
    staging.rename(path)
    return listener
