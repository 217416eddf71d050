"""Dead letters: events that a consumer failed on too often. Parked, listed, and replayed by an operator."""

import hashlib
import re
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
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

from services.platform.data.db import Database, Statement, Transaction
from services.platform.data.tables import dead_letters
from services.platform.events.consumer import Park
from services.platform.events.outbox import add_replay
from services.platform.events.subjects import event_id as event_id_of
from services.platform.observe import metrics
from services.platform.rpc.errors import not_found
from taskflow.event.v1.event_pb2 import Event

# Characters of an error that a dead letter keeps.
_MAX_ERROR = 1000
_EVENT_TYPE = re.compile(r"[a-z_]{1,50}\.[a-z_]{1,50}")
# Event ids that can be one token of a NATS subject.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,100}")


class DeadLetter(NamedTuple):
    id: UUID
    consumer: str
    event_id: str
    event_type: str
    error: str
    parked_at: datetime
    replayed_at: datetime | None


class _Payload(NamedTuple):
    payload: bytes


class Place(NamedTuple):
    """The sort key of a dead letter in the list of dead letters, which is newest first."""

    parked_at: datetime
    id: UUID


# A place that sorts before every dead letter: the start of the list.
FIRST = Place(datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))

_parked = insert(dead_letters).values(
    id=bindparam("id", type_=Uuid),
    consumer=bindparam("consumer", type_=Text),
    event_id=bindparam("event_id", type_=Text),
    event_type=bindparam("event_type", type_=Text),
    subject=bindparam("subject", type_=Text),
    payload=bindparam("payload", type_=LargeBinary),
    error=bindparam("error", type_=Text),
)
# A dead letter that was replayed and failed again gets the current time as `parked_at`.
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
_columns = (
    dead_letters.c.id,
    dead_letters.c.consumer,
    dead_letters.c.event_id,
    dead_letters.c.event_type,
    dead_letters.c.error,
    dead_letters.c.parked_at,
    dead_letters.c.replayed_at,
)
_list = (
    select(*_columns)
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
LIST = Statement(_list, row=DeadLetter)
LIST_WAITING = Statement(_list.where(dead_letters.c.replayed_at.is_(None)), row=DeadLetter)
_this = dead_letters.c.id == bindparam("letter_id", type_=Uuid)
_REPLAY = Statement(
    update(dead_letters)
    .where(_this)
    .values(replayed_at=func.clock_timestamp())
    .returning(*_columns),
    row=DeadLetter,
)
_PAYLOAD = Statement(select(dead_letters.c.payload).where(_this), row=_Payload)


async def park(
    tx: Transaction, *, consumer: str, subject: str, event_id: str, payload: bytes, error: str
) -> None:
    """Stores an event that a consumer failed on. The same event again replaces the stored error."""
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
    metrics.DEAD_LETTERS.labels(consumer).inc()


def parking(db: Database, consumer: str) -> Park:
    """The `park` function of a durable consumer: stores the dead letter in a transaction of its own."""

    async def park_message(message: Msg, error: str) -> None:
        async with db.transaction() as tx:
            await park(
                tx,
                consumer=consumer,
                subject=message.subject,
                event_id=event_id_of(message),
                payload=message.data,
                error=error,
            )

    return park_message


async def page(
    tx: Transaction, before: Place, count: int, *, include_replayed: bool
) -> list[DeadLetter]:
    """Up to `count` dead letters of all consumers that follow `before`, newest first."""
    return await tx.all(
        LIST if include_replayed else LIST_WAITING,
        parked_before=before.parked_at,
        id_before=before.id,
        count=count,
    )


async def replay(tx: Transaction, letter_id: UUID) -> DeadLetter:
    """Adds the event to the outbox again, for its consumer only, and marks the dead letter as replayed.

    Raises NOT_FOUND.
    """
    letter = await tx.one(_REPLAY, letter_id=letter_id)
    event = await tx.one(_PAYLOAD, letter_id=letter_id)
    if letter is None or event is None:
        raise not_found("dead_letter", letter_id)
    await add_replay(tx, letter.consumer, letter.event_id, event.payload)
    return letter


def _identity(event_id: str, payload: bytes) -> str:
    """The event's id; a hash of the payload if a NATS subject can't hold the id."""
    if _TOKEN.fullmatch(event_id):
        return event_id
    return hashlib.sha256(payload).hexdigest()


def _event_type(payload: bytes) -> str:
    """The event's type; empty when the payload can't be read or has an unusual type."""
    try:
        event_type = Event.FromString(payload).type
    except DecodeError:
        return ""
    return event_type if _EVENT_TYPE.fullmatch(event_type) else ""
