"""Pages: sizes, and keyset positions as sealed tokens."""

import hashlib
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from services.platform.errors import DomainError
from services.platform.seal import Seal
from taskflow.error.v1 import error_reason_pb2 as reasons

DEFAULT_SIZE = 50
MAX_SIZE = 1000


def size(requested: int) -> int:
    """0 means the default; more than the maximum means the maximum. Negative sizes are refused by the proto's rule."""
    return min(requested or DEFAULT_SIZE, MAX_SIZE)


def _context(caller: UUID, request: Message) -> str:
    """What a token belongs to: caller, method, and all of the request but the page itself."""
    rest = type(request)()
    rest.CopyFrom(request)
    rest.ClearField("page_size")
    rest.ClearField("page_token")
    digest = hashlib.sha256(rest.SerializeToString(deterministic=True)).hexdigest()
    return f"{caller}|{request.DESCRIPTOR.full_name}|{digest}"


def token(seal: Seal, caller: UUID, request: Message, position: list[Any]) -> str:
    """The token of the page after `position`, the sort key of the last row as JSON can hold it."""
    return seal.close(position, purpose="page", context=_context(caller, request))


def position(seal: Seal, caller: UUID, request: Any) -> list[Any] | None:
    """The position in the request's page token; None on the first page.

    Raises INVALID_PAGE_TOKEN for a token that isn't ours, or of another caller, method, filter or order.
    """
    if not request.page_token:
        return None
    try:
        opened: list[Any] = seal.open(
            request.page_token, purpose="page", context=_context(caller, request)
        )
    except ValueError:
        raise DomainError(reasons.ERROR_REASON_INVALID_PAGE_TOKEN) from None
    return opened
