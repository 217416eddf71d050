"""Statements that list, count, mark and delete notifications."""

from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Integer,
    Uuid,
    any_,
    bindparam,
    case,
    delete,
    exists,
    func,
    not_,
    or_,
    select,
    update,
)

from services.notification.inbox.models import former_members, notifications
from services.platform.data.db import Statement
from services.platform.data.retention import expired
from services.platform.rpc.directory import live_session, members


class NotificationRow(NamedTuple):
    """The columns of a notification that the API shows."""

    id: UUID
    sequence: int
    kind: int
    workspace_id: UUID
    task_id: UUID
    task_key: str
    task_title: str
    headline: str
    # None if TaskFlow itself acted.
    actor_id: UUID | None
    created_at: datetime
    read_at: datetime | None
    due_at: datetime | None
    due_date: date | None


class UnreadRow(NamedTuple):
    unread: int
    # Whether the caller's session is alive.
    alive: bool


class IdRow(NamedTuple):
    id: UUID


class SequenceRow(NamedTuple):
    sequence: int


class OwnedRow(NamedTuple):
    id: UUID
    user_id: UUID


_caller = bindparam("caller_id", type_=Uuid)
_ids = bindparam("ids", type_=ARRAY(Uuid))
unread = notifications.c.read_at.is_(None)
# The columns to select for a NotificationRow.
shown = tuple(notifications.c[name] for name in NotificationRow._fields)

_is_member = exists().where(
    members.c.workspace_id == former_members.c.workspace_id,
    members.c.user_id == former_members.c.user_id,
)
# Whether a notification is from before the user's removal from its workspace, and is about to be deleted
# (former_members.py). Without the OFFSET Postgres might join the tables whole.
hidden = exists(
    select(1)
    .select_from(former_members)
    .where(
        former_members.c.user_id == notifications.c.user_id,
        former_members.c.workspace_id == notifications.c.workspace_id,
        or_(notifications.c.sequence <= former_members.c.up_to, not_(_is_member)),
    )
    .correlate(notifications)
    .offset(0)
)

_older = (
    select(*shown)
    .where(
        notifications.c.user_id == _caller,
        notifications.c.sequence < bindparam("before", type_=BigInteger),
        not_(hidden),
    )
    .order_by(notifications.c.sequence.desc())
    .limit(bindparam("count", type_=Integer))
)
OLDER = Statement(_older, row=NotificationRow)
OLDER_UNREAD = Statement(_older.where(unread), row=NotificationRow)
_count = (
    select(func.count())
    .select_from(notifications)
    .where(notifications.c.user_id == _caller, unread)
)
UNREAD_COUNT = Statement(
    select(
        # Nearly everybody's count needs the index only.
        case(
            (
                exists().where(former_members.c.user_id == _caller),
                _count.where(not_(hidden)).scalar_subquery(),
            ),
            else_=_count.scalar_subquery(),
        ).label("unread"),
        live_session().label("alive"),
    ),
    row=UnreadRow,
)

_mark = (
    update(notifications)
    .where(notifications.c.user_id == bindparam("user_id", type_=Uuid), unread)
    .values(read_at=bindparam("now", type_=DateTime(timezone=True)))
)
MARK = Statement(
    _mark.where(notifications.c.id == any_(_ids)).returning(notifications.c.id), row=IdRow
)
# Marks at most :count unread notifications up to a sequence, the oldest first.
MARK_UP_TO = Statement(
    _mark.where(
        notifications.c.id
        == any_(
            func.array(
                select(notifications.c.id)
                .where(
                    notifications.c.user_id == bindparam("user_id", type_=Uuid),
                    unread,
                    notifications.c.sequence <= bindparam("up_to", type_=BigInteger),
                )
                .order_by(notifications.c.sequence)
                .limit(bindparam("count", type_=Integer))
                .scalar_subquery()
            )
        )
    ).returning(notifications.c.sequence),
    row=SequenceRow,
)

# Locks notifications that were read longer than :age ago. No other statement locks such rows, so a transaction may lock
# them before their feeds.
LOCK_READ = Statement(
    select(notifications.c.id, notifications.c.user_id)
    .where(expired(notifications.c.read_at))
    .order_by(notifications.c.read_at)
    .limit(bindparam("rows", type_=Integer))
    .with_for_update(skip_locked=True),
    row=OwnedRow,
)
DELETE = Statement(delete(notifications).where(notifications.c.id == any_(_ids)))
