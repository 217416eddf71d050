"""Promises of the consumer: the right recipients, once, even if events are repeated, late or broken."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import psycopg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Text, bindparam, func, select, text
from uuid_utils.compat import uuid7

from services.notification.inbox import consumer
from services.notification.kinds.kind import Notice
from services.notification.stream.messages import Announcement
from services.platform.config import Settings
from services.platform.data.db import Statement, Transaction
from services.platform.data.tables import consumed_events
from services.platform.events import consumer as durable
from services.platform.events import outbox
from taskflow.event.v1.event_pb2 import Event
from taskflow.notification.v1 import notification_pb2 as kinds
from taskflow.task.v1 import task_pb2
from tests.conftest import serving
from tests.integration.notification_world import (
    NotificationWorld,
    a_notification_world,
    eventually,
    other_ports,
)
from tests.integration.people import Person, events

_CONSUMED = Statement(
    select(func.count().label("events"))
    .select_from(consumed_events)
    .where(consumed_events.c.event_id == bindparam("event_id"))
    .where(consumed_events.c.consumer == bindparam("consumer", type_=Text))
)
_BREAK_CONNECTIONS = Statement(
    text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = :application"
    )
)


@pytest.fixture(scope="module")
async def world(settings: Settings) -> AsyncIterator[NotificationWorld]:
    async with a_notification_world(settings) as made:
        yield made


@pytest.fixture
async def ben(world: NotificationWorld) -> Person:
    return await world.member("ben")


@pytest.fixture
async def cleo(world: NotificationWorld) -> Person:
    return await world.member("cleo")


async def kinds_of(world: NotificationWorld, person: Person, count: int) -> list[int]:
    return [one.kind for one in reversed(await world.wait_for_notifications(person, count))]


async def settle(world: NotificationWorld, *people: Person) -> None:
    """Return when all previously emitted events have been consumed."""
    before = {person.id: len(await world.listed(person)) for person in people}
    await world.assign(*people)
    for person in people:
        await world.wait_for_notifications(person, before[person.id] + 1)


async def test_creator_and_assignee_are_notified_of_status_and_deadlines(
    world: NotificationWorld, ben: Person, cleo: Person
) -> None:
    task = world.task(creator_id=ben.id, assignee_id=cleo.id)
    task.status = task_pb2.TASK_STATUS_IN_PROGRESS
    # Emit one event after the other: concurrent events can get their sequence numbers in either order.
    for number, event in enumerate(
        (world.updated(task, "status"), world.reminder(task, 3600), world.reminder(task, 0)), 1
    ):
        await world.emit(event)
        await world.wait_for_notifications(ben, number)
    expected = [
        kinds.NOTIFICATION_KIND_STATUS_CHANGED,
        kinds.NOTIFICATION_KIND_DEADLINE_APPROACHING,
        kinds.NOTIFICATION_KIND_OVERDUE,
    ]
    assert await kinds_of(world, ben, 3) == expected
    assert await kinds_of(world, cleo, 3) == expected
    reminders = await world.listed(ben)
    assert reminders[0].headline == f"{task.key} is overdue"
    assert reminders[0].actor_id == ""


async def test_only_members_of_the_workspace_are_notified(
    world: NotificationWorld, ben: Person, cleo: Person
) -> None:
    stranger = await world.team.person("mallory")
    await world.team.remove(world.owner, world.workspace_id, cleo.id)
    task = world.task(creator_id=cleo.id, assignee_id=stranger.id)
    await world.emit(world.created(task), world.reminder(task, 0))
    await settle(world, ben)
    assert await world.listed(cleo) == []
    assert await world.listed(stranger) == []


async def test_a_redelivered_event_notifies_once(world: NotificationWorld, ben: Person) -> None:
    event = world.created(world.task(assignee_id=ben.id))
    await world.emit(event)
    await world.wait_for_notifications(ben, 1)
    # Publish the event again under another Nats-Msg-Id, so that JetStream doesn't drop it as a duplicate.
    for _ in range(3):
        await world.bus.jetstream.publish(
            outbox.subject(event),
            event.SerializeToString(),
            headers={"Nats-Msg-Id": str(uuid7())},
        )
    await settle(world, ben)
    assert len(await world.listed(ben)) == 2


async def test_an_event_notifies_once_even_if_its_consumed_mark_was_deleted(
    world: NotificationWorld, ben: Person
) -> None:
    event = world.created(world.task(assignee_id=ben.id))
    await world.emit(event)
    await world.wait_for_notifications(ben, 1)
    async with world.db.transaction() as tx:
        await tx.run(
            Statement(
                consumed_events.delete().where(consumed_events.c.event_id == bindparam("id"))
            ),
            id=event.id,
        )
    await world.bus.jetstream.publish(outbox.subject(event), event.SerializeToString())
    await settle(world, ben)
    assert len(await world.listed(ben)) == 2


async def test_each_notification_emits_an_event_for_the_mail_workflow(
    world: NotificationWorld, ben: Person
) -> None:
    await world.assign(ben)
    [told] = await world.wait_for_notifications(ben, 1)
    [event] = await events(world.db, "%.notification.created", told.id)
    assert event.workspace_id == world.workspace_id
    assert (event.revision, event.actor_id) == (1, "")
    assert event.notification_created.notification_id == told.id
    assert event.notification_created.user_id == ben.id


async def test_events_without_recipients_store_nothing(
    world: NotificationWorld, ben: Person
) -> None:
    event = world.updated(world.task(assignee_id=ben.id), "title")
    await world.emit(event)
    await settle(world, ben)
    async with world.db.read() as tx:
        row = await tx.one(_CONSUMED, event_id=event.id, consumer="notification")
    assert row is not None
    assert row.events == 0


async def test_sequences_have_no_gap_when_several_processes_share_the_events(
    world: NotificationWorld, ben: Person, cleo: Person
) -> None:
    async with serving("notification", other_ports(world.settings, "notification")):
        for _ in range(20):
            await world.assign(*[ben, cleo] * 10)
        for person in (ben, cleo):
            sequences = [one.sequence for one in await world.wait_for_notifications(person, 200)]
            assert sequences == list(range(200, 0, -1))


async def test_events_written_while_no_process_runs_notify_when_one_starts(
    settings: Settings,
) -> None:
    async with a_notification_world(settings, notification=False) as world:
        dora = await world.member("dora")
        await world.assign(*[dora] * 30)
        async with serving("notification", world.settings):
            await world.wait_for_notifications(dora, 30)


async def test_broken_database_connections_lose_no_event(
    world: NotificationWorld, ben: Person
) -> None:
    for _ in range(5):
        await world.assign(*[ben] * 20)
        async with world.db.read() as tx:
            await tx.all(_BREAK_CONNECTIONS, application="taskflow-notification")
        await asyncio.sleep(0.05)

    async def all_told() -> bool:
        try:
            return len(await world.listed(ben)) == 100
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            return False

    await eventually(all_told)


async def test_a_database_outage_parks_no_event(
    world: NotificationWorld, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a long outage parks nothing."""
    monkeypatch.setattr(durable, "_UNAVAILABLE_PAUSE", 0.01)
    outages = 3 * durable.MAX_DELIVERIES
    create = consumer.create

    async def unavailable(tx: Transaction, wanted: Sequence[Notice]) -> list[Announcement]:
        nonlocal outages
        if outages:
            outages -= 1
            raise psycopg.OperationalError("the connection is lost")
        return await create(tx, wanted)

    monkeypatch.setattr(consumer, "create", unavailable)
    parked = _parked()
    await world.assign(ben)
    await world.wait_for_notifications(ben, 1)
    assert outages == 0
    assert _parked() == parked


def _parked() -> float:
    name, labels = "taskflow_dead_letters_total", {"consumer": "notification"}
    return REGISTRY.get_sample_value(name, labels) or 0


async def test_the_number_of_waiting_events_is_a_metric(
    world: NotificationWorld, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()
    create = consumer.create

    async def wait(tx: Transaction, wanted: Sequence[Notice]) -> list[Announcement]:
        await released.wait()
        return await create(tx, wanted)

    async def lag() -> float | None:
        return REGISTRY.get_sample_value("taskflow_consumer_lag", {"consumer": "notification"})

    async def some_wait() -> bool:
        return (await lag() or 0) >= 5

    async def none_waits() -> bool:
        return await lag() == 0

    monkeypatch.setattr(consumer, "create", wait)
    await world.assign(*[ben] * 5)
    await eventually(some_wait)
    released.set()
    await eventually(none_waits)


async def test_events_of_an_unknown_type_are_ignored(world: NotificationWorld, ben: Person) -> None:
    """The consumer doesn't subscribe to their subjects, so they don't count as waiting."""
    event = Event(type="comment.created", workspace_id=world.workspace_id, aggregate_id="x")
    await world.bus.jetstream.publish(outbox.subject(event), event.SerializeToString())
    await settle(world, ben)
