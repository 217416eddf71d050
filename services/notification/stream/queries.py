"""Statements on feeds.

A transaction locks a feed's row before it changes the feed: with LOCK_FEED, TAKE_SEQUENCES or the inbox's CLAIM.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Integer,
    LargeBinary,
    Uuid,
    bindparam,
    column,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.notification.stream.models import changes, epochs, feeds
from services.platform.data.db import Statement
from services.platform.rpc.directory import live_session


class HeadRow(NamedTuple):
    epoch: UUID
    # The feed's last sequence; 0 for an empty feed.
    head: int
    # Whether the caller's session is alive.
    alive: bool


class UserHeadRow(NamedTuple):
    user_id: UUID
    head: int
    epoch: UUID


class ChangeRow(NamedTuple):
    sequence: int
    payload: bytes


class FeedRow(NamedTuple):
    """A feed that the transaction has locked."""

    user_id: UUID
    last_sequence: int
    epoch: UUID
    now: datetime


_caller = bindparam("caller_id", type_=Uuid)
_user = bindparam("user_id", type_=Uuid)
epoch = select(epochs.c.id).scalar_subquery()
now = func.clock_timestamp(type_=DateTime(timezone=True))

# The end of the caller's feed. Always returns one row, even for an empty feed or an ended session.
HEAD = Statement(
    select(
        epochs.c.id.label("epoch"),
        func.coalesce(
            select(feeds.c.last_sequence).where(feeds.c.user_id == _caller).scalar_subquery(), 0
        ).label("head"),
        live_session().label("alive"),
    ),
    row=HeadRow,
)
_watched = (
    func.unnest(bindparam("user_ids", type_=ARRAY(Uuid)))
    .table_valued(column("user_id", Uuid))
    .render_derived(name="watched")
)
HEADS = Statement(
    select(
        _watched.c.user_id,
        func.coalesce(feeds.c.last_sequence, 0).label("head"),
        epoch.label("epoch"),
    ).select_from(_watched.outerjoin(feeds, feeds.c.user_id == _watched.c.user_id)),
    row=UserHeadRow,
)
CHANGES_AFTER = Statement(
    select(changes.c.sequence, changes.c.payload)
    .where(
        changes.c.user_id == _user,
        changes.c.sequence > bindparam("after", type_=BigInteger),
    )
    .order_by(changes.c.sequence)
    .limit(bindparam("count", type_=Integer)),
    row=ChangeRow,
)

LOCK_FEED = Statement(
    select(feeds.c.user_id, feeds.c.last_sequence, epoch.label("epoch"), now.label("now"))
    .where(feeds.c.user_id == _caller, live_session())
    .with_for_update(of=feeds),
    row=FeedRow,
)
MOVE_FEED = Statement(
    update(feeds)
    .where(feeds.c.user_id == _user)
    .values(last_sequence=bindparam("sequence", type_=BigInteger))
)
ADD_CHANGE = Statement(
    insert(changes).values(
        user_id=_user,
        sequence=bindparam("sequence", type_=BigInteger),
        payload=bindparam("payload", type_=LargeBinary),
    )
)
_taken = (
    func.unnest(bindparam("user_ids", type_=ARRAY(Uuid)))
    .table_valued(column("user_id", Uuid))
    .render_derived(name="taken")
)
_take = insert(feeds).from_select(["user_id", "last_sequence"], select(_taken.c.user_id, 1))
# Locks the feeds of :user_ids, which must be sorted, and takes the next sequence of each feed.
TAKE_SEQUENCES = Statement(
    _take.on_conflict_do_update(
        index_elements=["user_id"], set_={"last_sequence": feeds.c.last_sequence + 1}
    ).returning(feeds.c.user_id, feeds.c.last_sequence, epoch.label("epoch"), now.label("now")),
    row=FeedRow,
)

# Invalidates all cursors after a restore of the database.
RENEW_EPOCH = Statement(update(epochs).values(id=func.gen_random_uuid()))
