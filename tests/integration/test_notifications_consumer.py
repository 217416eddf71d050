"""Promises of the consumer: who is told of events, once, whatever comes twice, late or broken."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import psycopg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Text, bindparam, func, select, text
from uuid_utils.compat import uuid7

from services.notification import consumer
from services.notification.telling import Telling
from services.platform import bus, outbox
from services.platform.config import Settings
from services.platform.db import Statement, Transaction
from services.platform.tables import consumed_events
from taskflow.event.v1.event_pb2 import Event
from taskflow.notification.v1 import notification_pb2 as kinds
from taskflow.task.v1 import task_pb2
from tests.conftest import serving
from tests.integration.notification_world import World, a_world, eventually, other_ports
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
async def world(settings: Settings) -> AsyncIterator[World]:
    async with a_world(settings) as made:
        yield made


@pytest.fixture
async def ben(world: World) -> Person:
    return await world.member("ben")


@pytest.fixture
async def cleo(world: World) -> Person:
    return await world.member("cleo")


async def kinds_of(world: World, person: Person, count: int) -> list[int]:
    return [one.kind for one in reversed(await world.told(person, count))]


async def settle(world: World, *people: Person) -> None:
    """Returns when everything that was emitted before has been consumed."""
    before = {person.id: len(await world.listed(person)) for person in people}
    await world.assign(*people)
    for person in people:
        await world.told(person, before[person.id] + 1)


async def test_status_and_deadlines_are_told_to_creator_and_assignee(
    world: World, ben: Person, cleo: Person
) -> None:
    task = world.task(creator_id=ben.id, assignee_id=cleo.id)
    task.status = task_pb2.TASK_STATUS_IN_PROGRESS
    # One after the other: several processes may share the events, and number what happens at once in either order.
    for number, event in enumerate(
        (world.updated(task, "status"), world.reminder(task, 3600), world.reminder(task, 0)), 1
    ):
        await world.emit(event)
        await world.told(ben, number)
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


async def test_only_members_of_the_workspace_are_told(
    world: World, ben: Person, cleo: Person
) -> None:
    stranger = await world.team.person("mallory")
    await world.team.remove(world.owner, world.workspace_id, cleo.id)
    task = world.task(creator_id=cleo.id, assignee_id=stranger.id)
    await world.emit(world.created(task), world.reminder(task, 0))
    await settle(world, ben)
    assert await world.listed(cleo) == []
    assert await world.listed(stranger) == []


async def test_an_event_that_comes_again_is_told_once(world: World, ben: Person) -> None:
    event = world.created(world.task(assignee_id=ben.id))
    await world.emit(event)
    await world.told(ben, 1)
    # Outside the window in which JetStream would drop it: under another Nats-Msg-Id.
    for _ in range(3):
        await world.bus.jetstream.publish(
            outbox.subject(event),
            event.SerializeToString(),
            headers={"Nats-Msg-Id": str(uuid7())},
        )
    await settle(world, ben)
    assert len(await world.listed(ben)) == 2


async def test_an_event_is_told_once_even_when_its_claim_was_forgotten(
    world: World, ben: Person
) -> None:
    event = world.created(world.task(assignee_id=ben.id))
    await world.emit(event)
    await world.told(ben, 1)
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


async def test_each_notification_is_an_event_for_the_mail(world: World, ben: Person) -> None:
    await world.assign(ben)
    [told] = await world.told(ben, 1)
    [event] = await events(world.db, "%.notification.created", told.id)
    assert event.workspace_id == world.workspace_id
    assert (event.revision, event.actor_id) == (1, "")
    assert event.notification_created.notification_id == told.id
    assert event.notification_created.user_id == ben.id


async def test_events_without_anybody_to_tell_leave_no_trace(world: World, ben: Person) -> None:
    event = world.updated(world.task(assignee_id=ben.id), "title")
    await world.emit(event)
    await settle(world, ben)
    async with world.db.read() as tx:
        row = await tx.one(_CONSUMED, event_id=event.id, consumer="notification")
    assert row is not None
    assert row.events == 0


async def test_sequences_have_no_gap_when_several_processes_share_the_events(
    world: World, ben: Person, cleo: Person
) -> None:
    async with serving("notification", other_ports(world.settings, "notification")):
        for _ in range(20):
            await world.assign(*[ben, cleo] * 10)
        for person in (ben, cleo):
            sequences = [one.sequence for one in await world.told(person, 200)]
            assert sequences == list(range(200, 0, -1))


async def test_what_happens_while_no_process_runs_is_told_by_the_next(
    settings: Settings,
) -> None:
    async with a_world(settings, notification=False) as world:
        dora = await world.member("dora")
        await world.assign(*[dora] * 30)
        async with serving("notification", world.settings):
            await world.told(dora, 30)


async def test_connections_to_the_database_that_break_cost_no_event(
    world: World, ben: Person
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


async def test_an_outage_of_the_database_is_not_held_against_an_event(
    world: World, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it lasts, nothing is parked."""
    monkeypatch.setattr(bus, "_UNAVAILABLE_PAUSE", 0.01)
    outages = 3 * bus.MAX_DELIVERIES
    notify = consumer.notify

    async def unavailable(tx: Transaction, tellings: Sequence[Telling]) -> list[consumer.Told]:
        nonlocal outages
        if outages:
            outages -= 1
            raise psycopg.OperationalError("the connection is lost")
        return await notify(tx, tellings)

    monkeypatch.setattr(consumer, "notify", unavailable)
    parked = _parked()
    await world.assign(ben)
    await world.told(ben, 1)
    assert outages == 0
    assert _parked() == parked


def _parked() -> float:
    name, labels = "taskflow_dead_letters_total", {"consumer": "notification"}
    return REGISTRY.get_sample_value(name, labels) or 0


async def test_operators_see_how_many_events_wait(
    world: World, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()
    notify = consumer.notify

    async def wait(tx: Transaction, tellings: Sequence[Telling]) -> list[consumer.Told]:
        await released.wait()
        return await notify(tx, tellings)

    async def lag() -> float | None:
        return REGISTRY.get_sample_value("taskflow_consumer_lag", {"consumer": "notification"})

    async def some_wait() -> bool:
        return (await lag() or 0) >= 5

    async def none_waits() -> bool:
        return await lag() == 0

    monkeypatch.setattr(consumer, "notify", wait)
    await world.assign(*[ben] * 5)
    await eventually(some_wait)
    released.set()
    await eventually(none_waits)


async def test_events_of_a_type_that_is_new_are_left_alone(world: World, ben: Person) -> None:
    """Their subjects aren't ours, so nothing waits for them."""
    event = Event(type="comment.created", workspace_id=world.workspace_id, aggregate_id="x")
    await world.emit(event)
    await settle(world, ben)
