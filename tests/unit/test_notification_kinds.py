"""Recipients and wording of the notifications of an event."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from uuid_utils.compat import uuid7

from services.notification.kinds.registry import KINDS, notices
from services.platform.events.consumer import PoisonEvent
from taskflow.event.v1.event_pb2 import (
    Event,
    ReminderDue,
    TaskCreated,
    TaskDeleted,
    TaskUpdated,
)
from taskflow.notification.v1 import notification_pb2 as kinds
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.task_pb2 import Task

CREATOR, ASSIGNEE, ACTOR = (str(uuid7()) for _ in range(3))
NOON = 1_800_000_000


def task(**fields: Any) -> Task:
    given: dict[str, Any] = {
        "id": str(uuid7()),
        "key": "OPS-12",
        "title": "Pay",
        "creator_id": CREATOR,
    }
    return Task(**(given | {"assignee_id": ASSIGNEE} | fields))


def event(actor_id: str = ACTOR, **facts: Any) -> Event:
    return Event(
        id=str(uuid7()),
        workspace_id=str(uuid7()),
        actor_id=actor_id,
        occur_time=Timestamp(seconds=NOON),
        **facts,
    )


def updated(*fields: str, actor_id: str = ACTOR, **of_task: Any) -> Event:
    facts = TaskUpdated(task=task(**of_task), changed_fields=FieldMask(paths=fields))
    return event(actor_id, task_updated=facts)


def reminded(offset_seconds: int, **of_task: Any) -> Event:
    return event(
        "", task_reminder_due=ReminderDue(task=task(**of_task), offset_seconds=offset_seconds)
    )


def told(of: Event) -> dict[str, tuple[int, str]]:
    return {str(one.user_id): (one.kind, one.headline) for one in notices(of)}


def test_an_assignee_is_notified_of_the_assignment() -> None:
    assigned = (kinds.NOTIFICATION_KIND_ASSIGNED, "OPS-12 was assigned to you")
    assert told(event(task_created=TaskCreated(task=task()))) == {ASSIGNEE: assigned}
    assert told(updated("assignee_id")) == {ASSIGNEE: assigned}


def test_users_are_not_notified_of_their_own_actions() -> None:
    assert told(event(ASSIGNEE, task_created=TaskCreated(task=task()))) == {}
    assert set(told(updated("status", actor_id=CREATOR))) == {ASSIGNEE}


def test_an_unassignment_notifies_nobody() -> None:
    assert told(updated("assignee_id", assignee_id="")) == {}


@pytest.mark.parametrize(
    ("status", "headline"),
    [
        (task_pb2.TASK_STATUS_TODO, "OPS-12 is to do again"),
        (task_pb2.TASK_STATUS_IN_PROGRESS, "OPS-12 is now in progress"),
        (task_pb2.TASK_STATUS_DONE, "OPS-12 is now done"),
        (task_pb2.TASK_STATUS_CANCELED, "OPS-12 was canceled"),
    ],
)
def test_creator_and_assignee_are_notified_of_a_status_change(
    status: task_pb2.TaskStatus.ValueType, headline: str
) -> None:
    changed = (kinds.NOTIFICATION_KIND_STATUS_CHANGED, headline)
    assert told(updated("status", status=status)) == {CREATOR: changed, ASSIGNEE: changed}


def test_a_user_gets_one_notification_per_event_and_assignment_takes_precedence() -> None:
    both = told(updated("status", "assignee_id", status=task_pb2.TASK_STATUS_DONE))
    assert both[ASSIGNEE][0] == kinds.NOTIFICATION_KIND_ASSIGNED
    assert both[CREATOR][0] == kinds.NOTIFICATION_KIND_STATUS_CHANGED
    alone = updated("status", assignee_id=CREATOR, status=task_pb2.TASK_STATUS_DONE)
    assert len(notices(alone)) == 1


def test_other_changes_notify_nobody() -> None:
    assert notices(updated("title", "description", "priority", "due")) == []
    assert notices(event(task_deleted=TaskDeleted(task=task()))) == []


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (172800, "is due in 2 days"),
        (86400, "is due in 24 hours"),
        (3600, "is due in 1 hour"),
        (5400, "is due in 90 minutes"),
        (60, "is due in 1 minute"),
        (5, "is due in 5 seconds"),
    ],
)
def test_creator_and_assignee_are_reminded_with_the_right_wording(offset: int, words: str) -> None:
    near = (kinds.NOTIFICATION_KIND_DEADLINE_APPROACHING, f"OPS-12 {words}")
    on_time = reminded(offset, due_time=Timestamp(seconds=NOON + offset))
    assert told(on_time) == {CREATOR: near, ASSIGNEE: near}


def test_a_reminder_at_the_deadline_says_overdue() -> None:
    late = (kinds.NOTIFICATION_KIND_OVERDUE, "OPS-12 is overdue")
    assert told(reminded(0)) == {CREATOR: late, ASSIGNEE: late}


@pytest.mark.parametrize(
    ("left", "words"),
    [(20 * 3600, "about 20 hours"), (5000, "about 83 minutes"), (20, "about 1 minute")],
)
def test_a_late_reminder_says_how_much_time_is_left(left: int, words: str) -> None:
    late = reminded(86400, due_time=Timestamp(seconds=NOON + left))
    assert told(late)[ASSIGNEE][1] == f"OPS-12 is due in {words}"


# A day's reminder has the offset 2 d on the day before, 1 d on the day, and 0 on the morning after it.
@pytest.mark.parametrize(
    ("offset", "left", "words"),
    [
        (172800, 39 * 3600, "is due tomorrow"),
        # Late: it's the day itself, or days before it in another zone.
        (172800, 23 * 3600, "is due today"),
        (86400, 15 * 3600, "is due today"),
        (172800, 50 * 3600, "is due on 2027-01-16"),
        (0, -9 * 3600, "is overdue"),
    ],
)
def test_the_reminder_of_a_day_names_the_day(offset: int, left: int, words: str) -> None:
    day = task_pb2.Due(date=Date(year=2027, month=1, day=16))
    event = reminded(offset, due=day, due_time=Timestamp(seconds=NOON + left))
    assert told(event)[ASSIGNEE][1] == f"OPS-12 {words}"


def test_substitutes_are_reminded_instead_and_are_told_why() -> None:
    substitute = str(uuid7())
    why = "; you are reminded because its assignee and creator have left"
    for offset, words in ((3600, "is due in 1 hour"), (0, "is overdue")):
        event = reminded(offset, due_time=Timestamp(seconds=NOON + offset))
        event.task_reminder_due.substitute_ids.append(substitute)
        assert set(told(event)) == {substitute}
        assert told(event)[substitute][1] == f"OPS-12 {words}{why}"


def test_invalid_events_are_poison() -> None:
    with pytest.raises(PoisonEvent):
        notices(event())
    with pytest.raises(PoisonEvent):
        notices(event(task_created=TaskCreated(task=task(assignee_id="bob"))))


def test_every_kind_of_the_api_is_defined_once() -> None:
    numbers = set(kinds.NotificationKind.values()) - {kinds.NOTIFICATION_KIND_UNSPECIFIED}
    assert sorted(kind.number for kind in KINDS) == sorted(numbers)
