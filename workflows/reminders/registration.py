"""The reminders feature, for registry.py."""

from typing import Final

from taskflow.event.v1.event_pb2 import (
    TaskCreated,
    TaskDeleted,
    TaskUndeleted,
    TaskUpdated,
)
from workflows.feature import Feature
from workflows.reminders import starts
from workflows.reminders.activities import ReminderActivities
from workflows.reminders.workflow import DeadlineReminder

FEATURE: Final = Feature(
    definition=DeadlineReminder,
    build_activities=lambda settings, stubs: ReminderActivities(stubs.reminders).by_queue(),
    starts={
        TaskCreated: starts.on_task_changed,
        TaskUpdated: starts.on_task_updated,
        TaskDeleted: starts.on_task_changed,
        TaskUndeleted: starts.on_task_changed,
    },
)
