"""Notifications without the task service: users in a workspace, hand-made task events, and stream clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask
from uuid_utils.compat import uuid7

from deploy.local.ports import free_ports
from services.platform.config import Settings
from services.platform.data.db import Database
from services.platform.events.bus import Bus
from services.platform.events.outbox import add_events
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.event.v1.event_pb2 import Event, ReminderDue, TaskCreated, TaskUpdated
from taskflow.notification.v1.notification_pb2 import Notification, NotificationChange
from taskflow.notification.v1.notification_service_pb2 import (
    ListNotificationsRequest,
    ListNotificationsResponse,
    MarkAllReadRequest,
    MarkReadRequest,
    WatchNotificationsRequest,
    WatchNotificationsResponse,
)
from taskflow.notification.v1.notification_service_pb2_grpc import NotificationServiceStub
from taskflow.task.v1.task_pb2 import Task
from tests.conftest import serving
from tests.integration.people import Person, Team, database, team_at

# Time limit (seconds) of every wait: far more than any wait takes, even on a busy machine.
PATIENCE = 20.0


def other_ports(settings: Settings, *services: str) -> Settings:
    """Settings with free ports, for more services on the same servers."""
    names = [
        f"{service}_{kind}"
        for service in services
        for kind in ("port", "http_port")
        if f"{service}_{kind}" in Settings.model_fields
    ]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    unset = {f"{service}_address": None for service in services if service != "relay"}
    return Settings(**(settings.model_dump() | ports | unset))


@dataclass
class NotificationWorld:
    """One workspace, with the auth and notification services and the relay in this process."""

    settings: Settings
    db: Database
    bus: Bus
    team: Team
    stub: NotificationServiceStub
    owner: Person
    workspace_id: str
    numbers: int = 0

    async def member(self, name: str) -> Person:
        person = await self.team.person(name)
        role = Role.ROLE_MEMBER
        await self.team.add(self.owner, self.workspace_id, person.email, role)
        return person

    def task(self, **fields: Any) -> Task:
        self.numbers += 1
        given: dict[str, Any] = {
            "id": str(uuid7()),
            "workspace_id": self.workspace_id,
            "key": f"OPS-{self.numbers}",
            "title": "Renew the certificate",
            "creator_id": self.owner.id,
            "revision": 1,
        }
        return Task(**(given | fields))

    async def emit(self, *events: Event) -> None:
        """Commit events to the outbox as the task service does."""
        async with self.db.transaction() as tx:
            await add_events(tx, events)
        self.bus.wake_relay()

    def created(self, task: Task, actor: Person | None = None) -> Event:
        actor_id = (actor or self.owner).id
        return self._event(task, "created", actor_id, task_created=TaskCreated(task=task))

    def updated(self, task: Task, *changed: str, actor: Person | None = None) -> Event:
        facts = TaskUpdated(task=task, changed_fields=FieldMask(paths=changed))
        return self._event(task, "updated", (actor or self.owner).id, task_updated=facts)

    def reminder(self, task: Task, offset_seconds: int) -> Event:
        facts = ReminderDue(task=task, offset_seconds=offset_seconds)
        return self._event(task, "reminder_due", "", task_reminder_due=facts)

    def _event(self, task: Task, what: str, actor_id: str, **facts: Any) -> Event:
        return Event(
            type=f"task.{what}",
            workspace_id=task.workspace_id,
            aggregate_id=task.id,
            revision=task.revision,
            actor_id=actor_id,
            **facts,
        )

    async def assign(self, *people: Person) -> None:
        """Emit the creation of a task for each person, assigned by the owner."""
        await self.emit(*(self.created(self.task(assignee_id=person.id)) for person in people))

    async def page(self, person: Person, **request: Any) -> ListNotificationsResponse:
        answer: ListNotificationsResponse = await self.stub.ListNotifications(
            ListNotificationsRequest(**request), metadata=person.credentials
        )
        return answer

    async def listed(self, person: Person) -> list[Notification]:
        """All notifications of the person, newest first."""
        found: list[Notification] = []
        token = ""
        while True:
            answer = await self.page(person, page_token=token, page_size=1000)
            found.extend(answer.notifications)
            token = answer.next_page_token
            if not token:
                return found

    async def wait_for_notifications(self, person: Person, count: int) -> list[Notification]:
        """Waits until the person's list has `count` notifications; returns the list."""

        async def enough() -> bool:
            return len(await self.listed(person)) >= count

        await eventually(enough)
        return await self.listed(person)

    async def mark_read(self, person: Person, *ids: str) -> int:
        request = MarkReadRequest(ids=ids)
        answer = await self.stub.MarkRead(request, metadata=person.credentials)
        return int(answer.marked_count)

    async def mark_all_read(self, person: Person, up_to_sequence: int = 0) -> int:
        request = MarkAllReadRequest(up_to_sequence=up_to_sequence)
        answer = await self.stub.MarkAllRead(request, metadata=person.credentials)
        return int(answer.marked_count)

    def watch(self, person: Person, cursor: str = "") -> Any:
        return self.stub.WatchNotifications(
            WatchNotificationsRequest(cursor=cursor), metadata=person.credentials
        )


@asynccontextmanager
async def a_notification_world(
    settings: Settings, *, notification: bool = True
) -> AsyncIterator[NotificationWorld]:
    here = other_ports(settings, "auth", "notification", "relay")
    async with AsyncExitStack() as running:
        for name in ("auth", "relay", *(("notification",) if notification else ())):
            await running.enter_async_context(serving(name, here))
        team = await running.enter_async_context(team_at(here))
        channel = await running.enter_async_context(grpc.aio.insecure_channel(here.notification))
        db = await running.enter_async_context(database(here))
        bus = Bus(here, name="test")
        await bus.connect()
        running.push_async_callback(bus.close)
        owner = await team.person("olga")
        workspace = await team.workspace(owner)
        yield NotificationWorld(
            here, db, bus, team, NotificationServiceStub(channel), owner, workspace.id
        )


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.02)


async def next_message(call: Any) -> WatchNotificationsResponse:
    async with asyncio.timeout(PATIENCE):
        message: WatchNotificationsResponse = await call.read()
    assert isinstance(message, WatchNotificationsResponse), "the stream ended"
    return message


async def next_change(call: Any) -> WatchNotificationsResponse:
    """The next message that isn't a heartbeat."""
    while True:
        message = await next_message(call)
        if message.WhichOneof("kind") != "heartbeat":
            return message


@dataclass
class Device:
    """A client that learns of notifications only from its streams."""

    cursor: str
    notifications: dict[str, Notification] = field(default_factory=dict)
    # The last sequence applied; None after a reset, until the next change.
    sequence: int | None = 0

    def apply(self, message: WatchNotificationsResponse) -> None:
        self.cursor = message.cursor
        match message.WhichOneof("kind"):
            case "reset":
                self.sequence = None
            case "change":
                self._change(message.change)

    def _change(self, change: NotificationChange) -> None:
        before = change.sequence - 1 if self.sequence is None else self.sequence
        assert change.sequence <= before + 1, "a change was left out"
        self.sequence = max(before, change.sequence)
        match change.WhichOneof("kind"):
            case "created":
                self.notifications.setdefault(change.created.id, change.created)
            case "read":
                for id in change.read.ids:
                    # The notification is missing if a repeated change is about one that was deleted since.
                    if id in self.notifications:
                        self._read(self.notifications[id], change.read.read_time)
            case "all_read":
                for known in self.notifications.values():
                    if known.sequence <= change.all_read.up_to_sequence:
                        self._read(known, change.all_read.read_time)
            case "removed":
                for id in change.removed.ids:
                    self.notifications.pop(id, None)

    @staticmethod
    def _read(notification: Notification, read_time: Any) -> None:
        if not notification.HasField("read_time"):
            notification.read_time.CopyFrom(read_time)

    def shown(self) -> list[Notification]:
        """The notifications in the order of ListNotifications."""
        return sorted(self.notifications.values(), key=lambda known: known.sequence, reverse=True)
