"""Postgres is restarted again and again in immediate mode, without a clean shutdown, and also paused.

Calls of every kind run meanwhile.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import psycopg

from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
from taskflow.auth.v1.workspace_service_pb2 import ListWorkspacesRequest
from taskflow.notification.v1.notification_service_pb2 import (
    GetUnreadCountRequest,
    ListNotificationsRequest,
)
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    UpdateTaskRequest,
)
from tests.faults.harness.injectors import paused
from tests.faults.harness.load import at_rate
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import Stubs, World, a_world, stubs_at

PROMISE = "A Postgres restart costs UNAVAILABLE only"
LIMIT_SECONDS = {"short": 300.0, "long": 1800.0}

_RATE = 200.0
# A call's time limit (seconds).
_DEADLINE = 5.0
# Calls must succeed again within this time (seconds).
_HEALTHY_SECONDS = 5.0
_PROCESSES = ("auth", "auth-2", "task", "task-2", "notification", "notification-2")


@dataclass
class CallLog:
    """Makes calls of every kind and records how each ended."""

    world: World
    random: random.Random
    tasks: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    # Errors that no client should see, by their text.
    wrong: Counter[str] = field(default_factory=Counter)
    # Start times of failed calls, and end times of successful ones.
    failed: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)

    async def one(self, number: int) -> None:
        begun = time.monotonic()
        try:
            answer = await self._call(number)
        except grpc.aio.AioRpcError as error:
            self.failed.append(begun)
            self._failed(error, time.monotonic() - begun)
            return
        self.answered.append(time.monotonic())
        self.codes["OK"] += 1
        if number % 8 == 0:
            self.tasks.append(answer.task.id)

    def _failed(self, error: grpc.aio.AioRpcError, seconds: float) -> None:
        code = error.code()
        self.codes[code.name] += 1
        if code is grpc.StatusCode.UNAVAILABLE:
            return
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and seconds > 0.9 * _DEADLINE:
            return
        self.wrong[f"{code.name} after {seconds:.1f} s: {error.details()}"] += 1

    def _call(self, number: int) -> Any:
        stubs = self.world.stubs
        workspace = self.world.workspace
        how: dict[str, Any] = {
            "metadata": self.random.choice(workspace.people).credentials,
            "timeout": _DEADLINE,
        }
        task_id = self.random.choice(self.tasks)
        match number % 8:
            case 0:
                title = f"Call {number}"
                request = CreateTaskRequest(project_id=self.world.project, task=Task(title=title))
                return stubs.tasks.CreateTask(request, **how)
            case 1:
                change = UpdateTaskRequest(task=Task(id=task_id, title=f"Call {number}"))
                return stubs.tasks.UpdateTask(change, **how)
            case 2 | 3:
                return stubs.tasks.GetTask(GetTaskRequest(id=task_id), **how)
            case 4:
                return stubs.tasks.ListTasks(ListTasksRequest(workspace_id=workspace.id), **how)
            case 5:
                return stubs.users.GetCurrentUser(GetCurrentUserRequest(), **how)
            case 6:
                return stubs.workspaces.ListWorkspaces(ListWorkspacesRequest(), **how)
            case _:
                method = stubs.notifications
                if self.random.random() < 0.5:
                    return method.GetUnreadCount(GetUnreadCountRequest(), **how)
                return method.ListNotifications(ListNotificationsRequest(), **how)

    def healthy_after(self, instant: float, until: float) -> float:
        """Seconds from `instant` to the first success or the start of the last failed call, whichever is later."""
        first = min((at for at in self.answered if at >= instant), default=until)
        last = max((at for at in self.failed if instant <= at < until), default=instant)
        return max(first, last) - instant


async def run(run: Run, tally: Tally) -> None:
    async with a_world(run, people=8) as world:
        calls = CallLog(world, run.random)
        calls.tasks.append(await _first_task(world))
        recoveries = []
        async with at_rate(_RATE, calls.one) as load:
            await asyncio.sleep(1)
            for number in range(run.choose(3, 20)):
                run.say(f"restart {number + 1}")
                back = await _restart(run)
                tally.faults += 1
                recoveries.append(await _watched(run, calls, back))
            run.say("all of Postgres paused")
            tally.faults += 1
            with paused(run.stack, "postgres"):
                await asyncio.sleep(run.choose(3.5, 30.0))
            woken = await _watched(run, calls, time.monotonic())
        tally.operations = load.begun
        for seconds in (*recoveries, woken):
            tally.recovered_after(seconds)
        await _pool_usable(run, world, calls, tally)
    _judge(calls, recoveries, woken, tally)


async def _first_task(world: World) -> str:
    request = CreateTaskRequest(project_id=world.project, task=Task(title="The first"))
    answer = await world.stubs.tasks.CreateTask(request, metadata=world.people[0].credentials)
    task_id: str = answer.task.id
    return task_id


async def _restart(run: Run) -> float:
    """Like `pg_ctl restart -m immediate`: backends quit at once. Returns when Postgres accepts connections again."""
    await run.stack.hold("postgres", signal.SIGQUIT)
    run.stack.release("postgres")
    async with asyncio.timeout(60):
        while True:
            with suppress(psycopg.OperationalError):
                await (
                    await psycopg.AsyncConnection.connect(
                        run.stack.settings.postgres, connect_timeout=2
                    )
                ).close()
                return time.monotonic()
            await asyncio.sleep(0.02)


async def _watched(run: Run, calls: CallLog, back: float) -> float:
    """How long after `back` calls succeed again, observed for longer than the promise allows."""
    watched = run.choose(2.0, 6.0)
    await asyncio.sleep(watched)
    until = time.monotonic()
    return calls.healthy_after(back, until)


async def _pool_usable(run: Run, world: World, calls: CallLog, tally: Tally) -> None:
    """Check that each process answers twice as many concurrent calls as its pool has connections."""
    size = 2 * world.settings.database_pool_size
    for name in _PROCESSES:
        async with stubs_at(run.address(name)) as stubs:
            waiting = [_asked(stubs, name, world) for _ in range(size)]
            failures = [e for e in await asyncio.gather(*waiting, return_exceptions=True) if e]
            tally.operations += size
            tally.expect(
                not failures,
                f"{name} failed {len(failures)} of {size} calls at the end: {failures[:1]}",
            )
    rows = await world.fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'taskflow-%'"
        " AND state LIKE 'idle in transaction%' AND state_change < now() - interval '5 seconds'"
    )
    tally.expect(not rows[0][0], f"{rows[0][0]} transactions were left open")


async def _asked(stubs: Stubs, name: str, world: World) -> None:
    how: dict[str, Any] = {"metadata": world.people[1].credentials, "timeout": 10}
    if name.startswith("auth"):
        await stubs.users.GetCurrentUser(GetCurrentUserRequest(), **how)
    elif name.startswith("task"):
        await stubs.tasks.ListTasks(ListTasksRequest(workspace_id=world.workspace.id), **how)
    else:
        await stubs.notifications.GetUnreadCount(GetUnreadCountRequest(), **how)


def _judge(calls: CallLog, recoveries: list[float], woken: float, tally: Tally) -> None:
    for text, count in calls.wrong.most_common(5):
        tally.broken.append(f"{count} × {text}")
    tally.expect_speed(
        max(recoveries) <= _HEALTHY_SECONDS,
        f"calls failed until {max(recoveries):.1f} s after a restart",
    )
    tally.expect_speed(
        woken <= _HEALTHY_SECONDS, f"calls failed until {woken:.1f} s after the pause ended"
    )
    tally.figures["answers"] = ", ".join(f"{code} {n:,}" for code, n in calls.codes.most_common())
    tally.figures["healthy after a restart (s)"] = ", ".join(f"{s:.2f}" for s in recoveries)
    tally.figures["healthy after the pause (s)"] = f"{woken:.2f}"
