"""Statements on the outbox, and on the relay's position in the event stream."""

from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Interval,
    Text,
    Uuid,
    bindparam,
    column,
    exists,
    func,
    literal,
    literal_column,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.platform.data.db import Statement
from services.platform.data.tables import outbox, relay_position
from services.platform.events.subjects import STREAM

# The most events in a batch of the relay. Even on a slow disk a batch takes much less time than relay._TAKEOVER.
BATCH = 250


class UnpublishedEvent(NamedTuple):
    id: int
    event_id: UUID
    subject: str
    payload: bytes


class EventInTurn(UnpublishedEvent):
    """`last_turn` is the last workspace in the batch, in their order."""

    last_turn: str


class Position(NamedTuple):
    stream_created: str
    last_sequence: int


class Known(NamedTuple):
    known: int


class Backlog(NamedTuple):
    # Events that wait to be published.
    depth: int
    # Age (seconds) of the oldest event that waits; 0 if none does.
    age: Decimal


UNPUBLISHED = Statement(
    select(outbox.c.id, outbox.c.event_id, outbox.c.subject, outbox.c.payload)
    .where(outbox.c.published_at.is_(None))
    .order_by(outbox.c.id)
    .limit(BATCH),
    row=UnpublishedEvent,
)
# The workspace that an event's subject names, as the index outbox_turns has it.
_workspace = literal_column("split_part(subject, '.', 2)", Text)
_unpublished = outbox.c.published_at.is_(None)
# Finds each workspace with unpublished events by one look into the index, however many events it has.
_first = (
    select(_workspace.label("workspace"))
    .select_from(outbox)
    .where(_unpublished, _workspace > bindparam("after", type_=Text))
    .order_by(_workspace)
    .limit(1)
)
_workspaces = select(_first.subquery().c.workspace).cte("workspaces", recursive=True)
_following = (
    select(_workspace.label("workspace"))
    .select_from(outbox)
    .where(_unpublished, _workspace > _workspaces.c.workspace)
    .order_by(_workspace)
    .limit(1)
    .correlate(_workspaces)
    .lateral("following")
)
_workspaces = _workspaces.union_all(
    select(_following.c.workspace).select_from(_workspaces.join(_following, true()))
)
_turns = select(_workspaces.c.workspace).limit(BATCH).cte("turns")
_share = (
    select(outbox.c.id, outbox.c.event_id, outbox.c.subject, outbox.c.payload)
    .where(_unpublished, _workspace == _turns.c.workspace)
    .order_by(outbox.c.id)
    .limit(literal(BATCH) // select(func.count()).select_from(_turns).scalar_subquery())
    .correlate(_turns)
    .lateral("share")
)
# A batch in which all workspaces have the same share: at most BATCH of those that follow :after in their order, each
# with its oldest unpublished events.
UNPUBLISHED_IN_TURN = Statement(
    select(
        *(_share.c.id, _share.c.event_id, _share.c.subject, _share.c.payload),
        select(func.max(_turns.c.workspace)).scalar_subquery().label("last_turn"),
    )
    .select_from(_turns.join(_share, true()))
    .order_by(_share.c.id),
    row=EventInTurn,
)
_position = select(relay_position.c.stream_created, relay_position.c.last_sequence).where(
    relay_position.c.stream == STREAM
)
POSITION = Statement(_position, row=Position)
LOCK_POSITION = Statement(_position.with_for_update(), row=Position)
_set_position = insert(relay_position).values(
    stream=STREAM,
    stream_created=bindparam("created", type_=Text),
    last_sequence=bindparam("sequence", type_=BigInteger),
)
SET_POSITION = Statement(
    _set_position.on_conflict_do_update(
        index_elements=["stream"],
        set_={
            "stream_created": _set_position.excluded.stream_created,
            "last_sequence": _set_position.excluded.last_sequence,
        },
    )
)
_moved = (
    update(relay_position)
    .where(
        relay_position.c.stream == STREAM,
        relay_position.c.stream_created == bindparam("created", type_=Text),
        relay_position.c.last_sequence == bindparam("before", type_=BigInteger),
    )
    .values(last_sequence=bindparam("sequence", type_=BigInteger))
    .returning(relay_position.c.stream)
    .cte("moved")
)
_published = (
    func.unnest(
        bindparam("ids", type_=ARRAY(BigInteger)), bindparam("sequences", type_=ARRAY(BigInteger))
    )
    .table_valued(column("id", BigInteger), column("sequence", BigInteger), name="published")
    .render_derived()
)
# Marks events as published and moves the relay's position. It is one statement, to need one round trip per batch.
# Postgres may run this statement after another relay took over, even if the sender has died. Then it updates no row.
MARK = Statement(
    update(outbox)
    .where(outbox.c.id == _published.c.id, exists(select(_moved.c.stream)))
    .values(published_at=func.now(), stream_sequence=_published.c.sequence)
)
_found = (
    func.unnest(
        bindparam("event_ids", type_=ARRAY(Uuid)), bindparam("sequences", type_=ARRAY(BigInteger))
    )
    .table_valued(column("event_id", Uuid), column("sequence", BigInteger), name="found")
    .render_derived()
)
# Marks events as published that the stream already holds.
MARK_FOUND = Statement(
    update(outbox)
    .where(outbox.c.event_id == _found.c.event_id, outbox.c.published_at.is_(None))
    .values(published_at=func.now(), stream_sequence=_found.c.sequence)
)
# How many of these events the outbox has.
COUNT_KNOWN = Statement(
    select(func.count().label("known"))
    .select_from(outbox)
    .where(outbox.c.event_id == func.any(bindparam("event_ids", type_=ARRAY(Uuid)))),
    row=Known,
)
UNMARK = Statement(
    update(outbox)
    .where(
        outbox.c.stream_sequence > bindparam("after", type_=BigInteger),
        outbox.c.published_at > func.now() - bindparam("retention", type_=Interval),
    )
    .values(published_at=None, stream_sequence=None)
)
UNMARK_ALL = Statement(
    update(outbox)
    .where(outbox.c.published_at.is_not(None))
    .values(published_at=None, stream_sequence=None)
)
# Lifts the time limit for this transaction: updating a week of events takes longer than `statement_timeout`.
WITHOUT_TIME_LIMIT = Statement(text("SET LOCAL statement_timeout = 0"))
_waiting = outbox.c.published_at.is_(None)
# Reads one row, instead of the creation time of every event that waits.
_oldest = select(outbox.c.created_at).where(_waiting).order_by(outbox.c.id).limit(1)
BACKLOG = Statement(
    select(
        select(func.count()).select_from(outbox).where(_waiting).scalar_subquery().label("depth"),
        func.coalesce(func.extract("epoch", func.now() - _oldest.scalar_subquery()), 0).label(
            "age"
        ),
    ),
    row=Backlog,
)
