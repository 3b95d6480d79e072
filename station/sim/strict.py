"""The AWS IoT API of the simulated cloud: MiniStack's, as strict as AWS where it is not, with troubles to order."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from station.sim.troubles import API_ERRORS, Troubles

_Scope = dict[str, Any]
_Receive = Callable[[], Awaitable[dict[str, Any]]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

# Operation by method and path (botocore's service-2.json of `iot`).
_OPERATIONS: Final = tuple(
    (method, re.compile(path), name)
    for method, path, name in (
        ("GET", r"/certificates/[0-9a-f]+", "DescribeCertificate"),
        ("PUT", r"/certificates/[0-9a-f]+", "UpdateCertificate"),
        ("POST", r"/certificate/register", "RegisterCertificate"),
        ("POST", r"/cacertificate", "RegisterCACertificate"),
        ("GET", r"/cacertificate/[0-9a-f]+", "DescribeCACertificate"),
        ("PUT", r"/cacertificate/[0-9a-f]+", "UpdateCACertificate"),
        ("DELETE", r"/cacertificate/[0-9a-f]+", "DeleteCACertificate"),
        ("GET", r"/certificates-by-ca/[0-9a-f]+", "ListCertificatesByCA"),
        ("GET", r"/registrationcode", "GetRegistrationCode"),
        ("GET", r"/endpoint", "DescribeEndpoint"),
        ("PUT", r"/target-policies/.+", "AttachPolicy"),
        ("POST", r"/attached-policies/.+", "ListAttachedPolicies"),
        ("POST", r"/things/[^/]+", "CreateThing"),
        ("PUT", r"/things/[^/]+/principals", "AttachThingPrincipal"),
        ("GET", r"/certificates-by-ca/[0-9a-f]+", "ListCertificatesByCA"),
        ("GET", r"/policies/[^/]+", "GetPolicy"),
    )
)
_S3_OPERATIONS: Final = {"PUT": "PutObject", "GET": "GetObject"}  # of an object; buckets are the tests' own affair


class StrictApi:
    """An ASGI application in front of MiniStack's."""

    def __init__(self, inner: _App, iot: Any, troubles: Troubles, endpoint: str) -> None:
        self._inner, self._iot, self._troubles, self._endpoint = inner, iot, troubles, endpoint
        self._calls: dict[str, list[float]] = {}
        self.counts: dict[str, int] = {}

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        body = await _body(receive)
        if scope["path"].startswith("/_sim/"):
            await self._control(scope, body, send)
            return
        s3 = _is_s3(scope)
        operation = _S3_OPERATIONS.get(scope["method"], "other") if s3 else _operation(scope["method"], scope["path"])
        self.counts[operation] = self.counts.get(operation, 0) + 1
        trouble = self._troubles.api.get(operation) or self._troubles.api.get("*") or self._throttled(operation)
        if trouble == "hang":
            await asyncio.sleep(3600)
        elif trouble == "close":
            await _half_an_answer(send)
        elif trouble is not None:
            self.counts["throttled"] = self.counts.get("throttled", 0) + (trouble == "ThrottlingException")
            refuse = _s3_error if s3 else _error
            await refuse(send, API_ERRORS[trouble], trouble, "ordered by the test")
        else:
            refusal = self._refusal(operation, scope, body)
            if refusal:
                await _error(send, *refusal)
            elif operation == "DescribeEndpoint":
                await _json(send, 200, {"endpointAddress": self._endpoint})
            else:
                await self._inner(scope, _replay(body, receive), send)

    def _throttled(self, operation: str) -> str | None:
        for name in (operation, "*"):
            limit = self._troubles.throttle.get(name)
            if limit is None:
                continue
            now = time.monotonic()
            recent = [at for at in self._calls.get(name, []) if now - at < 1.0]
            self._calls[name] = recent
            if len(recent) >= limit:
                return "ThrottlingException"
            recent.append(now)
        return None

    def _refusal(self, operation: str, scope: _Scope, body: bytes) -> tuple[int, str, str] | None:
        """What AWS refuses and MiniStack does not (jitr.md)."""
        if operation == "UpdateCertificate":
            asked = parse_qs(scope["query_string"].decode()).get("newStatus", [""])[0]
            if asked.startswith("PENDING"):
                return 400, "InvalidRequestException", f"Cannot update the certificate status to {asked}"
        if operation == "RegisterCACertificate" and not _is_ca(_parsed(body).get("caCertificate", "")):
            return 400, "CertificateValidationException", "CA certificate is not valid"
        if operation == "RegisterCACertificate" and self._subject_is_full(_parsed(body).get("caCertificate", "")):
            return 410, "LimitExceededException", "The limit of 10 CA certificates with the same subject is exceeded"
        if operation == "DescribeCertificate" and self._not_visible_yet(scope["path"].rsplit("/", 1)[1]):
            return 404, "ResourceNotFoundException", "Certificate not found"
        return None

    def _subject_is_full(self, pem: str) -> bool:
        """AWS IoT quotas: CA certificates with the same subject field, 10 an account and region."""
        subject = x509.load_pem_x509_certificate(pem.encode()).subject
        held = [
            x509.load_pem_x509_certificate(one["certificatePem"].encode())
            for one in self._iot._ca_certificates.values()
        ]
        return sum(one.subject == subject for one in held if one.public_bytes(Encoding.PEM) != pem.encode()) >= 10

    def _not_visible_yet(self, certificate_id: str) -> bool:
        for (_, _, key), record in list(self._iot._certificates._data.items()):
            if key == certificate_id and record["status"] == "PENDING_ACTIVATION":
                return bool(time.time() - record["creationDate"] < self._troubles.pending_delay_s)
        return False

    async def _control(self, scope: _Scope, body: bytes, send: _Send) -> None:
        match (scope["method"], scope["path"]):
            case ("POST", "/_sim/troubles"):
                try:
                    self._troubles.replace(_parsed(body))
                except (ValueError, TypeError) as error:
                    await _json(send, 400, {"error": str(error)})
                    return
                self._calls.clear()
                await _json(send, 200, asdict(self._troubles))
            case ("GET", "/_sim/troubles"):
                await _json(send, 200, asdict(self._troubles))
            case ("POST", "/_sim/connected"):
                # What many units' first connections leave behind, without the connections.
                for der in _parsed(body)["certificates"]:
                    await self._iot._mtls_auto_register(bytes.fromhex(der), ("127.0.0.1", 0), self._endpoint)
                await _json(send, 200, {})
            case ("GET", "/_sim/counts"):
                await _json(send, 200, self.counts)
            case _:
                await _json(send, 404, {"error": "GET or POST /_sim/troubles, POST /_sim/connected, GET /_sim/counts"})


def _operation(method: str, path: str) -> str:
    return next((name for verb, form, name in _OPERATIONS if verb == method and form.fullmatch(path)), "other")


def _is_s3(scope: _Scope) -> bool:
    """By the credential scope that a request is signed with (Signature Version 4)."""
    return any(name == b"authorization" and b"/s3/aws4_request" in value for name, value in scope["headers"])


def _is_ca(pem: str) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        return False


def _parsed(body: bytes) -> dict[str, Any]:
    parsed = json.loads(body or b"{}")
    if not isinstance(parsed, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - told to the test as it is
    return parsed


async def _body(receive: _Receive) -> bytes:
    whole = b""
    while True:
        message = await receive()
        whole += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return whole


def _replay(body: bytes, receive: _Receive) -> _Receive:
    """The request's body once more, for the application behind."""
    given = False

    async def again() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _half_an_answer(send: _Send) -> None:
    """Promise more than is sent: the HTTP server behind then has to close the connection."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})


async def _error(send: _Send, status: int, code: str, message: str) -> None:
    await _json(send, status, {"__type": code, "message": message}, code)


async def _s3_error(send: _Send, status: int, code: str, message: str) -> None:
    """As S3 says it ("Error responses" in its API reference)."""
    text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/xml")]})
    await send({"type": "http.response.body", "body": text.encode()})


async def _json(send: _Send, status: int, value: object, code: str = "") -> None:
    headers = [(b"content-type", b"application/json")]
    if code:
        headers.append((b"x-amzn-errortype", code.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})
