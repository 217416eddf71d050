"""Statements on former members, whose notifications of a workspace are deleted a batch at a time."""

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Integer,
    Interval,
    LargeBinary,
    Uuid,
    and_,
    bindparam,
    delete,
    exists,
    func,
    not_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.notification.inbox.models import former_members, notifications
from services.notification.stream.models import changes, feeds
from services.platform.data.db import Statement
from services.platform.rpc.directory import members

# Longer than any transaction that was writing notifications when the user was removed.
SETTLED = timedelta(seconds=60)


class FormerMember(NamedTuple):
    workspace_id: UUID
    user_id: UUID
    up_to: int
    done_to: int


class FeedEntry(NamedTuple):
    id: UUID
    sequence: int
    workspace_id: UUID


_workspace_id = bindparam("workspace_id", type_=Uuid)
_user_id = bindparam("user_id", type_=Uuid)
_columns = [former_members.c[name] for name in FormerMember._fields]
_this = and_(former_members.c.workspace_id == _workspace_id, former_members.c.user_id == _user_id)
_end = func.coalesce(
    select(feeds.c.last_sequence).where(feeds.c.user_id == _user_id).scalar_subquery(), 0
)
_add = insert(former_members).values(workspace_id=_workspace_id, user_id=_user_id, up_to=_end)
ADD = Statement(
    _add.on_conflict_do_update(
        index_elements=["workspace_id", "user_id"],
        set_={"up_to": _add.excluded.up_to, "removed_at": func.now()},
    )
)
ALL = Statement(
    select(*_columns)
    .order_by(former_members.c.removed_at)
    .limit(bindparam("limit", type_=Integer)),
    row=FormerMember,
)
# Locks the former member's row. Returns no row while another process works on this member.
TRY_LOCK = Statement(
    select(*_columns).where(_this).with_for_update(skip_locked=True), row=FormerMember
)
LOCK_FEED = Statement(select(feeds.c.user_id).where(feeds.c.user_id == _user_id).with_for_update())
NEXT_ENTRIES = Statement(
    select(notifications.c.id, notifications.c.sequence, notifications.c.workspace_id)
    .where(
        notifications.c.user_id == _user_id,
        notifications.c.sequence > bindparam("after", type_=BigInteger),
        notifications.c.sequence <= bindparam("up_to", type_=BigInteger),
    )
    .order_by(notifications.c.sequence)
    .limit(bindparam("count", type_=Integer)),
    row=FeedEntry,
)
# Replaces a change that a resuming stream would still show.
REPLACE_CHANGE = Statement(
    update(changes)
    .where(
        changes.c.user_id == bindparam("of_user", type_=Uuid),
        changes.c.sequence == bindparam("at", type_=BigInteger),
    )
    .values(payload=bindparam("new_payload", type_=LargeBinary))
)
SET_DONE = Statement(
    update(former_members).where(_this).values(done_to=bindparam("done", type_=BigInteger))
)
_settled = former_members.c.removed_at < func.now() - bindparam("settled", type_=Interval)
_returned = exists().where(members.c.workspace_id == _workspace_id, members.c.user_id == _user_id)
# Extends the range to the feed's end, for a notification that was being written during the removal. Updates no row
# when the user is a member again, or when there is nothing new.
EXTEND = Statement(
    update(former_members)
    .where(_this, _settled, former_members.c.up_to < _end, not_(_returned))
    .values(up_to=_end)
)
DELETE = Statement(delete(former_members).where(_this, _settled))
