"""Statements on `platform.consumers`. Only the relay writes this table, see consumers.py."""

from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Integer,
    Text,
    and_,
    bindparam,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.platform.data.db import Statement
from services.platform.data.tables import consumers, outbox


class ConsumerRow(NamedTuple):
    name: str
    subjects: list[str]
    floor: int
    # The stream sequence up to which events were copied; None while the consumer follows the event stream.
    copied_to: int | None
    copies_created: str
    copies_last: int
    # Age (seconds) of the oldest event that the consumer may have yet to process.
    age: Decimal


class MissedEvent(NamedTuple):
    event_id: UUID
    subject: str
    payload: bytes
    stream_sequence: int


_position = func.coalesce(consumers.c.copied_to, consumers.c.floor)
ALL = Statement(
    select(
        consumers.c.name,
        consumers.c.subjects,
        consumers.c.floor,
        consumers.c.copied_to,
        consumers.c.copies_created,
        consumers.c.copies_last,
        func.coalesce(
            select(func.extract("epoch", func.now() - outbox.c.published_at))
            .where(outbox.c.stream_sequence > _position)
            .order_by(outbox.c.stream_sequence)
            .limit(1)
            .scalar_subquery(),
            0,
        ).label("age"),
    ).order_by(consumers.c.name),
    row=ConsumerRow,
)
_this = consumers.c.name == bindparam("consumer", type_=Text)
_kept = insert(consumers).values(
    name=bindparam("consumer", type_=Text),
    subjects=bindparam("subjects", type_=ARRAY(Text)),
    floor=bindparam("floor", type_=BigInteger),
)
KEEP = Statement(
    _kept.on_conflict_do_update(index_elements=["name"], set_={"subjects": _kept.excluded.subjects})
)
RAISE_FLOOR = Statement(
    update(consumers)
    .where(_this, consumers.c.floor < bindparam("floor", type_=BigInteger))
    .values(floor=bindparam("floor", type_=BigInteger))
)
DETACH = Statement(
    update(consumers)
    .where(_this, consumers.c.copied_to.is_(None))
    .values(
        floor=bindparam("floor", type_=BigInteger),
        copied_to=bindparam("floor", type_=BigInteger),
        copies_created="",
        copies_last=0,
    )
)
# A condition for the statements below: `copied_to` is unchanged. It changes when another relay has taken over.
_detached_at = and_(_this, consumers.c.copied_to == bindparam("before", type_=BigInteger))
COPIED = Statement(
    update(consumers)
    .where(_detached_at)
    .values(
        copied_to=bindparam("copied_to", type_=BigInteger),
        copies_last=bindparam("last", type_=BigInteger),
    )
)
COPY_AGAIN = Statement(
    update(consumers)
    .where(_detached_at)
    .values(
        copied_to=consumers.c.floor,
        copies_created=bindparam("created", type_=Text),
        copies_last=bindparam("last", type_=BigInteger),
    )
)
ATTACH = Statement(
    update(consumers).where(_detached_at).values(floor=consumers.c.copied_to, copied_to=None)
)
NEW_STREAM = Statement(update(consumers).values(floor=0, copied_to=None))
_last = bindparam("last", type_=BigInteger)
SHORTER_STREAM = Statement(
    update(consumers)
    .where(or_(consumers.c.floor > _last, consumers.c.copied_to > _last))
    .values(
        floor=func.least(consumers.c.floor, _last),
        # A NULL `copied_to` stays NULL; `least(copied_to, :last)` would return :last.
        copied_to=consumers.c.copied_to + func.least(0, _last - consumers.c.copied_to),
    )
)
MISSED = Statement(
    select(outbox.c.event_id, outbox.c.subject, outbox.c.payload, outbox.c.stream_sequence)
    .where(
        outbox.c.stream_sequence > bindparam("after", type_=BigInteger),
        outbox.c.stream_sequence <= bindparam("to", type_=BigInteger),
        outbox.c.subject.regexp_match(bindparam("pattern", type_=Text)),
    )
    .order_by(outbox.c.stream_sequence)
    .limit(bindparam("rows", type_=Integer)),
    row=MissedEvent,
)
