"""Parses and checks requests, so that servicers get only well-formed requests."""

from collections.abc import Callable
from typing import Any, TypeVar

import protovalidate
from google.protobuf.message import DecodeError, Message

from services.platform.rpc import bounds
from services.platform.rpc.errors import DomainError
from taskflow.error.v1 import error_reason_pb2 as reasons

M = TypeVar("M")

# An error names at most this many field violations.
_MOST_VIOLATIONS = 50

_validator = protovalidate.Validator()


def parsed(parse: Callable[[bytes], M], raw: bytes, most_bytes: int) -> M:
    """Parses the request in `raw` (at most `most_bytes`). Raises REQUEST_TOO_LARGE, UNREADABLE_REQUEST."""
    if len(raw) > most_bytes:
        raise DomainError(reasons.ERROR_REASON_REQUEST_TOO_LARGE, {"limit_bytes": str(most_bytes)})
    try:
        return parse(raw)
    except (DecodeError, ValueError, RecursionError):
        raise DomainError(reasons.ERROR_REASON_UNREADABLE_REQUEST) from None


def validated(parse: Callable[[bytes], Message], raw: bytes, most_bytes: int) -> Message:
    """Parses a request and checks its number of items (bounds.py) and the proto's rules.

    Raises INVALID_REQUEST, and the errors of `parsed`.
    """
    request = parsed(parse, raw, most_bytes)
    if len(raw) > bounds.SMALL and (too_large := bounds.exceeded(request)):
        raise _invalid(too_large[:_MOST_VIOLATIONS])
    # protovalidate's messages quote the rule, never the value.
    if violations := _validator.collect_violations(request):
        raise _invalid([_violation(found.proto) for found in violations[:_MOST_VIOLATIONS]])
    return request


def _invalid(fields: list[tuple[str, str]]) -> DomainError:
    return DomainError(reasons.ERROR_REASON_INVALID_REQUEST, fields=fields)


def _violation(found: Any) -> tuple[str, str]:
    """A violation as field path, such as `task.labels[3]`, and problem."""
    path = ""
    for element in found.field.elements if found.field else ():
        path += ("." if path else "") + element.field_name
        if element.subscript is not None and element.subscript.field == "index":
            path += f"[{element.subscript.value}]"
    return path, found.message
