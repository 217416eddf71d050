"""The declaration of a kind of notification: its events, recipients, subject, headline and channels."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from uuid import UUID

from google.protobuf.message import Message

from taskflow.event.v1.event_pb2 import Event
from taskflow.notification.v1.notification_pb2 import NotificationKind
from taskflow.task.v1.task_pb2 import Task


class Channel(Enum):
    """A way to send a notification besides the inbox."""

    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class TaskSubject:
    task_id: UUID
    key: str
    title: str
    # The deadline; None without one.
    due_time: datetime | None = None
    # Set when that deadline is a date.
    due_date: date | None = None


# What a notification is about. A new kind of subject adds its own class to this union.
Subject = TaskSubject


@dataclass(frozen=True)
class Kind:
    """One kind of notification; registry.py lists all kinds."""

    number: NotificationKind.ValueType
    # Facts of the events that cause this kind. The functions below get only such events.
    facts: tuple[type[Message], ...]
    # Returns user ids. The registry leaves out empty and repeated ids, and the actor's.
    recipients: Callable[[Event], Iterable[str]]
    subject: Callable[[Event], Subject]
    headline: Callable[[Event], str]
    # Channels on which users get this kind.
    channels: frozenset[Channel] = frozenset({Channel.EMAIL})


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification to write if the user is a member of the workspace."""

    event_id: UUID
    workspace_id: UUID
    user_id: UUID
    kind: NotificationKind.ValueType
    subject: Subject
    headline: str
    # None if TaskFlow itself acted.
    actor_id: UUID | None


def task_of(event: Event) -> Task:
    """The task in the facts of an event about a task."""
    task: Task = getattr(event, event.WhichOneof("facts") or "").task
    return task


def task_subject(event: Event) -> TaskSubject:
    """Raises ValueError for an id that isn't a UUID, or a deadline that isn't a day."""
    task = task_of(event)
    day = task.due.date
    return TaskSubject(
        UUID(task.id),
        task.key,
        task.title,
        due_time=task.due_time.ToDatetime(UTC) if task.HasField("due_time") else None,
        due_date=date(day.year, day.month, day.day) if task.due.HasField("date") else None,
    )


def assignee_and_creator(event: Event) -> tuple[str, str]:
    task = task_of(event)
    return task.assignee_id, task.creator_id


def changed(event: Event, field: str) -> bool:
    """Whether a task.updated event says that the field changed."""
    return field in event.task_updated.changed_fields.paths
