"""Events about reminders."""

from collections.abc import Iterable
from uuid import UUID

from services.task.tasks import messages
from services.task.tasks.queries import TaskRow
from taskflow.event.v1.event_pb2 import Event, ReminderDue


def reminder_due(task: TaskRow, offset: int, substitutes: Iterable[UUID]) -> Event:
    """`substitutes` are reminded instead of assignee and creator."""
    return Event(
        type="task.reminder_due",
        workspace_id=str(task.workspace_id),
        aggregate_id=str(task.id),
        # The task's current revision, because a reminder doesn't change the task.
        revision=task.revision,
        task_reminder_due=ReminderDue(
            task=messages.task(task),
            offset_seconds=offset,
            substitute_ids=map(str, substitutes),
        ),
    )
