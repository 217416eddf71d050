"""Events about reminders."""

from services.task.tasks import messages
from services.task.tasks.queries import TaskRow
from taskflow.event.v1.event_pb2 import Event, ReminderDue


def reminder_due(task: TaskRow, offset: int) -> Event:
    return Event(
        type="task.reminder_due",
        workspace_id=str(task.workspace_id),
        aggregate_id=str(task.id),
        # The task's current revision, because a reminder doesn't change the task.
        revision=task.revision,
        task_reminder_due=ReminderDue(task=messages.task(task), offset_seconds=offset),
    )
