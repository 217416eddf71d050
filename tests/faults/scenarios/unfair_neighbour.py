"""One workspace floods each stage by turns, while a quiet workspace creates tasks and waits for what follows."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio

from services.auth.sessions.passwords import Passwords
from taskflow.auth.v1.auth_service_pb2 import LoginRequest
from taskflow.notification.v1.notification_service_pb2 import WatchNotificationsRequest
from taskflow.task.v1.suggestion_service_pb2 import (
    ListSuggestionsRequest,
    ListSuggestionsResponse,
)
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    UpdateTaskRequest,
    WatchTasksRequest,
)
from tests.bench.machine import quiet
from tests.bench.processes import started
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import Workspace, World, a_world
from tests.faults.load_process import limit_of

PROMISE = "One caller can't hurt another"
LIMIT_SECONDS = {"short": 240.0, "long": 1800.0}

# How many times longer than alone the neighbour may wait.
_MOST: Final = 2.0
# Latencies (milliseconds) below which the machine's noise hides what a neighbour causes.
_FLOORS: Final = {"create": 15.0, "notification": 50.0, "login": 100.0, "suggestion": 2500.0}
# Creates of the quiet workspace per second.
_RATE: Final = 20.0
_PATIENCE: Final = 30.0
_PASSWORD: Final = "correct horse battery staple"


@dataclass
class Flood:
    """What a flood did: its calls by code, and its refusals by limit."""

    codes: Counter[str] = field(default_factory=Counter)
    limits: Counter[str] = field(default_factory=Counter)
    wordless: int = 0

    def add(self, found: dict[str, Any]) -> None:
        self.codes.update(found["codes"])
        self.limits.update(found["limits"])
        self.wordless += found["wordless"]

    def refused(self, error: grpc.aio.AioRpcError) -> None:
        limit = limit_of(error)
        self.codes[error.code().name] += 1
        self.limits[limit] += 1
        self.wordless += not limit


# Floods while the block runs. Takes the run, the world and the seconds that the flood lasts at most.
Stage = Callable[[Run, World, float], AbstractAsyncContextManager[Flood]]


@asynccontextmanager
async def _calling(run: Run, world: World, seconds: float, **spec: Any) -> AsyncIterator[Flood]:
    """Calls of the first workspace's owner from a process of their own, more than the owner may have at once."""
    token = world.workspace.owner.credentials[0][1].removeprefix("Bearer ")
    full = {
        "address": run.gateway,
        "tokens": [token],
        "workspace": world.workspace.id,
        "project": world.project,
        "deadline": _PATIENCE,
        "seconds": seconds,
        "seed": run.random.randrange(10**6),
        # An impatient client: the refusals say one second.
        "pause": 0.05,
        **spec,
    }
    flood = Flood()
    async with started("tests.faults.load_process", full) as [remote]:
        remote.go()
        # Until the flood's burst is used up.
        await asyncio.sleep(1)
        yield flood
        flood.add(await remote.result())


def _registers(run: Run, world: World, seconds: float) -> AbstractAsyncContextManager[Flood]:
    return _calling(run, world, seconds, mix={"register": 1}, in_flight=40)


def _creates(run: Run, world: World, seconds: float) -> AbstractAsyncContextManager[Flood]:
    return _calling(run, world, seconds, mix={"create": 1}, in_flight=160)


@asynccontextmanager
async def _searches(run: Run, world: World, seconds: float) -> AsyncIterator[Flood]:
    count = run.choose(2_000, 20_000)
    await world.write_tasks(count)
    await world.fetch(
        "UPDATE task.tasks SET description = repeat('Lorem ipsum dolor ', 1000) WHERE workspace_id = %(id)s",
        {"id": world.workspace.id},
    )
    async with _calling(run, world, seconds, mix={"search": 1}, in_flight=12) as flood:
        yield flood


@asynccontextmanager
async def _streams(run: Run, world: World, seconds: float) -> AsyncIterator[Flood]:
    """300 filtered streams, each of which every edit has to be compared with."""
    flood = Flood()
    owner = world.workspace.owner.credentials
    [task_id] = await world.write_tasks(1)

    async def follow(number: int) -> None:
        request = WatchTasksRequest(
            workspace_id=world.workspace.id, filter=TaskFilter(text=f"nowhere {number}")
        )
        try:
            async for _ in world.stubs.tasks.WatchTasks(request, metadata=owner):
                pass
        except grpc.aio.AioRpcError as error:
            flood.refused(error)

    async def edit() -> None:
        while True:
            task = Task(id=task_id, description="Lorem ipsum dolor " * 1_000 + f"{time.time()}")
            request = UpdateTaskRequest(task=task)
            request.update_mask.paths.append("description")
            with suppress(grpc.aio.AioRpcError):
                await world.stubs.tasks.UpdateTask(request, metadata=owner)
                flood.codes["OK"] += 1
            await asyncio.sleep(0.25)

    tasks = [asyncio.create_task(follow(number)) for number in range(300)]
    tasks.append(asyncio.create_task(edit()))
    try:
        await asyncio.sleep(1)
        yield flood
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# Each stage that one caller could fill.
_STAGES: Final[dict[str, Stage]] = {
    "registers": _registers,
    "creates": _creates,
    "searches": _searches,
    "filtered streams": _streams,
}


async def run(run: Run, tally: Tally) -> None:
    seconds = run.choose(2.0, 20.0)
    async with a_world(run, workspaces=2, people=2, ai=True) as world:
        neighbour = world.workspaces[1]
        await _give_password(world, neighbour)
        # What follows from events would need stages of its own; these flood what answers calls.
        await world.fetch(
            "UPDATE auth.workspaces SET ai_enabled = false WHERE id = %(id)s",
            {"id": world.workspace.id},
        )
        await quiet()
        alone = [await _measured(run, world, neighbour, seconds)]
        beside: dict[str, dict[str, list[float]]] = {}
        floods: dict[str, Flood] = {}
        for name, stage in _STAGES.items():
            # The measurement ends before the flood does, or soon after.
            async with stage(run, world, seconds + 3) as floods[name]:
                beside[name] = await _measured(run, world, neighbour, seconds)
            run.say(f"{name}: {_said(floods[name])}")
        await quiet()
        alone.append(await _measured(run, world, neighbour, seconds))
    before = {what: max(_p99(found[what]) for found in alone) for what in _FLOORS}
    for name, found in beside.items():
        _judge(tally, name, before, found, floods[name])
    tally.operations = sum(
        len(times) for found in (*alone, *beside.values()) for times in found.values()
    )


def _judge(
    tally: Tally,
    stage: str,
    before: dict[str, float],
    found: dict[str, list[float]],
    flood: Flood,
) -> None:
    tally.faults += flood.codes.total()
    tally.expect(not flood.wordless, f"{flood.wordless} {stage} were refused without a named limit")
    others = {
        code: n for code, n in flood.codes.items() if code not in ("OK", "RESOURCE_EXHAUSTED")
    }
    tally.expect(not others, f"{stage} ended with {others}")
    parts = []
    for what, floor in _FLOORS.items():
        p99, usual = _p99(found[what]), max(before[what], floor)
        tally.expect_speed(
            p99 <= _MOST * usual,
            f"a neighbour's {what} took {p99:.0f} ms (p99) beside {stage}, alone {before[what]:.0f} ms",
        )
        parts.append(f"{what} {before[what]:.0f} → {p99:.0f} ms")
    tally.figures[f"the neighbour beside {stage}"] = f"{', '.join(parts)}; {_said(flood)}"


def _said(flood: Flood) -> str:
    done = f"{flood.codes['OK']:,} done"
    limits = ", ".join(f"{limit} {count:,}" for limit, count in flood.limits.most_common())
    return f"{done}, refused: {limits}" if limits else f"{done}, none refused"


def _p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * len(times))]


async def _measured(
    run: Run, world: World, workspace: Workspace, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds of the quiet workspace's creates, logins, notifications and suggestions."""
    spec = {
        "address": run.gateway,
        "mix": {"create": 1},
        "rate": _RATE,
        "tokens": [workspace.owner.credentials[0][1].removeprefix("Bearer ")],
        "project": workspace.projects[0],
        "deadline": _PATIENCE,
        "seconds": seconds,
        "seed": run.random.randrange(10**6),
    }
    async with started("tests.faults.load_process", spec) as [remote]:
        remote.go()
        notifications, logins, suggestion = await asyncio.gather(
            _notifications(world, workspace, seconds),
            _logins(world, workspace, seconds),
            _suggestion(world, workspace),
        )
        found = await remote.result()
    if set(found["codes"]) != {"OK"}:
        raise RuntimeError(f"the neighbour's creates ended with {found['codes']}")
    return {
        "create": found["milliseconds"]["OK"],
        "notification": notifications,
        "login": logins,
        "suggestion": [suggestion],
    }


async def _notifications(world: World, workspace: Workspace, seconds: float) -> list[float]:
    """From the answer to CreateTask until the assignee's stream shows the notification."""
    assignee = workspace.people[1]
    stream = world.stubs.notifications.WatchNotifications(
        WatchNotificationsRequest(), metadata=assignee.credentials
    )
    messages = aiter(stream)
    # The stream's first message.
    await anext(messages)
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        created = await _create(world, workspace, "Look at the tide gate", assignee_id=assignee.id)
        begun = time.monotonic()
        async with asyncio.timeout(_PATIENCE):
            async for message in messages:
                if message.change.created.task_id == created.id:
                    break
        found.append(1e3 * (time.monotonic() - begun))
        await asyncio.sleep(0.2)
    stream.cancel()
    return found


async def _logins(world: World, workspace: Workspace, seconds: float) -> list[float]:
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        # From the same address as the flood: logins and registrations have a queue each.
        await world.stubs.auth.Login(
            LoginRequest(email=workspace.owner.email, password=_PASSWORD), timeout=_PATIENCE
        )
        found.append(1e3 * (time.monotonic() - begun))
        await asyncio.sleep(0.5)
    return found


async def _suggestion(world: World, workspace: Workspace) -> float:
    """From CreateTask until the task has its suggestion, with the debounce of two seconds."""
    begun = time.monotonic()
    task = await _create(world, workspace, "Mend the pump as soon as possible")
    request = ListSuggestionsRequest(workspace_id=workspace.id, task_id=task.id)
    listed = ListSuggestionsResponse()
    while not listed.suggestions and time.monotonic() - begun < _PATIENCE:
        await asyncio.sleep(0.05)
        listed = await world.stubs.suggestions.ListSuggestions(
            request, metadata=workspace.owner.credentials
        )
    return 1e3 * (time.monotonic() - begun)


async def _create(world: World, workspace: Workspace, title: str, **fields: Any) -> Task:
    created = await world.stubs.tasks.CreateTask(
        CreateTaskRequest(project_id=workspace.projects[0], task=Task(title=title, **fields)),
        metadata=workspace.owner.credentials,
        timeout=_PATIENCE,
    )
    return created.task


async def _give_password(world: World, workspace: Workspace) -> None:
    hashed = await Passwords().hash(_PASSWORD)
    await world.fetch(
        "UPDATE auth.users SET password_hash = %(hashed)s WHERE id = %(id)s",
        {"hashed": hashed, "id": workspace.owner.id},
    )
