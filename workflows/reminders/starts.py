"""Events that start or signal DeadlineReminder."""

from typing import Final

from services.platform.config import Settings
from taskflow.event.v1.event_pb2 import (
    TaskCreated,
    TaskDeleted,
    TaskUndeleted,
    TaskUpdated,
)
from taskflow.task.v1.task_pb2 import Task
from workflows.feature import Start
from workflows.reminders.contract import TaskDeadline, reminder_id
from workflows.reminders.workflow import DeadlineReminder

# Fields that change when reminders are sent, or whether they are.
_TIMING: Final = frozenset({"due", "due_time", "assignee_id", "status"})


def on_task_changed(facts: TaskCreated | TaskDeleted | TaskUndeleted, _: Settings) -> list[Start]:
    return [_look_again(facts.task)] if facts.task.HasField("due_time") else []


def on_task_updated(facts: TaskUpdated, _: Settings) -> list[Start]:
    """A task without a deadline before and after the update needs no signal: it has no reminder workflow."""
    if facts.plan_reminders:
        return [_plan_again(facts.task)]
    had_deadline = facts.before.HasField("due_time")
    changed = frozenset(facts.changed_fields.paths)
    timed = facts.task.HasField("due_time") or had_deadline or "due" in changed
    return [_look_again(facts.task)] if timed and (changed & _TIMING or had_deadline) else []


def _plan_again(task: Task) -> Start:
    """A new run, because the task's revision hasn't changed: a running one would ignore the signal."""
    return Start(
        DeadlineReminder.run, TaskDeadline(task.id), reminder_id(task.id), replace_running=True
    )


def _look_again(task: Task) -> Start:
    return Start(
        DeadlineReminder.run,
        TaskDeadline(task.id),
        reminder_id(task.id),
        signal="changed",
        signal_argument=task.revision,
    )
