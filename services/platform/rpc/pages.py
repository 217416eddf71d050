"""Pages of lists: their sizes, and page tokens, which are sealed keyset positions."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from services.platform.rpc.errors import DomainError
from services.platform.rpc.seal import Seal
from taskflow.error.v1 import error_reason_pb2 as reasons

R = TypeVar("R")
M = TypeVar("M", bound=Message)

DEFAULT_SIZE = 50
MAX_SIZE = 1000
# A page ends early once its messages have this many bytes: gRPC clients reject responses above 4 MiB by default.
MAX_BYTES = 3 * 1024 * 1024

# Rows that `collect` fetches in its first query, and at most in one query. A row can hold 150 KB, so a page of 1000
# rows takes several queries.
_FIRST_ROWS = 64
_MOST_ROWS = 200
# Converting a message of more bytes than this can take milliseconds, so other calls get a turn after each.
_LARGE_MESSAGE = 4096


def size(requested: int) -> int:
    """The size of a page: the default for 0, at most the maximum. The proto's rule refuses negative sizes."""
    return min(requested or DEFAULT_SIZE, MAX_SIZE)


def _context(caller: UUID, request: Message) -> str:
    """What a page token is bound to: caller, method, and the request without its page fields."""
    rest = type(request)()
    rest.CopyFrom(request)
    rest.ClearField("page_size")
    rest.ClearField("page_token")
    digest = hashlib.sha256(rest.SerializeToString(deterministic=True)).hexdigest()
    return f"{caller}|{request.DESCRIPTOR.full_name}|{digest}"


def token(seal: Seal, caller: UUID, request: Message, position: list[Any]) -> str:
    """The token of the page after `position`, which is the last row's sort key as JSON values."""
    return seal.close(position, purpose="page", context=_context(caller, request))


def position(seal: Seal, caller: UUID, request: Any) -> list[Any] | None:
    """The position in the request's page token; None on the first page.

    Raises INVALID_PAGE_TOKEN for a token that isn't ours, or belongs to another caller, method, filter or order.
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


async def read(
    seal: Seal,
    caller: UUID,
    request: Any,
    fetch: Callable[[list[Any] | None, int], Awaitable[Sequence[R]]],
    message_of: Callable[[R], M],
    position_of: Callable[[R], list[Any]],
) -> tuple[list[M], str]:
    """The messages of the requested page, and the token of the page after it; the token is empty on the last page.

    `collect` explains the three functions, and where the page ends. Raises INVALID_PAGE_TOKEN.
    """
    after = position(seal, caller, request)
    page, last = await collect(fetch, message_of, position_of, after, size(request.page_size))
    return page, "" if last is None else token(seal, caller, request, last)


async def collect(
    fetch: Callable[[list[Any] | None, int], Awaitable[Sequence[R]]],
    message_of: Callable[[R], M],
    position_of: Callable[[R], list[Any]],
    after: list[Any] | None,
    page_size: int,
    max_bytes: int | None = None,
) -> tuple[list[M], list[Any] | None]:
    """The messages of one page after a position, and the last message's position; None instead if no row follows.

    The page ends at `page_size` messages, or once its messages exceed `max_bytes`, by default MAX_BYTES. `fetch`
    returns up to that many rows after a position, or from the start. `position_of` returns a row's sort key as JSON can
    hold it.
    """
    if max_bytes is None:
        max_bytes = MAX_BYTES
    page: list[M] = []
    bytes_read = 0
    batch = _FIRST_ROWS
    while True:
        limit = min(page_size + 1 - len(page), batch)
        rows = await fetch(after, limit)
        for row in rows:
            if len(page) == page_size or bytes_read > max_bytes:
                return page, after
            page.append(message_of(row))
            after = position_of(row)
            bytes_read += (added := page[-1].ByteSize())
            if added > _LARGE_MESSAGE:
                await asyncio.sleep(0)
        if len(rows) < limit:
            return page, None
        # Next it fetches as many rows as fit at the average size so far, and one row that shows whether more follow.
        fitting = max(0, (max_bytes - bytes_read) * len(page) // max(1, bytes_read))
        batch = min(_MOST_ROWS, 1 + fitting)
