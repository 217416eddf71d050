"""Statements that turn a batch of events into notifications."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    Integer,
    LargeBinary,
    Text,
    Uuid,
    and_,
    bindparam,
    exists,
    func,
    not_,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from services.notification.inbox.models import notifications
from services.notification.stream.models import changes, feeds
from services.notification.stream.queries import epoch, now
from services.platform.data.db import Statement
from services.platform.data.input_rows import input_rows
from services.platform.data.tables import consumed_events, outbox
from services.platform.rpc.directory import members


class Claim(NamedTuple):
    """A notification to write: the number of its input row, its sequence in the user's feed, and the current time."""

    n: int
    sequence: int
    now: datetime
    epoch: UUID


# `n` numbers the input rows. CLAIM locks events and users in a fixed order, so that two processes don't deadlock.
_candidates = input_rows(
    {"n": Integer(), "event_id": Uuid(), "workspace_id": Uuid(), "user_id": Uuid()}
)
_claimed = (
    insert(consumed_events)
    .from_select(
        ["consumer", "event_id"],
        select(bindparam("consumer", type_=Text), _candidates.c.event_id)
        .distinct()
        .order_by(_candidates.c.event_id),
    )
    .on_conflict_do_nothing()
    .returning(consumed_events.c.event_id)
    .cte("claimed")
)
# Input rows whose event is new to this consumer, and whose user is currently a member of the workspace.
_recipients = (
    select(_candidates.c.n, _candidates.c.user_id)
    .join(_claimed, _claimed.c.event_id == _candidates.c.event_id)
    .join(
        members,
        and_(
            members.c.workspace_id == _candidates.c.workspace_id,
            members.c.user_id == _candidates.c.user_id,
        ),
    )
    .where(
        not_(
            exists().where(
                notifications.c.event_id == _candidates.c.event_id,
                notifications.c.user_id == _candidates.c.user_id,
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
    .returning(feeds.c.user_id, feeds.c.last_sequence, now.label("now"))
    .cte("moved")
)
# Claims the events, locks the feeds of the recipients, and takes a sequence for each notification.
CLAIM = Statement(
    select(
        _recipients.c.n,
        (
            _moved.c.last_sequence
            - _counts.c.count
            + func.row_number().over(partition_by=_recipients.c.user_id, order_by=_recipients.c.n)
        ).label("sequence"),
        _moved.c.now,
        epoch.label("epoch"),
    )
    .join(_counts, _counts.c.user_id == _recipients.c.user_id)
    .join(_moved, _moved.c.user_id == _recipients.c.user_id)
    .order_by(_recipients.c.n),
    row=Claim,
)

_NOTIFICATION = (
    *("id", "user_id", "event_id", "sequence", "kind", "workspace_id"),
    *("task_id", "task_key", "task_title", "headline", "actor_id", "created_at"),
    *("due_at", "due_date"),
)
_EVENT = ("event_id", "subject", "payload")
_new = input_rows(
    {
        **{name: notifications.c[name].type for name in _NOTIFICATION},
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
# Writes notifications, each with the change of the user's feed and an event.
ADD_NOTIFICATIONS = Statement(
    insert(notifications)
    .from_select(list(_NOTIFICATION), select(*(_new.c[name] for name in _NOTIFICATION)))
    .add_cte(_added_changes.cte("changes"), _added_events.cte("events"))
)
