"""Temporal's limit of signals per run, on a real server with a lower limit.

The services are doubles. The tests keep runs from continuing as new until they are at the limit, as a slow call does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from pydantic import SecretStr
from temporalio.client import Client

from deploy.local import nats, temporal
from deploy.local.data_folder import claimed
from deploy.local.stack import Stack
from services.platform.events import consumer
from services.platform.events.bus import Bus
from services.platform.events.consumer import PoisonEvent
from services.platform.events.subjects import STREAM
from taskflow.event.v1 import event_pb2
from taskflow.event.v1.event_pb2 import Event
from taskflow.notification.v1 import internal_service_pb2 as email_rpc
from taskflow.notification.v1 import notification_pb2
from taskflow.task.v1 import task_pb2
from tests.conftest import settings_for
from tests.fakes.mail_receiver import MailReceiver, mail_receiver
from tests.integration.dispatching import dispatcher_bus
from tests.workflows.services_double import SECRET, Services, Task, serving_doubles
from workflows import __main__ as process
from workflows import history_limit
from workflows.dispatcher import CONSUMER, Dispatcher
from workflows.email.contract import email_id
from workflows.reminders.contract import reminder_id
from workflows.service_stubs import ServiceStubs

pytestmark = pytest.mark.xdist_group("signal_limit")

LIMIT = 100


async def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
async def mails() -> AsyncIterator[MailReceiver]:
    async with mail_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
async def all_services() -> AsyncIterator[Services]:
    async with serving_doubles(now) as doubles:
        yield doubles


@pytest.fixture(scope="module")
async def engines(
    tmp_path_factory: pytest.TempPathFactory, all_services: Services, mails: MailReceiver
) -> AsyncIterator[Stack]:
    """NATS, and Temporal with a lower signal limit."""
    folder = tmp_path_factory.mktemp("signal_limit")
    settings = settings_for(
        folder,
        task_address=all_services.address,
        notification_address=all_services.address,
        service_secret=SecretStr(SECRET),
        smtp_host="127.0.0.1",
        smtp_port=mails.port,
    )
    server = temporal.program(folder, settings.temporal_port)
    limit = f"history.maximumSignalsPerExecution={LIMIT}"
    programs = [
        nats.program(folder, settings.nats_port),
        replace(server, command=(*server.command, "--dynamic-config-value", limit)),
    ]
    with claimed(folder):
        stack = Stack(settings, programs, lambda name, text: None)
        try:
            await stack.start()
            yield stack
        finally:
            await stack.stop()


@pytest.fixture(scope="module")
async def bus(engines: Stack) -> AsyncIterator[Bus]:
    """The bus, while dispatcher and worker run."""
    async with dispatcher_bus(engines.settings) as bus:
        stop = asyncio.Event()
        running = asyncio.create_task(process.run(engines.settings, stop))
        yield bus
        stop.set()
        await asyncio.wait_for(running, 10)


@pytest.fixture
def services(
    all_services: Services, mails: MailReceiver, monkeypatch: pytest.MonkeyPatch
) -> Services:
    all_services.reset()
    mails.messages.clear()
    monkeypatch.setattr(consumer, "_BACKOFF", (0.01,))
    return all_services


@pytest.fixture
async def client(engines: Stack) -> Client:
    return await Client.connect(engines.settings.temporal)


async def publish(bus: Bus, kind: str, event: Event) -> None:
    """Publish, and wait until the dispatcher has handled it, so that each event is its own batch."""
    event.id = str(uuid4())
    await bus.jetstream.publish(
        f"taskflow.{uuid4()}.{kind}", event.SerializeToString(), headers={"Nats-Msg-Id": event.id}
    )
    async with asyncio.timeout(20):
        while True:
            info = await bus.jetstream.consumer_info(STREAM, CONSUMER)
            if not info.num_pending and not info.num_ack_pending:
                return
            await asyncio.sleep(0.002)


def notified(services: Services, user_id: str) -> Event:
    """Add an unread notification and publish its event."""
    told = notification_pb2.Notification(id=str(uuid4()), headline="OPS-1 is yours")
    services.unread.append(email_rpc.EmailItem(notification=told, workspace_name="Acme"))
    facts = event_pb2.NotificationCreated(notification_id=told.id, user_id=user_id)
    return Event(aggregate_id=told.id, notification_created=facts)


def moved(task_id: str, revision: int, due: datetime) -> Event:
    task = task_pb2.Task(id=task_id, revision=revision, text_revision=1)
    task.due_time.FromDatetime(due)
    event = Event(aggregate_id=task_id, task_updated=event_pb2.TaskUpdated(task=task))
    event.task_updated.changed_fields.paths.append("due")
    return event


async def signals(client: Client, workflow_id: str) -> int:
    """How many signals the current run of this workflow id has received."""
    history = client.get_workflow_handle(workflow_id).fetch_history_events()
    return len(
        [
            event
            async for event in history
            if event.HasField("workflow_execution_signaled_event_attributes")
        ]
    )


async def wait_until_called(services: Services, rpc: str) -> None:
    async with asyncio.timeout(20):
        while not services.calls[rpc]:
            await asyncio.sleep(0.01)


async def test_a_notification_whose_signal_is_refused_is_included_in_the_next_mail(
    bus: Bus,
    services: Services,
    mails: MailReceiver,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history_limit, "HISTORY_LIMIT", LIMIT // 2)
    user_id = str(uuid4())
    back = asyncio.Event()

    async def away() -> None:
        await back.wait()

    services.during["FinishEmailBatch"] = away
    await publish(bus, "notification.created", notified(services, user_id))
    await wait_until_called(services, "FinishEmailBatch")
    for _ in range(LIMIT + 20):
        await publish(bus, "notification.created", notified(services, user_id))
    assert await signals(client, email_id(user_id)) == LIMIT
    back.set()
    async with asyncio.timeout(20):
        while len(services.finished_batches) < 2:
            await asyncio.sleep(0.02)
    assert services.parked == []
    assert [len(items) for items in services.batches.values()] == [1, LIMIT + 20]
    assert len(mails.messages) == 2


async def test_a_deadline_whose_signal_is_refused_still_gets_its_reminder(
    bus: Bus, services: Services, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_limit, "HISTORY_LIMIT", 100 * LIMIT)
    task_id = str(uuid4())
    services.offsets = (0,)
    services.tasks[task_id] = Task(due=datetime.now(UTC) + timedelta(hours=1), wanted=False)
    back = asyncio.Event()

    async def away() -> None:
        await back.wait()

    services.during["PlanReminder"] = away
    for revision in range(2, LIMIT + 22):
        await publish(bus, "task.updated", moved(task_id, revision, datetime.now(UTC)))
    assert await signals(client, reminder_id(task_id)) == LIMIT
    monkeypatch.setattr(history_limit, "HISTORY_LIMIT", LIMIT // 2)
    due = datetime.now(UTC) + timedelta(seconds=2)
    services.tasks[task_id].due = due
    await publish(bus, "task.updated", moved(task_id, LIMIT + 22, due))
    back.set()
    async with asyncio.timeout(20):
        while not services.ledger:
            await asyncio.sleep(0.02)
    assert services.parked == []
    (((_, reminded, _), (_, at)),) = services.ledger.items()
    assert reminded == due
    assert timedelta(0) <= at - due < timedelta(seconds=1)


@pytest.mark.parametrize("call", ["PlanReminder", "EmitReminder"])
async def test_a_reminder_waiting_for_the_task_service_continues_in_new_runs(
    bus: Bus, services: Services, client: Client, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Needs a real server: the time-skipping one's clock stops when a run ends while its activity still runs."""
    monkeypatch.setattr(history_limit, "HISTORY_LIMIT", LIMIT // 2)
    task_id = str(uuid4())
    services.offsets = (0,)
    due = datetime.now(UTC) + timedelta(milliseconds=500)
    services.tasks[task_id] = Task(due=due, wanted=False)
    back = asyncio.Event()

    async def away() -> None:
        await back.wait()

    services.during[call] = away
    await publish(bus, "task.updated", moved(task_id, 2, due))
    await wait_until_called(services, call)
    for revision in range(3, LIMIT):
        await publish(bus, "task.updated", moved(task_id, revision, due))
    run = await client.get_workflow_handle(reminder_id(task_id)).describe()
    assert run.raw_description.workflow_execution_info.first_run_id != run.run_id
    back.set()
    async with asyncio.timeout(20):
        while not services.ledger:
            await asyncio.sleep(0.02)
    assert list(services.ledger) == [(task_id, due, 0)]
    assert services.parked == []


async def test_an_invalid_signal_is_still_parked(bus: Bus, services: Services) -> None:
    """Temporal refuses it with the same status as a signal over the limit."""
    too_long = "x" * 2000
    await publish(bus, "notification.created", notified(services, too_long))
    async with asyncio.timeout(20):
        while not services.parked:
            await asyncio.sleep(0.02)
    assert "INVALID_ARGUMENT" in services.parked[0].error


async def test_one_batch_of_a_users_notifications_is_one_signal(
    bus: Bus, services: Services, client: Client, engines: Stack
) -> None:
    services.during["PrepareEmailBatch"] = lambda: asyncio.sleep(0.5)
    users = [str(uuid4()), str(uuid4())]
    batch = [
        Msg(NatsClient(), data=notified(services, users[number % 2]).SerializeToString())
        for number in range(64)
    ]
    stubs = ServiceStubs(engines.settings)
    dispatcher = Dispatcher(engines.settings, bus, client, stubs)
    await dispatcher.handle(batch)
    for user_id in users:
        assert await signals(client, email_id(user_id)) == 1
    with pytest.raises(PoisonEvent):
        await dispatcher.handle([*batch, Msg(NatsClient(), data=b"\xff")])
    await stubs.close()
