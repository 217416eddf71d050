"""Workspaces take turns behind the front: one that has much work waiting doesn't hold up another one.

`python -m workflows` on real NATS and Temporal servers. The services are doubles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from pydantic import SecretStr

from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings
from services.platform.events.bus import Bus
from taskflow.event.v1.event_pb2 import Event, TaskCreated
from taskflow.task.v1.task_pb2 import Task as TaskMessage
from tests.conftest import settings_for
from tests.integration.dispatching import dispatcher_bus
from tests.workflows.services_double import SECRET, Services, Task, serving_doubles
from workflows import __main__ as process

pytestmark = pytest.mark.xdist_group("turns")


async def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
async def services() -> AsyncIterator[Services]:
    async with serving_doubles(now) as doubles:
        yield doubles


@pytest.fixture(scope="module")
async def engines(
    tmp_path_factory: pytest.TempPathFactory, services: Services
) -> AsyncIterator[Stack]:
    settings = settings_for(
        tmp_path_factory.mktemp("turns") / "data",
        task_address=services.address,
        notification_address=services.address,
        service_secret=SecretStr(SECRET),
    )
    async with running_stack(settings, only={"nats", "temporal"}) as stack:
        yield stack


@pytest.fixture(scope="module")
async def bus(engines: Stack) -> AsyncIterator[Bus]:
    async with dispatcher_bus(engines.settings) as bus:
        yield bus


@pytest.fixture(scope="module")
async def worker(engines: Stack, bus: Bus) -> AsyncIterator[Settings]:
    stop = asyncio.Event()
    running = asyncio.create_task(process.run(engines.settings, stop))
    yield engines.settings
    stop.set()
    await asyncio.wait_for(running, 10)


async def create_tasks(bus: Bus, services: Services, workspace: str, count: int) -> set[str]:
    """Publishes as the relay does; returns the tasks' ids."""
    ids = [str(uuid4()) for _ in range(count)]
    for task_id in ids:
        services.tasks[task_id] = Task("Fix it as soon as possible")
        facts = TaskCreated(task=TaskMessage(id=task_id, revision=1, text_revision=1))
        event = Event(
            id=str(uuid4()),
            type="task.created",
            workspace_id=workspace,
            aggregate_id=task_id,
            task_created=facts,
        )
        await bus.jetstream.publish(
            f"taskflow.{workspace}.task.created",
            event.SerializeToString(),
            headers={"Nats-Msg-Id": event.id},
        )
    return set(ids)


async def test_a_workspace_with_many_tasks_does_not_hold_up_the_suggestions_of_another_one(
    bus: Bus, services: Services, worker: Settings
) -> None:
    busy = await create_tasks(bus, services, str(uuid4()), 600)
    quiet = await create_tasks(bus, services, str(uuid4()), 20)
    async with asyncio.timeout(60):
        while not quiet <= {stored.task_id for stored in services.suggestions}:
            await asyncio.sleep(0.02)
    before_the_last_one = {stored.task_id for stored in services.suggestions} & busy
    assert len(before_the_last_one) < 300
