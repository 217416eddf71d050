"""Half of the streams stop reading during a flood of changes; the other half must not be delayed."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from deploy.local.probes import http_get
from taskflow.notification.v1.notification_service_pb2 import WatchNotificationsRequest
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    UpdateTaskRequest,
    WatchTasksRequest,
)
from tests.bench.memory import resident
from tests.faults.harness.load import at_rate
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import CHANNEL_OPTIONS, SeededPerson, Stubs, World, a_world
from tests.integration.people import read_refusal

PROMISE = "A stalled reader delays nobody"
LIMIT_SECONDS = {"short": 150.0, "long": 900.0}

# Promised: latency (seconds), memory growth (bytes), time until the cut (seconds).
_P99 = 0.5
_GROWTH = 200 * 1024 * 1024
_CUT = 30.0
# For a stalled stream, client and gateway each buffer at least one flow-control window (bytes).
_TAKEN_IN = 2 * 64 * 1024
# How much the flood sends to each stalled stream (bytes): more than all buffers hold.
_FLOOD = 320 * 1024
_PER_CONNECTION = 100
_OPENING = 50
# Probes per second, and how long to wait for missing ones at the end (seconds).
_RATE = 4.0
_PATIENCE = 20.0
_LONGEST_TEXT = 20_000
# The maximum title length, in characters of four bytes.
_LONGEST_TITLE = "🪝" * 255

_METRIC = re.compile(
    rb'^taskflow_streams_ended_total\{code="RESOURCE_EXHAUSTED",method="(.*)"\} (.*)$', re.MULTILINE
)

Open = Callable[[Stubs, int], Any]


@dataclass
class Kind:
    """WatchTasks or WatchNotifications: how to open the n-th stream, make the flood, and make small changes after it.

    `probe(number)` makes a change and returns its name; `named(message)` returns the name in a stream's message.
    """

    service: str
    method: str
    open: Open
    flood: Callable[[], Awaitable[None]]
    probe: Callable[[int], Awaitable[str]]
    named: Callable[[Any], str]


@dataclass
class Readers:
    """Streams that are read. For each named change, the times (seconds) at which the streams showed it.

    `full` is when the first stream had received as much as a stalled one can be sent.
    """

    named: Callable[[Any], str]
    arrived: dict[str, list[float]] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    full: float = float("inf")

    async def follow(self, call: Any) -> None:
        size = 0
        try:
            async for message in call:
                size += message.ByteSize()
                if size > _TAKEN_IN:
                    self.full = min(self.full, time.monotonic())
                name = self.named(message)
                if name:
                    self.arrived.setdefault(name, []).append(time.monotonic())
            self.ended["OK"] += 1
        except grpc.aio.AioRpcError as error:
            self.ended[error.code().name] += 1


async def run(run: Run, tally: Tally) -> None:
    count = run.choose(150, 500)
    # Two worlds: otherwise task streams would show the tasks behind the notifications. In the second world one user's
    # streams are flooded, and there are nine others.
    async with a_world(run, people=1) as team, a_world(run, people=11) as world:
        kinds = [_tasks(team), await _notifications(world, count)]
        if run.profile == "short":
            await asyncio.gather(*(_stall(run, kind, count, tally) for kind in kinds))
            return
        for kind in kinds:
            await _stall(run, kind, count, tally)


def _tasks(world: World) -> Kind:
    """The WatchTasks kind: all streams watch the same workspace."""
    owner = world.workspace.owner

    async def create(title: str) -> str:
        answer = await world.stubs.tasks.CreateTask(
            CreateTaskRequest(project_id=world.project, task=Task(title=title)), **_by(owner)
        )
        task_id: str = answer.task.id
        return task_id

    tasks: dict[str, str] = {}

    async def update(name: str, task: Task) -> None:
        if name not in tasks:
            tasks[name] = await create(name)
        task.id = tasks[name]
        await world.stubs.tasks.UpdateTask(UpdateTaskRequest(task=task), **_by(owner))

    async def flood() -> None:
        for number in range(_FLOOD // _LONGEST_TEXT + 1):
            await update("Flood", Task(description=f"{number} ".ljust(_LONGEST_TEXT, "x")))

    async def probe(number: int) -> str:
        name = f"Probe {number}"
        await update("Probe", Task(title=name))
        return name

    return Kind(
        "task",
        "/taskflow.task.v1.TaskService/WatchTasks",
        lambda stubs, _: stubs.tasks.WatchTasks(
            WatchTasksRequest(workspace_id=world.workspace.id), metadata=owner.credentials
        ),
        flood,
        probe,
        lambda message: _if_probe(message.change.task.title),
    )


async def _notifications(world: World, count: int) -> Kind:
    """The WatchNotifications kind: stalled streams belong to the first person, others to all ten in turn."""
    owner, *people = world.people

    async def tell(person: SeededPerson, title: str) -> None:
        task = Task(title=title, assignee_id=person.id)
        await world.stubs.tasks.CreateTask(
            CreateTaskRequest(project_id=world.project, task=task), **_by(owner)
        )

    async def flood() -> None:
        for _ in range(0, _FLOOD // len(_LONGEST_TITLE.encode()) + 1, _OPENING):
            await asyncio.gather(*(tell(people[0], _LONGEST_TITLE) for _ in range(_OPENING)))

    async def probe(number: int) -> str:
        name = f"Probe {number}"
        await tell(people[number % len(people)], name)
        return name

    return Kind(
        "notification",
        "/taskflow.notification.v1.NotificationService/WatchNotifications",
        lambda stubs, number: stubs.notifications.WatchNotifications(
            WatchNotificationsRequest(),
            metadata=people[0 if number < 0 else number % len(people)].credentials,
        ),
        flood,
        probe,
        lambda message: _if_probe(message.change.created.task_title),
    )


def _if_probe(title: str) -> str:
    return title if title.startswith("Probe ") else ""


async def _stall(run: Run, kind: Kind, count: int, tally: Tally) -> None:
    run.say(f"{kind.method}: opening {count} reading and {count} stalled streams")
    readers = Readers(kind.named)
    programs = [kind.service, f"{kind.service}-2", "envoy"]
    async with AsyncExitStack() as exit_stack:
        healthy = await exit_stack.enter_async_context(_opened(run, kind, range(count)))
        stalled = await exit_stack.enter_async_context(_opened(run, kind, range(-count, 0)))
        await exit_stack.enter_async_context(_followed(readers, healthy))
        before = {name: resident(run.stack.pid(name)) for name in programs}
        most = dict(before)
        already = await _cut(run, kind)
        run.say(f"{kind.method}: {count} streams are stalled")
        await kind.flood()
        tally.faults += count
        # The flood also slows the streams that are read, so latency is measured after the flood.
        await _had(kind, readers, [await kind.probe(0)], count)
        written: dict[str, float] = {}

        async def probe(number: int) -> None:
            name = await kind.probe(number + 1)
            written[name] = time.monotonic()

        cut = 0
        last_cut = time.monotonic()
        async with at_rate(_RATE, probe) as load:
            give_up = time.monotonic() + _CUT + 10
            while cut < count and time.monotonic() < give_up:
                await asyncio.sleep(0.25)
                now = await _cut(run, kind) - already
                if now > cut:
                    cut, last_cut = now, time.monotonic()
                for name in programs:
                    most[name] = max(most[name], resident(run.stack.pid(name)))
            await asyncio.sleep(2)
        tally.operations += load.begun
        missing = await _had(kind, readers, written, count)
        ends = await _ends(stalled)
    _judge(kind, count, cut, last_cut - readers.full, readers, written, missing, ends, tally)
    growth = {name: most[name] - before[name] for name in programs}
    for name, size in growth.items():
        tally.expect(size < _GROWTH, f"{name} grew by {size / 2**20:.0f} MiB")
    tally.figures[f"{kind.service}: growth (MiB)"] = ", ".join(
        f"{name} {size / 2**20:.0f}" for name, size in growth.items()
    )


@asynccontextmanager
async def _opened(run: Run, kind: Kind, numbers: Sequence[int]) -> AsyncIterator[list[Any]]:
    """Opens streams on new connections; yields them after their first message."""
    options = [*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0)]
    async with AsyncExitStack() as exit_stack:
        stubs = [
            Stubs(
                await exit_stack.enter_async_context(
                    grpc.aio.insecure_channel(run.gateway, options=options)
                )
            )
            for _ in range(-(-len(numbers) // _PER_CONNECTION))
        ]
        calls: list[Any] = []
        for first in range(0, len(numbers), _OPENING):
            part = [
                kind.open(stubs[number % len(stubs)], number)
                for number in numbers[first : first + _OPENING]
            ]
            async with asyncio.timeout(60):
                await asyncio.gather(*(anext(aiter(call)) for call in part))
            calls += part
        try:
            yield calls
        finally:
            for call in calls:
                call.cancel()


@asynccontextmanager
async def _followed(readers: Readers, calls: Sequence[Any]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(readers.follow(call)) for call in calls]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _cut(run: Run, kind: Kind) -> int:
    """The number of stalled streams that both processes have cut."""
    settings = run.stack.settings
    first: int = getattr(settings, f"{kind.service}_http_port")
    total = 0.0
    for port in (first, first + 10):
        _, body = await http_get(settings.host, port, "/metrics")
        total += sum(
            float(value)
            for method, value in _METRIC.findall(body)
            if method == kind.method.encode()
        )
    return int(total)


async def _had(kind: Kind, readers: Readers, names: Collection[str], count: int) -> int:
    """The number of messages that reading streams miss after a wait."""
    each = count if kind.service == "task" else count // 10
    give_up = time.monotonic() + _PATIENCE
    while True:
        missing = sum(max(0, each - len(readers.arrived.get(name, ()))) for name in names)
        if not missing or time.monotonic() > give_up:
            return missing
        await asyncio.sleep(0.1)


async def _ends(calls: Sequence[Any]) -> Counter[str]:
    """How streams ended, after reading what was sent before."""
    ends: Counter[str] = Counter()

    async def read(call: Any) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                async for _ in call:
                    pass
            ends["OK"] += 1
        except TimeoutError:
            ends["still open"] += 1
        except grpc.aio.AioRpcError as error:
            refusal = read_refusal(error)
            ends[f"{refusal.code.name} {refusal.reason}".strip()] += 1

    await asyncio.gather(*map(read, calls))
    return ends


def _judge(
    kind: Kind,
    count: int,
    cut: int,
    seconds: float,
    readers: Readers,
    written: dict[str, float],
    missing: int,
    ends: Counter[str],
    tally: Tally,
) -> None:
    tally.lost += missing
    tally.expect(cut == count, f"{kind.method}: {cut} of {count} streams were cut")
    tally.expect_speed(
        seconds <= _CUT, f"{kind.method}: the last stream was cut after {seconds:.1f} s"
    )
    tally.expect(not readers.ended, f"reading streams ended: {dict(readers.ended)}")
    told = ends["RESOURCE_EXHAUSTED READER_TOO_SLOW"]
    tally.expect(told == count, f"{kind.method}: stalled streams ended with {dict(ends)}")
    tally.recovered_after(seconds)
    delays = sorted(_delays(readers, written))
    p99 = delays[int(0.99 * (len(delays) - 1))]
    tally.expect_speed(p99 < _P99, f"{kind.method}: p99 of reading streams is {1e3 * p99:.0f} ms")
    tally.figures[f"{kind.service}: delay of reading streams (ms)"] = (
        f"median {1e3 * delays[len(delays) // 2]:.0f}, p99 {1e3 * p99:.0f}, "
        f"longest {1e3 * delays[-1]:.0f} of {len(delays):,}"
    )
    tally.figures[f"{kind.service}: cut"] = f"{cut} of {count}, the last after {seconds:.1f} s"


def _delays(readers: Readers, written: dict[str, float]) -> Iterator[float]:
    for name, at in written.items():
        for arrived in readers.arrived.get(name, ()):
            yield max(0.0, arrived - at)


def _by(person: SeededPerson) -> dict[str, Any]:
    return {"metadata": person.credentials, "timeout": 30}
