"""Python client for TaskFlow: typed calls, resumable streams, and the `taskflow` command.

Importing this package is fast: it imports grpc and protobuf when a name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskflow_client.client import TaskFlow
    from taskflow_client.errors import (
        Aborted,
        AlreadyExists,
        Canceled,
        DeadlineExceeded,
        FailedPrecondition,
        FieldViolation,
        Internal,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        ResourceExhausted,
        TaskFlowError,
        Unauthenticated,
        Unavailable,
        Unimplemented,
    )
    from taskflow_client.paging import pages
    from taskflow_client.session_store import FileSessions, MemorySessions, Session

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Canceled",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "FileSessions",
    "Internal",
    "InvalidArgument",
    "MemorySessions",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "Session",
    "TaskFlow",
    "TaskFlowError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "pages",
]

# The module that defines each public name. Names not listed here are in `errors`.
_HOMES = {
    "TaskFlow": "client",
    "pages": "paging",
    "FileSessions": "session_store",
    "MemorySessions": "session_store",
    "Session": "session_store",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
