"""Etags: opaque names of a resource's state. Two states of a resource never have the same etag."""

import hashlib

from services.platform.rpc.errors import DomainError
from taskflow.error.v1 import error_reason_pb2 as reasons


def of(state: bytes) -> str:
    """Hashes the bytes that identify a resource's state, such as its id and revision, into an etag."""
    return hashlib.blake2b(state, digest_size=8).hexdigest()


def check(sent: str, current: str) -> None:
    """Raises ETAG_MISMATCH with the current etag if the caller sent another etag. An empty etag matches any state."""
    if sent and sent != current:
        raise DomainError(reasons.ERROR_REASON_ETAG_MISMATCH, {"etag": current})
