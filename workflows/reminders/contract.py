"""DeadlineReminder: workflow ids, types of its messages, timeouts and pauses between retries."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

# Temporal's clock can be ahead of the database's. A reminder that came too early is repeated after this pause.
REMINDER_EARLY_PAUSE: Final = timedelta(seconds=1)
# An archived project's reminders are held back. The workflow checks this often whether it is still archived.
REMINDER_ARCHIVED_PAUSE: Final = timedelta(hours=1)
# Longer sleeps are split into timers of this length: a deadline in the year 9999 would overflow the server's timer.
REMINDER_LONGEST_SLEEP: Final = timedelta(days=30)


def reminder_id(task_id: str) -> str:
    return f"reminder/{task_id}"


@dataclass(frozen=True)
class TaskDeadline:
    """A task that may have a deadline; the workflow reads the deadline from the Task service."""

    task_id: str


@dataclass(frozen=True)
class Reminder:
    """One reminder, `offset_seconds` before the deadline; 0 is at the deadline."""

    task_id: str
    due_time: datetime
    offset_seconds: int
    remind_time: datetime


class ReminderOutcome(StrEnum):
    SENT = "SENT"
    SKIPPED_PAST = "SKIPPED_PAST"
    MOVED = "MOVED"
    FINISHED = "FINISHED"
    DELETED = "DELETED"
    EARLY = "EARLY"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True)
class EmittedReminder:
    outcome: ReminderOutcome
    # The reminder after this one; None when there is none. For ARCHIVED, the first one whose time has yet to come.
    next: Reminder | None = None
