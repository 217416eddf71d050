"""The declaration of a kind of notification: its events, recipients, subject, headline and channels."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    """The event's task as the subject of a notification. Raises ValueError if the task's id isn't a UUID."""
    task = task_of(event)
    return TaskSubject(UUID(task.id), task.key, task.title)


def assignee_and_creator(event: Event) -> tuple[str, str]:
    task = task_of(event)
    return task.assignee_id, task.creator_id


def changed(event: Event, field: str) -> bool:
    """Whether a task.updated event says that the field changed."""
    return field in event.task_updated.changed_fields.paths
