"""request_id: a repeated request gets its first answer again.

The claim and the answer are written in the transaction of the effect itself, so there is never one without the other.
"""

import hashlib
from datetime import timedelta
from typing import TypeVar
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

from services.platform.db import Statement, Transaction
from services.platform.errors import DomainError
from services.platform.seal import Seal
from services.platform.tables import idempotency_keys as keys
from taskflow.error.v1 import error_reason_pb2 as reasons

LIFETIME = timedelta(hours=24)

_RESPONSE = TypeVar("_RESPONSE", bound=Message)


def fresh() -> ColumnElement[bool]:
    """Holds for keys whose answers still count."""
    return keys.c.created_at >= func.now() - literal(LIFETIME, Interval)


def take_over(claim: Insert) -> Insert:
    """An insert of keys that waits for concurrent transactions with the same ones, and takes over those that don't
    count any more; it leaves the others alone and doesn't return them."""
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
_CLAIM = Statement(take_over(_claim).returning(keys.c.request_id))
_FIND = Statement(
    select(keys.c.request_hash, keys.c.response).where(
        keys.c.caller == bindparam("caller", type_=Text),
        keys.c.method == bindparam("method", type_=Text),
        keys.c.request_id == bindparam("request_id", type_=Uuid),
    )
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


async def first_answer(
    tx: Transaction,
    seal: Seal,
    caller: str,
    request: Message,
    request_id: str,
    response_type: type[_RESPONSE],
) -> _RESPONSE | None:
    """The answer to the same request before, or None if this is the first, or it has no request_id.

    `caller` is the user's id, or what stands for one where nobody is signed in; authorised before.
    Raises REQUEST_ID_REUSED when the request_id came with another body within 24 hours.
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
    """Keeps the answer for 24 hours. Never call it with an answer that holds a secret."""
    if request_id:
        await tx.run(
            _REMEMBER,
            of_caller=caller,
            of_method=request.DESCRIPTOR.full_name,
            of_request_id=UUID(request_id),
            answer=response.SerializeToString(),
        )


def digest(seal: Seal, request: Message) -> bytes:
    """What tells a repeated request from another one. Keyed: a request can hold a secret."""
    body = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    return seal.derive("request", body)
