"""What an AWS IoT policy says about one client id and one topic: enough of its language to see what is missing.

The judge is AWS IoT. This reads ahead, before a board is spent on finding out: effects, wildcards and the policy
variables of a device whose thing has its client id's name (AWS IoT developer guide, "Policy actions", "Policy
variables"). What it cannot judge, a condition that it does not know, is neither allowed nor denied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

_MAX_BYTES: Final = 65_536  # AWS IoT's own bound is 2048 characters without white space
_VARIABLE: Final = re.compile(r"\$\{([^}]{1,128})\}")
_ATTACHED: Final = {"iot:Connection.Thing.IsAttached": "true"}


class Judgement(StrEnum):
    """What the document says of one request."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNCLEAR = "unclear"


def judge(document: str, action: str, resource: str, client_id: str) -> Judgement:
    """What ``document`` says of ``action`` (``iot:Connect``, ``iot:Publish``) on the ARN ``resource``.

    An explicit Deny wins, then an Allow; what nothing allows is denied. A document that is none denies everything.
    """
    variables = {
        "iot:ClientId": client_id,
        "iot:Connection.Thing.ThingName": client_id,
        "iot:Certificate.Subject.CommonName": client_id,
    }
    found = [
        (statement.get("Effect"), _applies(statement, action, resource, variables))
        for statement in _statements(document)
    ]
    if ("Deny", True) in found:
        return Judgement.DENIED
    if ("Deny", None) in found:
        return Judgement.UNCLEAR
    if ("Allow", True) in found:
        return Judgement.ALLOWED
    return Judgement.UNCLEAR if ("Allow", None) in found else Judgement.DENIED


def _statements(document: str) -> list[dict[str, Any]]:
    try:
        parsed = json.loads(document[:_MAX_BYTES])
    except ValueError:
        return []
    statements = parsed.get("Statement", []) if isinstance(parsed, dict) else []
    listed = statements if isinstance(statements, list) else [statements]
    return [one for one in listed if isinstance(one, dict)]


def _applies(statement: dict[str, Any], action: str, resource: str, variables: Mapping[str, str]) -> bool | None:
    """Whether the statement is about this request; None where only AWS IoT could tell."""
    if not any(_fits(pattern, action, ignore_case=True) for pattern in _texts(statement.get("Action"))):
        return False
    here = [_fits(_filled(pattern, variables), resource) for pattern in _texts(statement.get("Resource"))]
    if not any(here):
        unknown = any(_VARIABLE.search(_filled(pattern, variables)) for pattern in _texts(statement.get("Resource")))
        return None if unknown else False
    return _condition(statement.get("Condition"))


def _condition(condition: object) -> bool | None:
    """True where there is none, or where it asks only for what holds for every unit: its thing is attached."""
    if not condition:
        return True
    asked = condition.get("Bool") if isinstance(condition, dict) and set(condition) == {"Bool"} else None
    if not isinstance(asked, dict) or set(asked) - set(_ATTACHED):
        return None
    return all(_ATTACHED[key] in _texts(value) for key, value in asked.items())


def _texts(value: object) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    return [str(one).lower() if isinstance(one, bool) else one for one in listed if isinstance(one, str | bool)]


def _filled(pattern: str, variables: Mapping[str, str]) -> str:
    """With the variables that are known; ``${*}`` and its kind stand for the characters themselves."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        return name if name in {"*", "?", "$"} else variables.get(name, match[0])

    return _VARIABLE.sub(value, pattern)


def _fits(pattern: str, text: str, *, ignore_case: bool = False) -> bool:
    """Wildcards: ``*`` is any characters, ``?`` is one."""
    form = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(form, text, re.IGNORECASE | re.DOTALL if ignore_case else re.DOTALL) is not None
