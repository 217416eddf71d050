"""The kinds of notifications for a task's deadline that approaches, or has passed."""

from collections.abc import Iterable

from services.notification.kinds.kind import Kind, assignee_and_creator, task_of, task_subject
from taskflow.event.v1.event_pb2 import Event, ReminderDue
from taskflow.notification.v1 import notification_pb2

# A reminder that is later than this (seconds) states the time that is really left, not its planned offset.
_PUNCTUAL = 60
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def _before_deadline(event: Event) -> Iterable[str]:
    return _reminded(event) if event.task_reminder_due.offset_seconds > 0 else []


def _at_deadline(event: Event) -> Iterable[str]:
    return _reminded(event) if event.task_reminder_due.offset_seconds <= 0 else []


def _reminded(event: Event) -> Iterable[str]:
    return event.task_reminder_due.substitute_ids or assignee_and_creator(event)


def _approaching(event: Event) -> str:
    by_day = event.task_reminder_due.task.due.HasField("date")
    when = _day(event) if by_day else f"in {_time_left(event)}"
    return f"{task_of(event).key} is due {when}{_why_substitutes(event)}"


def _overdue(event: Event) -> str:
    return f"{task_of(event).key} is overdue{_why_substitutes(event)}"


def _why_substitutes(event: Event) -> str:
    if not event.task_reminder_due.substitute_ids:
        return ""
    return "; you are reminded because its assignee and creator have left"


def _day(event: Event) -> str:
    """How the deadline's day was called in its time zone when the event occurred: the event can be processed later."""
    reminder = event.task_reminder_due
    left = reminder.task.due_time.seconds - event.occur_time.seconds
    if left < 2 * _DAY:
        return "today" if left < _DAY else "tomorrow"
    day = reminder.task.due.date
    return f"on {day.year:04}-{day.month:02}-{day.day:02}"


def _time_left(event: Event) -> str:
    reminder = event.task_reminder_due
    offset = reminder.offset_seconds
    if reminder.task.HasField("due_time"):
        left = reminder.task.due_time.seconds - event.occur_time.seconds
        if 0 < left < offset - _PUNCTUAL:
            return f"about {_rounded(left)}"
    for unit, name, least in ((_DAY, "day", 2), (_HOUR, "hour", 1), (_MINUTE, "minute", 1)):
        if offset % unit == 0 and offset >= least * unit:
            return _count(offset // unit, name)
    return _count(offset, "second")


def _rounded(seconds: int) -> str:
    for unit, name in ((_DAY, "day"), (_HOUR, "hour")):
        if seconds >= 2 * unit:
            return _count(round(seconds / unit), name)
    return _count(max(1, round(seconds / _MINUTE)), "minute")


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


DEADLINE_APPROACHING = Kind(
    number=notification_pb2.NOTIFICATION_KIND_DEADLINE_APPROACHING,
    facts=(ReminderDue,),
    recipients=_before_deadline,
    subject=task_subject,
    headline=_approaching,
)
OVERDUE = Kind(
    number=notification_pb2.NOTIFICATION_KIND_OVERDUE,
    facts=(ReminderDue,),
    recipients=_at_deadline,
    subject=task_subject,
    headline=_overdue,
)
