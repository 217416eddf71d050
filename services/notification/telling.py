"""Who is told of an event, and in which words."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from services.platform import event_types
from services.platform.bus import PoisonEvent
from taskflow.event.v1.event_pb2 import Event, ReminderDue, TaskCreated, TaskUpdated
from taskflow.notification.v1 import notification_pb2 as kinds
from taskflow.notification.v1.notification_pb2 import NotificationKind
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.task_pb2 import Task

# What `tell` has something to say about.
SUBJECTS = event_types.subjects(TaskCreated, TaskUpdated, ReminderDue)

_STATUS_WORDS = {
    # Tasks start there, so one that changes to it has been somewhere else.
    task_pb2.TASK_STATUS_TODO: "is to do again",
    task_pb2.TASK_STATUS_IN_PROGRESS: "is now in progress",
    task_pb2.TASK_STATUS_DONE: "is now done",
    task_pb2.TASK_STATUS_CANCELED: "was canceled",
}
# A reminder that comes later than this (seconds) says how much time is really left.
_PUNCTUAL = 60
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Telling:
    """What one user is to be told of one event, if they're a member of the workspace."""

    event_id: UUID
    workspace_id: UUID
    user_id: UUID
    kind: NotificationKind.ValueType
    task_id: UUID
    task_key: str
    task_title: str
    headline: str
    # None for the system.
    actor_id: UUID | None


def tell(event: Event) -> list[Telling]:
    """At most one for each user, and none for whoever did it. Raises PoisonEvent when the event makes no sense."""
    facts = event.WhichOneof("facts")
    if facts is None:
        raise PoisonEvent("the event holds no facts that are known here")
    task: Task | None = getattr(getattr(event, facts), "task", None)
    if task is None:
        return []
    tellings: dict[str, Telling] = {}
    try:
        for user_id, kind, words in _told(event, facts):
            if user_id and user_id != event.actor_id and user_id not in tellings:
                tellings[user_id] = Telling(
                    event_id=UUID(event.id),
                    workspace_id=UUID(event.workspace_id),
                    user_id=UUID(user_id),
                    kind=kind,
                    task_id=UUID(task.id),
                    task_key=task.key,
                    task_title=task.title,
                    headline=f"{task.key} {words}",
                    actor_id=UUID(event.actor_id) if event.actor_id else None,
                )
    except ValueError:
        raise PoisonEvent("the event holds an id that isn't a UUID") from None
    return list(tellings.values())


def _told(event: Event, facts: str) -> Iterator[tuple[str, NotificationKind.ValueType, str]]:
    """Users, why, and the words; what matters most to a user comes first."""
    match facts:
        case "task_created":
            assignee_id = event.task_created.task.assignee_id
            yield assignee_id, kinds.NOTIFICATION_KIND_ASSIGNED, "was assigned to you"
        case "task_updated":
            yield from _updated(event.task_updated)
        case "task_reminder_due":
            yield from _reminded(event, event.task_reminder_due)


def _updated(update: TaskUpdated) -> Iterator[tuple[str, NotificationKind.ValueType, str]]:
    task, changed = update.task, set(update.changed_fields.paths)
    if "assignee_id" in changed:
        yield task.assignee_id, kinds.NOTIFICATION_KIND_ASSIGNED, "was assigned to you"
    if "status" in changed:
        words = _STATUS_WORDS.get(task.status, "changed its status")
        for user_id in (task.assignee_id, task.creator_id):
            yield user_id, kinds.NOTIFICATION_KIND_STATUS_CHANGED, words


def _reminded(
    event: Event, reminder: ReminderDue
) -> Iterator[tuple[str, NotificationKind.ValueType, str]]:
    task = reminder.task
    if reminder.offset_seconds > 0:
        kind = kinds.NOTIFICATION_KIND_DEADLINE_APPROACHING
        words = f"is due in {_time_left(event, reminder)}"
    else:
        kind, words = kinds.NOTIFICATION_KIND_OVERDUE, "is overdue"
    for user_id in (task.assignee_id, task.creator_id):
        yield user_id, kind, words


def _time_left(event: Event, reminder: ReminderDue) -> str:
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
