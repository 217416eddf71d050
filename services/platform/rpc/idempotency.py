"""request_id: a repeated request gets the answer to the first one again.

The request's key and answer are stored in the same transaction as its effect, so that all three exist or none.
"""

import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import (
    ColumnElement,
    Interval,
    LargeBinary,
    Text,
    Uuid,
    bindparam,
    func,
    literal,
    not_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, insert

from services.platform.data.db import Statement, Transaction
from services.platform.data.tables import idempotency_keys as keys
from services.platform.rpc.errors import DomainError
from services.platform.rpc.seal import Seal
from taskflow.error.v1 import error_reason_pb2 as reasons

LIFETIME = timedelta(hours=24)

_RESPONSE = TypeVar("_RESPONSE", bound=Message)


def fresh() -> ColumnElement[bool]:
    """The condition that an idempotency key is within its lifetime (24 hours)."""
    return keys.c.created_at >= func.now() - literal(LIFETIME, Interval)


def take_over(claim: Insert) -> Insert:
    """Makes an insert of keys replace expired ones. Keys within their lifetime stay and aren't returned.

    The insert waits for concurrent transactions that insert the same keys.
    """
    return claim.on_conflict_do_update(
        index_elements=["caller", "method", "request_id"],
        set_={
            "request_hash": claim.excluded.request_hash,
            "response": claim.excluded.response,
            "created_at": func.now(),
        },
        where=not_(fresh()),
    )


_claim = insert(keys).values(
    caller=bindparam("caller", type_=Text),
    method=bindparam("method", type_=Text),
    request_id=bindparam("request_id", type_=Uuid),
    request_hash=bindparam("request_hash", type_=LargeBinary),
)


class _Key(NamedTuple):
    request_id: UUID


class _Answer(NamedTuple):
    request_hash: bytes
    response: bytes


_CLAIM = Statement(take_over(_claim).returning(keys.c.request_id), row=_Key)
_FIND = Statement(
    select(keys.c.request_hash, keys.c.response).where(
        keys.c.caller == bindparam("caller", type_=Text),
        keys.c.method == bindparam("method", type_=Text),
        keys.c.request_id == bindparam("request_id", type_=Uuid),
    ),
    row=_Answer,
)
_REMEMBER = Statement(
    update(keys)
    .where(
        keys.c.caller == bindparam("of_caller", type_=Text),
        keys.c.method == bindparam("of_method", type_=Text),
        keys.c.request_id == bindparam("of_request_id", type_=Uuid),
    )
    .values(response=bindparam("answer", type_=LargeBinary))
)


async def once(
    tx: Transaction,
    seal: Seal,
    caller: str,
    request: Any,
    response_type: type[_RESPONSE],
    make: Callable[[], Awaitable[_RESPONSE]],
) -> _RESPONSE:
    """Answers a request with `make`; a repeat of the request gets the stored answer instead.

    `caller` is the user's id, or another unique string where no user is signed in; the caller is already authorised.
    Answers are stored for 24 hours, so they must hold no secret. Raises REQUEST_ID_REUSED when the request_id came
    with another body within that time, and every error of `make`.
    """
    answer = await first_answer(tx, seal, caller, request, request.request_id, response_type)
    if answer is None:
        answer = await make()
        await remember(tx, caller, request, request.request_id, answer)
    return answer


async def first_answer(
    tx: Transaction,
    seal: Seal,
    caller: str,
    request: Message,
    request_id: str,
    response_type: type[_RESPONSE],
) -> _RESPONSE | None:
    """The stored answer to the first request with this request_id; None if this request is the first, or has no id.

    Claims the request_id for the caller. Raises REQUEST_ID_REUSED as `once` does.
    """
    if not request_id:
        return None
    method = request.DESCRIPTOR.full_name
    request_hash = digest(seal, request)
    key = {"caller": caller, "method": method, "request_id": UUID(request_id)}
    if await tx.one(_CLAIM, **key, request_hash=request_hash):
        return None
    row = await tx.one(_FIND, **key)
    if row is None or row.request_hash != request_hash:
        raise reused(request_id)
    return response_type.FromString(row.response)


def reused(request_id: str) -> DomainError:
    return DomainError(reasons.ERROR_REASON_REQUEST_ID_REUSED, {"request_id": request_id})


async def remember(
    tx: Transaction, caller: str, request: Message, request_id: str, response: Message
) -> None:
    """Stores the answer for 24 hours. Never use it for an answer that holds a secret."""
    if request_id:
        await tx.run(
            _REMEMBER,
            of_caller=caller,
            of_method=request.DESCRIPTOR.full_name,
            of_request_id=UUID(request_id),
            answer=response.SerializeToString(),
        )


def digest(seal: Seal, request: Message) -> bytes:
    """A hash that tells a repeated request from a different request with the same id.

    It is keyed with TaskFlow's secret, because a request can hold a password.
    """
    body = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    return seal.derive("request", body)
