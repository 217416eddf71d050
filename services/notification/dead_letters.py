"""Dead letters of all consumers: kept, listed, and handed back."""

import hashlib
import re
from datetime import datetime
from uuid import UUID

from google.protobuf.message import DecodeError
from sqlalchemy import (
    DateTime,
    Integer,
    LargeBinary,
    Text,
    Uuid,
    bindparam,
    case,
    func,
    null,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from services.platform import pages, telemetry
from services.platform.db import Row, Statement, Transaction
from services.platform.errors import not_found
from services.platform.identity import Caller
from services.platform.outbox import add_replay
from services.platform.seal import Seal
from services.platform.tables import dead_letters
from taskflow.event.v1.dead_letter_service_pb2 import (
    DeadLetter,
    ListDeadLettersRequest,
    ListDeadLettersResponse,
)
from taskflow.event.v1.event_pb2 import Event

_MAX_ERROR = 1000
_EVENT_TYPE = re.compile(r"[a-z_]{1,50}\.[a-z_]{1,50}")
# What can stand in a NATS subject as one token.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,100}")

_parked = insert(dead_letters).values(
    id=bindparam("id", type_=Uuid),
    consumer=bindparam("consumer", type_=Text),
    event_id=bindparam("event_id", type_=Text),
    event_type=bindparam("event_type", type_=Text),
    subject=bindparam("subject", type_=Text),
    payload=bindparam("payload", type_=LargeBinary),
    error=bindparam("error", type_=Text),
)
# One that failed again after it was handed back counts as parked now.
_PARK = Statement(
    _parked.on_conflict_do_update(
        index_elements=["consumer", "event_id"],
        set_={
            "error": _parked.excluded.error,
            "parked_at": case(
                (dead_letters.c.replayed_at.is_not(None), func.now()),
                else_=dead_letters.c.parked_at,
            ),
            "replayed_at": null(),
        },
    )
)
_SHOWN = (
    dead_letters.c.id,
    dead_letters.c.consumer,
    dead_letters.c.event_id,
    dead_letters.c.event_type,
    dead_letters.c.error,
    dead_letters.c.parked_at,
    dead_letters.c.replayed_at,
)
_list = (
    select(*_SHOWN)
    .where(
        tuple_(dead_letters.c.parked_at, dead_letters.c.id)
        < tuple_(
            bindparam("parked_before", type_=DateTime(timezone=True)),
            bindparam("id_before", type_=Uuid),
        )
    )
    .order_by(dead_letters.c.parked_at.desc(), dead_letters.c.id.desc())
    .limit(bindparam("count", type_=Integer))
)
LIST = Statement(_list)
LIST_WAITING = Statement(_list.where(dead_letters.c.replayed_at.is_(None)))
_REPLAY = Statement(
    update(dead_letters)
    .where(dead_letters.c.id == bindparam("letter_id", type_=Uuid))
    .values(replayed_at=func.clock_timestamp())
    .returning(*_SHOWN, dead_letters.c.payload)
)
# After every dead letter.
_NEWEST = ["9999-12-31T00:00:00+00:00", str(UUID(int=2**128 - 1))]


async def park(
    tx: Transaction, *, consumer: str, subject: str, event_id: str, payload: bytes, error: str
) -> None:
    """Keeps an event that a consumer failed on; again for the same, it keeps the newer error."""
    await tx.run(
        _PARK,
        id=uuid7(),
        consumer=consumer,
        event_id=_identity(event_id, payload),
        event_type=_event_type(payload),
        subject=subject,
        payload=payload,
        error=error.replace("\0", "")[:_MAX_ERROR],
    )
    telemetry.DEAD_LETTERS.labels(consumer).inc()


async def list_letters(
    tx: Transaction, seal: Seal, caller: Caller, request: ListDeadLettersRequest
) -> ListDeadLettersResponse:
    """Newest first; the caller is an operator."""
    parked_before, id_before = pages.position(seal, caller.user_id, request) or _NEWEST
    size = pages.size(request.page_size)
    rows = await tx.all(
        LIST if request.include_replayed else LIST_WAITING,
        parked_before=datetime.fromisoformat(parked_before),
        id_before=UUID(id_before),
        count=size + 1,
    )
    page = rows[:size]
    response = ListDeadLettersResponse(dead_letters=[_letter(row) for row in page])
    if len(rows) > size:
        last = [page[-1].parked_at.isoformat(), str(page[-1].id)]
        response.next_page_token = pages.token(seal, caller.user_id, request, last)
    return response


async def replay(tx: Transaction, letter_id: UUID) -> DeadLetter:
    """Hands an event back to its consumer through the outbox: it's marked if, and only if, it will be published."""
    row = await tx.one(_REPLAY, letter_id=letter_id)
    if row is None:
        raise not_found("dead_letter", letter_id)
    await add_replay(tx, row.consumer, row.event_id, bytes(row.payload))
    return _letter(row)


def _identity(event_id: str, payload: bytes) -> str:
    if _TOKEN.fullmatch(event_id):
        return event_id
    return hashlib.sha256(payload).hexdigest()


def _event_type(payload: bytes) -> str:
    try:
        event_type = Event.FromString(payload).type
    except DecodeError:
        return ""
    return event_type if _EVENT_TYPE.fullmatch(event_type) else ""


def _letter(row: Row) -> DeadLetter:
    letter = DeadLetter(
        id=str(row.id),
        consumer=row.consumer,
        event_id=row.event_id,
        event_type=row.event_type,
        error=row.error,
    )
    letter.park_time.FromDatetime(row.parked_at)
    if row.replayed_at:
        letter.replay_time.FromDatetime(row.replayed_at)
    return letter
