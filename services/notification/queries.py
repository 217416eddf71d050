"""Statements on notifications. Whoever changes a feed holds the lock of its row (LOCK_FEED, CLAIM, TAKE_SEQUENCES)."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Integer,
    LargeBinary,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    column,
    exists,
    func,
    not_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.notification.models import (
    changes,
    email_batches,
    epochs,
    feeds,
    notifications,
)
from services.platform import retention
from services.platform.db import Statement
from services.platform.directory import live_session, members, users, workspaces
from services.platform.given import given
from services.platform.tables import consumed_events, outbox

_caller = bindparam("caller_id", type_=Uuid)
_user = bindparam("user_id", type_=Uuid)
_batch = bindparam("batch_id", type_=Uuid)
_epoch = select(epochs.c.id).scalar_subquery()
_unread = notifications.c.read_at.is_(None)

_SHOWN = (
    notifications.c.id,
    notifications.c.sequence,
    notifications.c.kind,
    notifications.c.workspace_id,
    notifications.c.task_id,
    notifications.c.task_key,
    notifications.c.task_title,
    notifications.c.headline,
    notifications.c.actor_id,
    notifications.c.created_at,
    notifications.c.read_at,
)

# Reading. One row whatever there is; `alive` says whether the caller's session is.
HEAD = Statement(
    select(
        epochs.c.id.label("epoch"),
        func.coalesce(
            select(feeds.c.last_sequence).where(feeds.c.user_id == _caller).scalar_subquery(), 0
        ).label("head"),
        live_session().label("alive"),
    )
)
_older = (
    select(*_SHOWN)
    .where(
        notifications.c.user_id == _caller,
        notifications.c.sequence < bindparam("before", type_=BigInteger),
    )
    .order_by(notifications.c.sequence.desc())
    .limit(bindparam("count", type_=Integer))
)
OLDER = Statement(_older)
OLDER_UNREAD = Statement(_older.where(_unread))
UNREAD_COUNT = Statement(
    select(
        select(func.count())
        .select_from(notifications)
        .where(notifications.c.user_id == _caller, _unread)
        .scalar_subquery()
        .label("unread"),
        live_session().label("alive"),
    )
)
CHANGES_AFTER = Statement(
    select(changes.c.sequence, changes.c.payload)
    .where(
        changes.c.user_id == _user,
        changes.c.sequence > bindparam("after", type_=BigInteger),
    )
    .order_by(changes.c.sequence)
    .limit(bindparam("count", type_=Integer))
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
        _epoch.label("epoch"),
    ).select_from(_watched.outerjoin(feeds, feeds.c.user_id == _watched.c.user_id))
)

# Marking as read.
LOCK_FEED = Statement(
    select(
        feeds.c.last_sequence,
        _epoch.label("epoch"),
        func.clock_timestamp(type_=DateTime(timezone=True)).label("now"),
    )
    .where(feeds.c.user_id == _caller, live_session())
    .with_for_update(of=feeds)
)
_mark = (
    update(notifications)
    .where(notifications.c.user_id == _user, _unread)
    .values(read_at=bindparam("now", type_=DateTime(timezone=True)))
)
MARK = Statement(
    _mark.where(notifications.c.id == any_(bindparam("ids", type_=ARRAY(Uuid)))).returning(
        notifications.c.id
    )
)
MARK_UP_TO = Statement(
    _mark.where(notifications.c.sequence <= bindparam("up_to", type_=BigInteger))
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

# Telling. `n` tells what is to be told apart; users and events come in order, so that two consumers don't wait for each
# other.
_asked = given({"n": Integer(), "event_id": Uuid(), "workspace_id": Uuid(), "user_id": Uuid()})
_claimed = (
    insert(consumed_events)
    .from_select(
        ["consumer", "event_id"],
        select(bindparam("consumer", type_=Text), _asked.c.event_id)
        .distinct()
        .order_by(_asked.c.event_id),
    )
    .on_conflict_do_nothing()
    .returning(consumed_events.c.event_id)
    .cte("claimed")
)
# Events that are new to us, for users who are members now.
_recipients = (
    select(_asked.c.n, _asked.c.user_id)
    .join(_claimed, _claimed.c.event_id == _asked.c.event_id)
    .join(
        members,
        and_(
            members.c.workspace_id == _asked.c.workspace_id,
            members.c.user_id == _asked.c.user_id,
        ),
    )
    .where(
        not_(
            exists().where(
                notifications.c.event_id == _asked.c.event_id,
                notifications.c.user_id == _asked.c.user_id,
            )
        )
    )
    .cte("recipients")
)
_counts = (
    select(_recipients.c.user_id, func.count().label("count"))
    .group_by(_recipients.c.user_id)
    .cte("counts")
)
_next = insert(feeds).from_select(
    ["user_id", "last_sequence"],
    select(_counts.c.user_id, _counts.c.count).order_by(_counts.c.user_id),
)
_moved = (
    _next.on_conflict_do_update(
        index_elements=["user_id"],
        set_={"last_sequence": feeds.c.last_sequence + _next.excluded.last_sequence},
    )
    .returning(
        feeds.c.user_id,
        feeds.c.last_sequence,
        func.clock_timestamp(type_=DateTime(timezone=True)).label("now"),
    )
    .cte("moved")
)
# Claims the events, and takes a sequence for each that is to be told: `n`, its `sequence`, and the time of its feed.
CLAIM = Statement(
    select(
        _recipients.c.n,
        (
            _moved.c.last_sequence
            - _counts.c.count
            + func.row_number().over(partition_by=_recipients.c.user_id, order_by=_recipients.c.n)
        ).label("sequence"),
        _moved.c.now,
        _epoch.label("epoch"),
    )
    .join(_counts, _counts.c.user_id == _recipients.c.user_id)
    .join(_moved, _moved.c.user_id == _recipients.c.user_id)
    .order_by(_recipients.c.n)
)
_TOLD = (
    *("id", "user_id", "event_id", "sequence", "kind", "workspace_id"),
    *("task_id", "task_key", "task_title", "headline", "actor_id", "created_at"),
)
_EVENT = ("event_id", "subject", "payload")
_new = given(
    {
        **{name: notifications.c[name].type for name in _TOLD},
        "change": LargeBinary(),
        **{f"outbox_{name}": outbox.c[name].type for name in _EVENT},
    }
)
_added_changes = insert(changes).from_select(
    ["user_id", "sequence", "payload"], select(_new.c.user_id, _new.c.sequence, _new.c.change)
)
_added_events = insert(outbox).from_select(
    list(_EVENT), select(*(_new.c[f"outbox_{name}"] for name in _EVENT))
)
# The notifications, each with its change and its event.
ADD_NOTIFICATIONS = Statement(
    insert(notifications)
    .from_select(list(_TOLD), select(*(_new.c[name] for name in _TOLD)))
    .add_cte(_added_changes.cte("changes"), _added_events.cte("events"))
)
_taken = (
    func.unnest(
        bindparam("user_ids", type_=ARRAY(Uuid)), bindparam("counts", type_=ARRAY(BigInteger))
    )
    .table_valued(column("user_id", Uuid), column("count", BigInteger))
    .render_derived(name="taken")
)
_take = insert(feeds).from_select(
    ["user_id", "last_sequence"], select(_taken.c.user_id, _taken.c.count)
)
# Takes `counts` sequences of each user, who come in order; the row says the last of them.
TAKE_SEQUENCES = Statement(
    _take.on_conflict_do_update(
        index_elements=["user_id"],
        set_={"last_sequence": feeds.c.last_sequence + _take.excluded.last_sequence},
    ).returning(
        feeds.c.user_id,
        feeds.c.last_sequence,
        _epoch.label("epoch"),
        func.clock_timestamp(type_=DateTime(timezone=True)).label("now"),
    )
)

# Mail. The feed's lock keeps two batches, and reading meanwhile, apart.
LOCK_FEED_OF_BATCH = Statement(
    select(feeds.c.user_id)
    .where(
        feeds.c.user_id
        == select(email_batches.c.user_id).where(email_batches.c.id == _batch).scalar_subquery()
    )
    .with_for_update()
)
LOCK_FEED_FOR_MAIL = Statement(
    select(feeds.c.user_id).where(feeds.c.user_id == _user).with_for_update()
)
EMAIL_BATCH = Statement(
    select(email_batches.c.user_id, email_batches.c.state).where(email_batches.c.id == _batch)
)
ADD_EMAIL_BATCH = Statement(
    insert(email_batches).values(id=_batch, user_id=_user, state="PREPARED", error="")
)
_is_member = and_(
    members.c.workspace_id == notifications.c.workspace_id,
    members.c.user_id == notifications.c.user_id,
)
_due = (
    select(notifications.c.id)
    .join(members, _is_member)
    .where(notifications.c.user_id == _user, _unread, notifications.c.email_batch_id.is_(None))
    .order_by(notifications.c.sequence.desc())
    .limit(bindparam("count", type_=Integer))
)
FILL_EMAIL_BATCH = Statement(
    update(notifications).where(notifications.c.id.in_(_due)).values(email_batch_id=_batch)
)
EMAIL_ITEMS = Statement(
    select(
        *_SHOWN,
        workspaces.c.display_name.label("workspace_name"),
        func.coalesce(users.c.display_name, "").label("actor_name"),
    )
    .join(members, _is_member)
    .join(workspaces, workspaces.c.id == notifications.c.workspace_id)
    .outerjoin(users, users.c.id == notifications.c.actor_id)
    .where(notifications.c.email_batch_id == _batch, _unread)
    .order_by(notifications.c.sequence)
)
FINISH_EMAIL_BATCH = Statement(
    update(email_batches)
    .where(email_batches.c.id == _batch, email_batches.c.state == "PREPARED")
    .values(
        state=bindparam("to_state", type_=Text),
        error=bindparam("why", type_=Text),
        finished_at=func.now(),
    )
)
MARK_EMAILED = Statement(
    update(notifications)
    .where(notifications.c.email_batch_id == _batch)
    .values(emailed_at=func.now())
)

# Deleting what was read long ago. Nobody else changes such a row, so it may be locked before its feed.
LOCK_READ = Statement(
    select(notifications.c.id, notifications.c.user_id)
    .where(retention.due(notifications.c.read_at))
    .order_by(notifications.c.read_at)
    .limit(bindparam("rows", type_=Integer))
    .with_for_update(skip_locked=True)
)
REMOVE = Statement(
    notifications.delete().where(notifications.c.id == any_(bindparam("ids", type_=ARRAY(Uuid))))
)
