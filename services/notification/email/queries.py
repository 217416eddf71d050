"""Statements on mails. The lock on the user's feed serialises two mails to the user, and a mail and MarkRead calls."""

from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    DateTime,
    Integer,
    SmallInteger,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    delete,
    func,
    not_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.notification.email.models import email_batches
from services.notification.inbox.models import notifications
from services.notification.inbox.queries import hidden, shown, unread
from services.notification.stream.models import feeds
from services.platform.data.db import Statement
from services.platform.rpc.directory import members, users, workspaces


class BatchRow(NamedTuple):
    user_id: UUID
    state: str


class LockedFeed(NamedTuple):
    user_id: UUID


class RecipientRow(NamedTuple):
    email: str
    display_name: str
    time_zone: str
    email_notifications: bool
    # Only later notifications are mailed; None: all are.
    email_on_since: datetime | None
    # When a mail server refused the address for good.
    email_bounced_at: datetime | None


class IdRow(NamedTuple):
    id: UUID


class EmailItemRow(NamedTuple):
    """A notification in a mail: the columns of NotificationRow (inbox), then the workspace's and the actor's name."""

    id: UUID
    sequence: int
    kind: int
    workspace_id: UUID
    task_id: UUID
    task_key: str
    task_title: str
    headline: str
    actor_id: UUID | None
    created_at: datetime
    read_at: datetime | None
    due_at: datetime | None
    due_date: date | None
    workspace_name: str
    # Empty if TaskFlow itself acted.
    actor_name: str
    # Notifications that the batch has, including this one.
    total: int


_user = bindparam("user_id", type_=Uuid)
_batch = bindparam("batch_id", type_=Uuid)
_prepared = email_batches.c.state == "PREPARED"
_in_batch = notifications.c.email_batch_id == _batch

LOCK_FEED_OF_BATCH = Statement(
    select(feeds.c.user_id)
    .where(
        feeds.c.user_id
        == select(email_batches.c.user_id).where(email_batches.c.id == _batch).scalar_subquery()
    )
    .with_for_update()
)
LOCK_FEED = Statement(
    select(feeds.c.user_id).where(feeds.c.user_id == _user).with_for_update(), row=LockedFeed
)
BATCH = Statement(
    select(email_batches.c.user_id, email_batches.c.state).where(email_batches.c.id == _batch),
    row=BatchRow,
)
RECIPIENT = Statement(
    select(*(users.c[name] for name in RecipientRow._fields)).where(users.c.id == _user),
    row=RecipientRow,
)
ADD_BATCH = Statement(
    insert(email_batches).values(
        id=_batch,
        user_id=_user,
        state=bindparam("state", type_=Text),
        error=bindparam("why", type_=Text),
    )
)
_is_member = and_(
    members.c.workspace_id == notifications.c.workspace_id,
    members.c.user_id == notifications.c.user_id,
)
_mailed_kind = notifications.c.kind == any_(bindparam("kinds", type_=ARRAY(SmallInteger)))
_unmailed = and_(unread, not_(hidden), notifications.c.email_batch_id.is_(None), _mailed_kind)
_until = bindparam("until", type_=DateTime(timezone=True))
_oldest_unmailed = (
    select(notifications.c.id)
    .where(notifications.c.user_id == _user, _unmailed)
    .order_by(notifications.c.sequence)
    .limit(bindparam("count", type_=Integer))
)
_to_mail = _oldest_unmailed.join(members, _is_member).where(
    notifications.c.created_at > bindparam("after", type_=DateTime(timezone=True))
)
FILL_BATCH = Statement(
    update(notifications).where(notifications.c.id.in_(_to_mail)).values(email_batch_id=_batch)
)
_skipped = {"email_batch_id": bindparam("skipped", type_=Uuid)}
_too_old = _oldest_unmailed.where(notifications.c.created_at <= _until)
SKIP = Statement(update(notifications).where(notifications.c.id.in_(_too_old)).values(_skipped))
SKIP_PREPARED = Statement(
    update(notifications)
    .where(_in_batch, unread, notifications.c.created_at <= _until)
    .values(_skipped)
)
MORE = Statement(
    select(notifications.c.id)
    .join(members, _is_member)
    .where(
        notifications.c.user_id
        == select(email_batches.c.user_id).where(email_batches.c.id == _batch).scalar_subquery(),
        _unmailed,
    )
    .limit(1),
    row=IdRow,
)
ITEMS = Statement(
    select(
        *shown,
        workspaces.c.display_name.label("workspace_name"),
        func.coalesce(users.c.display_name, "").label("actor_name"),
        func.count().over().label("total"),
    )
    .join(members, _is_member)
    .join(workspaces, workspaces.c.id == notifications.c.workspace_id)
    .outerjoin(users, users.c.id == notifications.c.actor_id)
    .where(_in_batch, unread, not_(hidden))
    .order_by(notifications.c.sequence.desc())
    .limit(bindparam("count", type_=Integer)),
    row=EmailItemRow,
)
FINISH_BATCH = Statement(
    update(email_batches)
    .where(email_batches.c.id == _batch, _prepared)
    .values(
        state=bindparam("to_state", type_=Text),
        error=bindparam("why", type_=Text),
        finished_at=func.now(),
    )
)
MARK_EMAILED = Statement(update(notifications).where(_in_batch).values(emailed_at=func.now()))

# Statements for the recovery after a restore of the database.
RELEASE_PREPARED = Statement(
    update(notifications)
    .where(notifications.c.email_batch_id.in_(select(email_batches.c.id).where(_prepared)))
    .values(email_batch_id=None)
)
DELETE_PREPARED = Statement(delete(email_batches).where(_prepared))
