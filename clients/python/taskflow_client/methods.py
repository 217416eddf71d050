"""Method options from the protos: which methods need no token, and which calls are safe to repeat."""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from taskflow.options.v1 import options_pb2


@cache
def rules(path: str) -> options_pb2.MethodRules:
    """Returns the options of a method ("/<package>.<service>/<method>"); empty ones for other services' methods."""
    service, _, name = path.removeprefix("/").partition("/")
    try:
        method = descriptor_pool.Default().FindMethodByName(f"{service}.{name}")
    except KeyError:
        return options_pb2.MethodRules()
    return method.GetOptions().Extensions[options_pb2.method]


def is_open(path: str) -> bool:
    """Returns whether the method can be called without an access token."""
    return rules(path).access == options_pb2.ACCESS_OPEN


def is_repeatable(path: str, request: Message) -> bool:
    """Returns whether a call may be repeated although the server may have executed it.

    A call with an etag may not: after a first success, the etag is stale and the repeat would fail.
    """
    declared = rules(path)
    if declared.repeat == options_pb2.REPEAT_SAFE_WITH_FIELD:
        return bool(getattr(request, declared.repeat_field))
    return declared.repeat == options_pb2.REPEAT_SAFE and not _has_etag(request)


def _has_etag(request: Message) -> bool:
    # The etag is a field of the request, or of the resource inside the request.
    values: list[Any] = [request, *(value for _, value in request.ListFields())]
    return any(isinstance(value, Message) and getattr(value, "etag", "") for value in values)
