"""The refusal of a caller that has reached one of its limits, and the keys that a call is counted under."""

from collections.abc import Hashable
from contextvars import ContextVar
from typing import Literal

from services.platform.observe import metrics
from services.platform.rpc.errors import DomainError
from taskflow.error.v1 import error_reason_pb2 as reasons

Limit = Literal[
    "calls_at_once",
    "calls_per_second",
    "streams",
    "database_connections",
    "database_time",
    "searches_at_once",
    "passwords_at_once",
    "registrations",
]
# The gateway refuses for access tokens (deploy/local/envoy.py).
ScopeName = Literal["user", "workspace", "address", "token"]

# The user of the current call, then the workspace if it is known. Empty outside of users' calls.
caller_keys: ContextVar[tuple[Hashable, ...]] = ContextVar("caller_keys", default=())


def limit_reached(limit: Limit, scope: ScopeName, retry_after: float) -> DomainError:
    """The refusal; counts it. `retry_after` is in seconds."""
    metrics.CALLER_REFUSALS.labels(limit, scope).inc()
    return DomainError(
        reasons.ERROR_REASON_CALLER_LIMIT_REACHED,
        {"limit": limit, "scope": scope},
        retry_after=retry_after,
    )


def is_limit(error: Exception) -> bool:
    """Whether a caller's limit refused the call."""
    return isinstance(error, DomainError) and (
        error.reason == reasons.ERROR_REASON_CALLER_LIMIT_REACHED
    )
