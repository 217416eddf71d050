"""Connections go silent under the SDK's streams: no byte passes, and nothing says that they are gone."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest
from taskflow_client import TaskFlow, TaskFlowError
from tests.faults.harness.load import at_rate
from tests.faults.harness.proxy import Proxy
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.sdk import logged_in
from tests.faults.harness.world import World, a_world

PROMISE = "A stream on a dead connection resumes within 45 s"
LIMIT_SECONDS = {"short": 120.0, "long": 900.0}

# Changes per second.
_RATE = 4.0
# How long to wait for what is missing at the end (seconds).
_PATIENCE = 20.0


@dataclass
class Reader:
    """A person's client on a connection of its own, with the titles that its stream has shown."""

    proxy: Proxy
    client: TaskFlow
    shown: set[str] = field(default_factory=set)
    # When the latest message came (time.monotonic()).
    latest: float = 0.0
    failures: list[TaskFlowError] = field(default_factory=list)

    async def follow(self, stream: AsyncGenerator[Any, None]) -> None:
        async with aclosing(stream) as messages:
            async for message in messages:
                self.latest = time.monotonic()
                change = message.change
                created = hasattr(change, "created")
                self.shown.add(change.created.task_title if created else change.task.title)


async def run(run: Run, tally: Tally) -> None:
    # The short profile has less time than the default of 45 s; the client scales its pings with this.
    limit = run.choose(18.0, 45.0)
    rounds = run.choose(1, 4)
    async with AsyncExitStack() as opened:
        world = await opened.enter_async_context(a_world(run, people=run.choose(5, 21)))
        readers = [await _reader(run, world, opened, number, limit) for number in _numbers(world)]
        following = [asyncio.create_task(_follow(world, reader, n)) for n, reader in readers]
        opened.callback(lambda: [task.cancel() for task in following])
        titles: list[str] = []

        async def change(number: int) -> None:
            person = world.people[1 + number % (len(world.people) - 1)]
            title = f"Rope {number}"
            task = Task(title=title, assignee_id=person.id)
            await world.stubs.tasks.CreateTask(
                CreateTaskRequest(project_id=world.project, task=task),
                metadata=world.workspace.owner.credentials,
                timeout=10,
            )
            titles.append(title)

        async with at_rate(_RATE, change) as load:
            for _ in range(rounds):
                await asyncio.sleep(run.random.uniform(1.0, 2.0))
                await _silence(run, [reader for _, reader in readers], limit, tally)
        tally.operations = load.begun
        await _complete(readers, titles, tally)


def _numbers(world: World) -> range:
    """The people with a stream: all but the owner, who makes the changes."""
    return range(1, len(world.people))


async def _reader(
    run: Run, world: World, opened: AsyncExitStack, number: int, limit: float
) -> tuple[int, Reader]:
    settings = run.stack.settings
    proxy = await opened.enter_async_context(Proxy("127.0.0.1", settings.gateway_port))
    client = logged_in(run, world.people[number], proxy.address, heartbeat_timeout=limit)
    return number, Reader(proxy, await opened.enter_async_context(client))


async def _follow(world: World, reader: Reader, number: int) -> None:
    """Odd numbers follow the workspace's tasks, even ones their notifications."""
    stream: AsyncGenerator[Any, None]
    if number % 2:
        stream = reader.client.watch_tasks(
            world.workspace.id, snapshot=True, on_reconnect=reader.failures.append
        )
    else:
        stream = reader.client.watch_notifications(on_reconnect=reader.failures.append)
    await reader.follow(stream)


async def _silence(run: Run, readers: list[Reader], limit: float, tally: Tally) -> None:
    run.say("all connections go silent")
    began = time.monotonic()
    for reader in readers:
        reader.proxy.silence()
        tally.faults += 1
    # Bytes that were already on their way.
    await asyncio.sleep(0.5)
    quiet = time.monotonic()
    while waiting := [reader for reader in readers if reader.latest < quiet]:
        if time.monotonic() > began + 3 * limit:
            tally.broken.append(f"{len(waiting)} streams didn't resume in {3 * limit:g} s")
            return
        await asyncio.sleep(0.1)
    seconds = max(reader.latest for reader in readers) - began
    tally.recovered_after(seconds)
    tally.expect_speed(seconds <= limit, f"the last stream resumed after {seconds:.1f} s")
    run.say(f"all resumed after {seconds:.1f} s")


async def _complete(readers: list[tuple[int, Reader]], titles: list[str], tally: Tally) -> None:
    """Counts the changes that a stream never showed."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        missing = sum(
            len(
                {title for title in titles if _concerns(number, title, len(readers))} - reader.shown
            )
            for number, reader in readers
        )
        if not missing or time.monotonic() > give_up:
            break
        await asyncio.sleep(0.2)
    tally.lost += missing
    failures = [failure for _, reader in readers for failure in reader.failures]
    tally.figures["reconnects"] = f"{len(failures)} of {len(readers)} streams"


def _concerns(number: int, title: str, people: int) -> bool:
    """Whether the stream of this person shows the task: task streams show all, the others one's own."""
    return bool(number % 2) or 1 + int(title.split()[1]) % people == number
