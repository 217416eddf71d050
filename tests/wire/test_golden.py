"""Golden bytes: the contents of outboxes, streams and stored answers must stay readable.

A failure means that a field changed its number or type, or that an event lost a field. After an intended change,
`pytest tests/wire --regenerate` rewrites the files. Read the diff before committing it.
"""

from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.platform.rpc import errors
from taskflow.auth.v1 import workspace_pb2
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1 import event_pb2
from taskflow.notification.v1 import notification_pb2, notification_service_pb2
from taskflow.task.v1 import job_pb2, suggestion_pb2, task_pb2, task_service_pb2

GOLDEN = Path(__file__).parent / "golden"
_ID = "0198c0de-0000-7000-8000-00000000000{}"


def _at(seconds: int) -> Timestamp:
    return Timestamp(seconds=1_790_000_000 + seconds, nanos=5_000_000)


def _task() -> task_pb2.Task:
    task = task_pb2.Task(
        id=_ID.format(1),
        workspace_id=_ID.format(2),
        project_id=_ID.format(3),
        key="OPS-12",
        title="Replace the pump – quickly",
        description="It leaks.\nSince Monday.",
        status=task_pb2.TASK_STATUS_DONE,
        priority=task_pb2.TASK_PRIORITY_HIGH,
        assignee_id=_ID.format(4),
        creator_id=_ID.format(5),
        labels=["cellar", "water"],
        due_time=_at(86400),
        parent_id=_ID.format(6),
        create_time=_at(0),
        update_time=_at(1),
        finish_time=_at(2),
        delete_time=_at(3),
        revision=7,
        text_revision=2,
        etag="7a",
    )
    task.due.date_time.year = 2026
    task.due.date_time.month = 9
    task.due.date_time.day = 22
    task.due.date_time.hours = 9
    task.due.date_time.time_zone.id = "Europe/Berlin"
    task.payload.update({"message": "hello"})
    return task


def _event(type_: str, **facts: Message) -> event_pb2.Event:
    return event_pb2.Event(
        id=_ID.format(9),
        type=type_,
        workspace_id=_ID.format(2),
        aggregate_id=_ID.format(1),
        revision=7,
        actor_id=_ID.format(5),
        occur_time=_at(1),
        trace_parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        **facts,  # type: ignore[arg-type]
    )


def _messages() -> dict[str, Message]:
    updated = event_pb2.TaskUpdated(task=_task(), before=task_pb2.Task(title="Replace the pump"))
    updated.changed_fields.paths.append("title")
    suggestion = suggestion_pb2.Suggestion(
        id=_ID.format(7),
        task_id=_ID.format(1),
        workspace_id=_ID.format(2),
        kind=suggestion_pb2.SUGGESTION_KIND_PRIORITY,
        priority=task_pb2.TASK_PRIORITY_HIGH,
        reason='says "quickly"',
        confidence=0.75,
        model="heuristic",
        prompt_version="1",
        base_text_revision=2,
        state=suggestion_pb2.SUGGESTION_STATE_PENDING,
        create_time=_at(4),
    )
    job = job_pb2.Job(
        id=_ID.format(8),
        workspace_id=_ID.format(2),
        task_id=_ID.format(1),
        kind=job_pb2.JOB_KIND_PAYLOAD,
        state=job_pb2.JOB_STATE_FAILED,
        attempt=3,
        error="the payload has no message",
        create_time=_at(0),
        start_time=_at(1),
        finish_time=_at(2),
        revision=6,
    )
    notification = notification_pb2.Notification(
        id=_ID.format(7),
        sequence=41,
        kind=notification_pb2.NOTIFICATION_KIND_ASSIGNED,
        workspace_id=_ID.format(2),
        task_id=_ID.format(1),
        task_key="OPS-12",
        task_title="Replace the pump",
        headline="OPS-12 was assigned to you",
        actor_id=_ID.format(5),
        create_time=_at(1),
    )
    return {
        "event_task_created": _event(
            "task.created", task_created=event_pb2.TaskCreated(task=_task())
        ),
        "event_task_updated": _event("task.updated", task_updated=updated),
        "event_task_deleted": _event(
            "task.deleted", task_deleted=event_pb2.TaskDeleted(task=_task())
        ),
        "event_reminder_due": _event(
            "task.reminder_due",
            task_reminder_due=event_pb2.ReminderDue(task=_task(), offset_seconds=3600),
        ),
        "event_job_updated": _event("job.updated", job_changed=event_pb2.JobChanged(job=job)),
        "event_suggestion_created": _event(
            "suggestion.created",
            suggestion_changed=event_pb2.SuggestionChanged(suggestion=suggestion),
        ),
        "event_member_added": _event(
            "member.added",
            member_added=event_pb2.MemberAdded(
                user_id=_ID.format(4), role=workspace_pb2.ROLE_MEMBER
            ),
        ),
        "event_notification_created": _event(
            "notification.created",
            notification_created=event_pb2.NotificationCreated(
                notification_id=_ID.format(7), user_id=_ID.format(4)
            ),
        ),
        "stored_notification_change": notification_pb2.NotificationChange(
            sequence=41, created=notification
        ),
        "response_watch_notifications": notification_service_pb2.WatchNotificationsResponse(
            cursor="c",
            change=notification_pb2.NotificationChange(sequence=41, created=notification),
        ),
        "response_watch_tasks": task_service_pb2.WatchTasksResponse(
            cursor="c",
            change=task_service_pb2.TaskChange(
                kind=task_service_pb2.TASK_CHANGE_KIND_UPDATED, task=_task(), change_time=_at(1)
            ),
        ),
        "stored_answer_create_task": task_service_pb2.CreateTaskResponse(task=_task()),
        "status_not_found": errors.not_found("task", _ID.format(1)).status(),
        "status_etag_mismatch": errors.DomainError(
            reasons.ERROR_REASON_ETAG_MISMATCH, {"etag": "7a"}
        ).status(),
        "status_overloaded": errors.DomainError(reasons.ERROR_REASON_OVERLOADED).status(),
        "status_invalid": errors.invalid("task.title", "must not be blank").status(),
    }


@pytest.mark.parametrize("name", sorted(_messages()))
def test_stored_and_sent_bytes_stay_readable(name: str, request: pytest.FixtureRequest) -> None:
    message = _messages()[name]
    file = GOLDEN / f"{name}.binpb"
    if request.config.getoption("--regenerate"):
        file.write_bytes(message.SerializeToString(deterministic=True))
        # The text form is for people who read the diff.
        file.with_suffix(".txtpb").write_text(text_format.MessageToString(message))
    assert type(message).FromString(file.read_bytes()) == message
    assert message.SerializeToString(deterministic=True) == file.read_bytes()
