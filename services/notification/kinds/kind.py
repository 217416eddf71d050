"""What a kind of notification declares: which events cause it, who gets it, what it says, and where it is sent."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from google.protobuf.message import Message

from taskflow.event.v1.event_pb2 import Event
from taskflow.notification.v1.notification_pb2 import NotificationKind
from taskflow.task.v1.task_pb2 import Task


class Channel(Enum):
    """Where a notification is sent besides the inbox."""

    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class TaskSubject:
    task_id: UUID
    key: str
    title: str


# What a notification is about. A kind about something else adds its own class to this union.
Subject = TaskSubject


@dataclass(frozen=True)
class Kind:
    """One kind of notification; registry.py lists all kinds."""

    number: NotificationKind.ValueType
    # Facts of the events that cause it. The functions below are called for such events only.
    facts: tuple[type[Message], ...]
    # User ids. May hold empty ids, repeated ones, and the actor's: the registry leaves these out.
    recipients: Callable[[Event], Iterable[str]]
    subject: Callable[[Event], Subject]
    headline: Callable[[Event], str]
    # Channels that a user gets it on by default.
    channels: frozenset[Channel] = frozenset({Channel.EMAIL})


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification to be written, unless the user isn't a member of the workspace."""

    event_id: UUID
    workspace_id: UUID
    user_id: UUID
    kind: NotificationKind.ValueType
    subject: Subject
    headline: str
    # None for the system.
    actor_id: UUID | None


def task_of(event: Event) -> Task:
    """The task in the facts of a task's event."""
    task: Task = getattr(event, event.WhichOneof("facts") or "").task
    return task


def task_subject(event: Event) -> TaskSubject:
    """Raises ValueError for an id that isn't a UUID."""
    task = task_of(event)
    return TaskSubject(UUID(task.id), task.key, task.title)


def assignee_and_creator(event: Event) -> tuple[str, str]:
    task = task_of(event)
    return task.assignee_id, task.creator_id


def changed(event: Event, field: str) -> bool:
    """Whether a task.updated event says that the field changed."""
    return field in event.task_updated.changed_fields.paths
