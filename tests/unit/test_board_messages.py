"""The message that a stream sends for an event, and the state of the task before it."""

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from services.task.board.messages import before_and_after, response
from taskflow.event.v1.event_pb2 import (
    Event,
    MemberRemoved,
    ReminderDue,
    TaskCreated,
    TaskDeleted,
    TaskUndeleted,
    TaskUpdated,
)
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.task_pb2 import Task


def test_the_task_before_an_update_holds_old_values_of_changed_fields_only() -> None:
    after = Task(id="1", title="new", labels=["c"], priority=task_pb2.TASK_PRIORITY_HIGH)
    after.due_time.seconds = 20
    updated = TaskUpdated(
        task=after,
        before=Task(title="old", labels=["a", "b"]),
        changed_fields=FieldMask(paths=["title", "labels", "due_time", "assignee_id"]),
    )
    before, told = before_and_after(Event(task_updated=updated))
    assert before == Task(
        id="1", title="old", labels=["a", "b"], priority=task_pb2.TASK_PRIORITY_HIGH
    )
    assert told == after


def test_a_task_was_live_before_its_deletion_and_absent_before_its_creation() -> None:
    deleted = Task(id="1", delete_time=Timestamp(seconds=5))
    assert before_and_after(Event(task_deleted=TaskDeleted(task=deleted))) == (
        Task(id="1"),
        deleted,
    )
    live = Task(id="1")
    assert before_and_after(Event(task_created=TaskCreated(task=live))) == (None, live)
    assert before_and_after(Event(task_undeleted=TaskUndeleted(task=live))) == (None, live)


def test_events_that_do_not_change_a_task_are_not_shown() -> None:
    for event in (
        Event(member_removed=MemberRemoved(user_id="1")),
        Event(task_reminder_due=ReminderDue(task=Task(id="1"))),
        Event(),
    ):
        assert response(event, "cursor") is None
