"""From an event in JetStream to the calls of its workflow: `python -m workflows` on real NATS and Temporal servers.

The services are doubles. How the real services handle the same calls is tested in their own tests.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr
from temporalio.client import Client

from deploy.local.probes import http_get
from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings
from services.platform.events import consumer
from services.platform.events.bus import Bus
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.event.v1 import event_pb2
from taskflow.event.v1.event_pb2 import Event
from taskflow.notification.v1 import internal_service_pb2 as email_rpc
from taskflow.notification.v1 import notification_pb2
from taskflow.task.v1 import job_pb2, task_pb2
from tests.conftest import settings_for
from tests.fakes.mail_receiver import MailReceiver, mail_receiver
from tests.integration.dispatching import dispatcher_bus
from tests.workflows.services_double import SECRET, Job, Services, Task, serving_doubles
from workflows import __main__ as process
from workflows import service_stubs
from workflows.dispatcher import starts
from workflows.reminders.contract import reminder_id

pytestmark = pytest.mark.xdist_group("dispatcher")

WORKSPACE = str(uuid4())


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
    """NATS and Temporal for this module only: tests stop and kill them."""
    settings = settings_for(
        tmp_path_factory.mktemp("dispatcher") / "data",
        task_address=all_services.address,
        notification_address=all_services.address,
        service_secret=SecretStr(SECRET),
        smtp_host="127.0.0.1",
        smtp_port=mails.port,
    )
    async with running_stack(settings, only={"nats", "temporal"}) as stack:
        yield stack


@pytest.fixture(scope="module")
async def bus(engines: Stack) -> AsyncIterator[Bus]:
    async with dispatcher_bus(engines.settings) as bus:
        yield bus


@pytest.fixture(scope="module")
async def settings(engines: Stack, bus: Bus) -> AsyncIterator[Settings]:
    """Settings, while dispatcher and worker run."""
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(engines.settings, stop))
    await eventually(lambda: healthy(engines.settings))
    yield engines.settings
    stop.set()
    await asyncio.wait_for(running, 10)


@pytest.fixture
def services(all_services: Services, settings: Settings, mails: MailReceiver) -> Services:
    all_services.reset()
    mails.messages.clear()
    return all_services


async def healthy(settings: Settings) -> bool:
    try:
        status, _ = await http_get(settings.host, settings.worker_http_port, "/healthz")
    except OSError:
        return False
    return status == 200


async def eventually(condition: Callable[[], Awaitable[bool] | bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.02)


async def publish(bus: Bus, kind: str, event: Event, repeated: bool = False) -> None:
    """Publish as the relay does. `repeated` bypasses deduplication, as for a redelivery."""
    event.id = event.id or str(uuid4())
    event.type = kind
    event.workspace_id = WORKSPACE
    headers = {"Nats-Msg-Id": str(uuid4()) if repeated else event.id}
    await bus.jetstream.publish(
        f"taskflow.{WORKSPACE}.{kind}", event.SerializeToString(), headers=headers
    )


def instant(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def created(task_id: str, due: datetime | None = None) -> Event:
    task = task_pb2.Task(id=task_id, revision=1, text_revision=1)
    if due:
        task.due_time.CopyFrom(instant(due))
    return Event(aggregate_id=task_id, task_created=event_pb2.TaskCreated(task=task))


def updated(
    task_id: str, revision: int, *fields: str, text_revision: int = 1, due: datetime | None = None
) -> Event:
    event = Event(aggregate_id=task_id, revision=revision)
    task = event.task_updated.task
    task.id, task.revision, task.text_revision = task_id, revision, text_revision
    if due:
        task.due_time.CopyFrom(instant(due))
    event.task_updated.changed_fields.paths.extend(fields)
    return event


def job(job_id: str, attempt: int, state: job_pb2.JobState.ValueType) -> Event:
    return Event(
        aggregate_id=job_id,
        job_changed=event_pb2.JobChanged(
            job=job_pb2.Job(id=job_id, attempt=attempt, state=state, kind=job_pb2.JOB_KIND_PAYLOAD)
        ),
    )


def test_workers_show_themselves_by_the_header_that_services_look_for() -> None:
    assert service_stubs.SERVICE_HEADER == SERVICE_HEADER


async def test_a_new_task_gets_suggestions_once_even_if_its_event_is_redelivered(
    bus: Bus, services: Services
) -> None:
    task_id = str(uuid4())
    services.tasks[task_id] = Task("Fix it as soon as possible")
    event = created(task_id)
    await publish(bus, "task.created", event)
    await eventually(lambda: len(services.suggestions) == 1)
    await publish(bus, "task.created", event, repeated=True)
    other = str(uuid4())
    services.tasks[other] = Task("Sweep")
    await publish(bus, "task.created", created(other))
    await eventually(lambda: len(services.suggestions) == 2)
    assert [stored.task_id for stored in services.suggestions] == [task_id, other]


def test_no_enrichment_starts_in_a_workspace_with_ai_off() -> None:
    task_id = str(uuid4())
    new = created(task_id)
    changed = updated(task_id, 2, "title", text_revision=2)
    assert [len(starts(event, Settings())) for event in (new, changed)] == [1, 1]
    new.task_created.ai_disabled = changed.task_updated.ai_disabled = True
    assert [len(starts(event, Settings())) for event in (new, changed)] == [0, 0]


async def test_requested_suggestions_are_made_again(
    bus: Bus, services: Services, settings: Settings
) -> None:
    task_id = str(uuid4())
    services.tasks[task_id] = Task("Fix it as soon as possible")
    await publish(bus, "task.created", created(task_id))
    await eventually(lambda: len(services.suggestions) == 1)
    # Request suggestions again, even if the first run has not completed yet.
    asked = event_pb2.SuggestionsRequested(task_id=task_id, text_revision=1)
    await publish(
        bus,
        "task.suggestions_requested",
        Event(aggregate_id=task_id, task_suggestions_requested=asked),
    )
    await eventually(lambda: len(services.suggestions) == 2)


async def test_edits_within_the_debounce_start_one_run_for_the_newest_text(
    bus: Bus, services: Services
) -> None:
    task_id = str(uuid4())
    services.tasks[task_id] = Task("Sweep", text_revision=4)
    await publish(bus, "task.created", created(task_id))
    for revision in (2, 3, 4):
        edit = updated(task_id, revision, "title", text_revision=revision)
        await publish(bus, "task.updated", edit)
    await eventually(lambda: len(services.calls["GetEnrichmentInput"]) == 4)
    await eventually(lambda: len(services.suggestions) == 1)
    assert services.suggestions[0].base_text_revision == 4


async def test_an_edit_of_other_fields_starts_no_enrichment(bus: Bus, services: Services) -> None:
    task_id, other = str(uuid4()), str(uuid4())
    services.tasks[task_id] = services.tasks[other] = Task("Sweep")
    await publish(bus, "task.updated", updated(task_id, 2, "labels", "assignee_id", "status"))
    await publish(bus, "task.created", created(other))
    await eventually(lambda: len(services.suggestions) == 1)
    assert services.suggestions[0].task_id == other
    assert services.calls["PlanReminder"] == []


async def test_a_reminder_fires_within_a_second_and_follows_changes_of_its_task(
    bus: Bus, services: Services
) -> None:
    services.offsets = (0,)
    first, second = str(uuid4()), str(uuid4())
    due = datetime.now(UTC) + timedelta(seconds=3)
    for task_id in (first, second):
        services.tasks[task_id] = Task("Sweep", due=due, wanted=False)
        await publish(bus, "task.created", created(task_id, due))
    await eventually(lambda: len(services.calls["PlanReminder"]) == 2)
    services.tasks[second].finished = True
    await publish(bus, "task.updated", updated(second, 2, "status", due=due))
    await eventually(lambda: len(services.ledger) == 1)
    (((task_id, _, _), (_, at)),) = services.ledger.items()
    assert task_id == first
    assert timedelta(0) <= at - due < timedelta(seconds=1)


@pytest.mark.parametrize("kind", ["task.deleted", "task.undeleted"])
async def test_deleting_and_undeleting_a_task_replans_its_reminder(
    bus: Bus, services: Services, kind: str
) -> None:
    task_id = str(uuid4())
    event = Event(aggregate_id=task_id)
    facts = event.task_deleted if kind == "task.deleted" else event.task_undeleted
    facts.task.id, facts.task.revision = task_id, 5
    facts.task.due_time.CopyFrom(instant(datetime.now(UTC)))
    await publish(bus, kind, event)
    await eventually(lambda: len(services.calls["PlanReminder"]) == 1)


async def test_signals_of_one_task_arrive_in_order(
    bus: Bus, services: Services, settings: Settings
) -> None:
    task_id = str(uuid4())
    services.offsets = (0,)
    due = datetime.now(UTC) + timedelta(hours=1)
    services.tasks[task_id] = Task("Sweep", due=due, wanted=False)
    for revision in range(2, 42):
        await publish(bus, "task.updated", updated(task_id, revision, "due", due=due))
    client = await Client.connect(settings.temporal)
    handle = client.get_workflow_handle(reminder_id(task_id))
    revisions: list[int] = []

    async def signalled() -> bool:
        if not services.calls["PlanReminder"]:
            return False
        revisions.clear()
        async for event in handle.fetch_history_events():
            if event.HasField("workflow_execution_signaled_event_attributes"):
                payloads = event.workflow_execution_signaled_event_attributes.input.payloads
                revisions.append(json.loads(payloads[0].data))
        return len(revisions) == 40

    await eventually(signalled)
    assert revisions == list(range(2, 42))
    services.tasks[task_id].deleted = True
    await publish(bus, "task.updated", updated(task_id, 42, "due", due=due))


async def test_a_job_is_processed_and_processed_again_when_retried(
    bus: Bus, services: Services
) -> None:
    job_id = str(uuid4())
    services.jobs[job_id] = Job({"message": 5})
    event = job(job_id, 1, job_pb2.JOB_STATE_PENDING)
    await publish(bus, "job.created", event)
    await eventually(lambda: services.jobs[job_id].state == job_pb2.JOB_STATE_FAILED)
    for state in (job_pb2.JOB_STATE_PROCESSING, job_pb2.JOB_STATE_FAILED):
        await publish(bus, "job.updated", job(job_id, 1, state))
    services.jobs[job_id] = Job({"message": "hello"}, attempt=2)
    await publish(bus, "job.updated", job(job_id, 2, job_pb2.JOB_STATE_PENDING))
    await publish(bus, "job.created", event, repeated=True)
    await eventually(lambda: services.jobs[job_id].state == job_pb2.JOB_STATE_DONE)
    assert len(services.calls["ClaimJob"]) == 2


async def test_a_notification_is_mailed(bus: Bus, services: Services, mails: MailReceiver) -> None:
    told = notification_pb2.Notification(
        id=str(uuid4()), headline="OPS-1 is yours", task_key="OPS-1"
    )
    services.unread.append(email_rpc.EmailItem(notification=told, workspace_name="Acme"))
    facts = event_pb2.NotificationCreated(notification_id=told.id, user_id=str(uuid4()))
    event = Event(aggregate_id=told.id, notification_created=facts)
    await publish(bus, "notification.created", event)
    await eventually(lambda: len(mails.messages) == 1)
    await eventually(lambda: list(services.finished_batches.values()) == [""])


async def test_a_change_of_time_zone_moves_all_of_the_users_date_deadlines(
    bus: Bus, services: Services
) -> None:
    services.moves_left = 5
    services.outages["MoveDueTimes"] = [grpc.StatusCode.UNAVAILABLE]
    user_id = str(uuid4())
    facts = event_pb2.TimeZoneChanged(user_id=user_id)
    event = Event(aggregate_id=user_id, time_zone_changed=facts)
    await publish(bus, "user.time_zone_changed", event)
    await eventually(lambda: len(services.calls["MoveDueTimes"]) == 6)
    assert services.moves_left == 0


async def test_an_unreadable_event_is_parked_and_does_not_delay_others(
    bus: Bus, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_BACKOFF", (0.01,))
    poison = {b"\xff\xff", b"", Event(id="x", aggregate_id="y").SerializeToString()}
    for number in range(30):
        task_id = str(uuid4())
        services.tasks[task_id] = Task("Sweep")
        await publish(bus, "task.created", created(task_id))
        if number % 10 == 5:
            await bus.jetstream.publish(
                f"taskflow.{WORKSPACE}.task.created",
                sorted(poison)[number // 10],
                headers={"Nats-Msg-Id": f"poison-{number}-{WORKSPACE}"},
            )
    await eventually(lambda: len(services.suggestions) == 30)
    await eventually(lambda: len(services.parked) == 3)
    assert {parked.payload for parked in services.parked} == poison
    for parked in services.parked:
        assert parked.consumer == "dispatcher"
        assert parked.event_id.startswith("poison-")
        assert parked.subject == f"taskflow.{WORKSPACE}.task.created"
        assert "the event " in parked.error


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_events_wait_while_temporal_is_down_and_none_is_lost_or_parked(
    bus: Bus,
    services: Services,
    settings: Settings,
    engines: Stack,
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
) -> None:
    monkeypatch.setattr(consumer, "_BACKOFF", (0.01,))
    engines.kill("temporal", how)
    tasks = [str(uuid4()) for _ in range(100)]
    for task_id in tasks:
        services.tasks[task_id] = Task("Sweep")
        await publish(bus, "task.created", created(task_id))
    if how is signal.SIGSTOP:
        await eventually(lambda: unhealthy(settings), 30)
        engines.kill("temporal", signal.SIGCONT)
    await engines.wait_ready("temporal")
    await eventually(lambda: len(services.suggestions) >= 100, 60)
    assert {stored.task_id for stored in services.suggestions} == set(tasks)
    assert services.parked == []
    await eventually(lambda: healthy(settings))


async def unhealthy(settings: Settings) -> bool:
    return not await healthy(settings)


async def test_a_text_that_would_wait_too_long_is_recorded_as_failed_at_once(
    bus: Bus, services: Services
) -> None:
    task_id = str(uuid4())
    services.tasks[task_id] = Task("Sweep", wait=timedelta(hours=13))
    await publish(bus, "task.created", created(task_id))
    await eventually(lambda: len(services.failures) == 1)
    assert services.failures[0].error == "the workspace's AI calls of this hour are used up"


async def test_a_text_over_the_limit_gets_its_suggestions_when_its_slot_comes(
    bus: Bus, services: Services
) -> None:
    task_id = str(uuid4())
    services.tasks[task_id] = Task("Sweep", wait=timedelta(seconds=1.5))
    begun = time.monotonic()
    await publish(bus, "task.created", created(task_id))
    await eventually(lambda: len(services.suggestions) == 1)
    assert time.monotonic() - begun > 1.5
