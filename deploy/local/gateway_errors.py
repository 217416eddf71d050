"""The errors that the gateway answers with by itself: the services' reasons and texts, for Envoy's configuration."""

import base64
import json
from collections.abc import Iterator
from typing import Any, Final

from services.platform.config import Settings
from services.platform.rpc.errors import DomainError
from services.platform.rpc.grpc_services import MAX_METADATA_BYTES
from taskflow.error.v1 import error_reason_pb2 as reasons

# Time for a whole request to arrive (seconds); Envoy's `request_timeout`.
REQUEST_SECONDS: Final = 15

_SPOKEN = (
    "send gRPC (`content-type: application/grpc` and `te: trailers`) or gRPC-Web"
    " (`content-type: application/grpc-web`), with messages in Protocol Buffers"
)
# Content types whose clients read errors as gRPC's. The gateway has turned gRPC-Web into gRPC before.
_GRPC = r"application/grpc([+;].*)?"

_Filter = dict[str, Any]


def local_replies(settings: Settings) -> Iterator[dict[str, Any]]:
    """Envoy's own errors: the condition, in Envoy's format, with the body and headers of the answer.

    The first condition that holds decides. Services never answer over HTTP, so these are all other errors.
    """
    for when, error in _local_errors(settings):
        yield _for_grpc(when, error)
        yield _for_http(when, error)


def _local_errors(settings: Settings) -> list[tuple[_Filter, DomainError]]:
    metadata = {"limit_bytes": str(MAX_METADATA_BYTES)}
    share = {"limit": "calls_per_second", "scope": "token"}
    return [
        (
            _status("EQ", 429),
            DomainError(reasons.ERROR_REASON_CALLER_LIMIT_REACHED, share, retry_after=1),
        ),
        # Envoy's limits of calls and of memory.
        (_flags("UO", "OM"), DomainError(reasons.ERROR_REASON_OVERLOADED)),
        (_status("EQ", 404), DomainError(reasons.ERROR_REASON_UNKNOWN_METHOD)),
        (_status("EQ", 408), _timed_out(REQUEST_SECONDS)),
        (_status("EQ", 413), _too_large(settings)),
        (
            _status("EQ", 415),
            DomainError(reasons.ERROR_REASON_PROTOCOL_UNSUPPORTED, message=_SPOKEN),
        ),
        (_status("EQ", 431), DomainError(reasons.ERROR_REASON_METADATA_TOO_LARGE, metadata)),
        (_status("GE", 500), DomainError(reasons.ERROR_REASON_SERVICE_UNAVAILABLE)),
        (_status("GE", 400), DomainError(reasons.ERROR_REASON_UNREADABLE_REQUEST)),
    ]


def library_errors(settings: Settings) -> dict[int, dict[str, str]]:
    """What replaces an error of the services' gRPC library, by its code. Code 2 stands for all other codes."""
    replacements = {
        # A server that has begun to stop cancels new calls.
        1: DomainError(reasons.ERROR_REASON_DRAINING),
        2: DomainError(reasons.ERROR_REASON_INTERNAL),
        4: _timed_out(settings.max_call_seconds),
        8: _too_large(settings),
        # An unknown compression.
        12: DomainError(reasons.ERROR_REASON_PROTOCOL_UNSUPPORTED),
        # Malformed frames, header values or compressed data.
        13: DomainError(reasons.ERROR_REASON_UNREADABLE_REQUEST),
        14: DomainError(reasons.ERROR_REASON_SERVICE_UNAVAILABLE),
    }
    return {
        code: {
            "code": str(error.status().code),
            "message": error.message,
            "details": _details(error),
        }
        for code, error in replacements.items()
    }


def _timed_out(seconds: float) -> DomainError:
    return DomainError(reasons.ERROR_REASON_CALL_TIMED_OUT, {"limit_seconds": f"{seconds:g}"})


def _too_large(settings: Settings) -> DomainError:
    limit = str(settings.max_request_bytes)
    return DomainError(reasons.ERROR_REASON_REQUEST_TOO_LARGE, {"limit_bytes": limit})


def _details(error: DomainError) -> str:
    """The status as the value of the header `grpc-status-details-bin`."""
    return base64.b64encode(error.status().SerializeToString()).decode().rstrip("=")


def _for_grpc(when: _Filter, error: DomainError) -> dict[str, Any]:
    content_type = {"name": "content-type", "string_match": {"safe_regex": {"regex": _GRPC}}}
    is_grpc = {"header_filter": {"header": content_type}}
    return {
        "filter": json.dumps({"and_filter": {"filters": [when, is_grpc]}}),
        "body": "",
        "form": "",
        "headers": {
            "content-type": "application/grpc",
            "grpc-status": str(error.status().code),
            "grpc-message": error.message,
            "grpc-status-details-bin": _details(error),
        },
    }


def _for_http(when: _Filter, error: DomainError) -> dict[str, Any]:
    """In the form of Connect's errors, so that its clients show the message."""
    form = {"code": error.code.name.lower(), "message": "%LOCAL_REPLY_BODY%"}
    return {
        "filter": json.dumps(when),
        "body": error.message,
        "form": json.dumps(form),
        "headers": {},
    }


def _status(operator: str, status: int) -> _Filter:
    value = {"default_value": status, "runtime_key": f"taskflow.status_{status}"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _flags(*flags: str) -> _Filter:
    return {"response_flag_filter": {"flags": list(flags)}}
