"""Service processes are killed and paused under calls: what clients are told, by the gateway and by health checks."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.platform.rpc.methods import METHODS
from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
from taskflow.notification.v1.notification_service_pb2 import GetUnreadCountRequest
from taskflow.task.v1.task_service_pb2 import ListTasksRequest, WatchTasksRequest
from tests.faults.harness.injectors import killing, paused
from tests.faults.harness.load import at_rate
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import World, a_world
from tests.integration.people import read_refusal

PROMISE = "Every error has a reason, whoever answers"
LIMIT_SECONDS = {"short": 180.0, "long": 900.0}

_RATE = 50.0
# A call's time limit (seconds).
_DEADLINE = 5.0
# Health has to show a paused or continued process within this time (seconds), and how long to wait for it.
_SHOWN_SECONDS = 15.0
_PATIENCE = 60.0
_SERVICES = ("auth", "task", "notification")
# UNAVAILABLE, or overload when the remaining process can't serve all of it.
_EXPECTED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_Status = health_pb2.HealthCheckResponse


@dataclass
class Calls:
    """Calls of all services and their errors, and streams with their ends."""

    world: World
    ends: Counter[str] = field(default_factory=Counter)
    # Errors without a reason, or with another program's text.
    wrong: Counter[str] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)

    async def one(self, number: int) -> None:
        stubs = self.world.stubs
        how: dict[str, Any] = {
            "metadata": self.world.workspace.owner.credentials,
            "timeout": _DEADLINE,
        }
        begun = time.monotonic()
        try:
            match number % 3:
                case 0:
                    request = ListTasksRequest(workspace_id=self.world.workspace.id)
                    await stubs.tasks.ListTasks(request, **how)
                case 1:
                    await stubs.users.GetCurrentUser(GetCurrentUserRequest(), **how)
                case _:
                    await stubs.notifications.GetUnreadCount(GetUnreadCountRequest(), **how)
            self.ends["OK"] += 1
        except grpc.aio.AioRpcError as error:
            self._failed(error, time.monotonic() - begun)

    def _failed(self, error: grpc.aio.AioRpcError, seconds: float) -> None:
        refused = read_refusal(error)
        self.ends[f"{refused.code.name} {refused.reason}"] += 1
        if refused.code is grpc.StatusCode.DEADLINE_EXCEEDED and seconds > 0.9 * _DEADLINE:
            # The client's own error.
            return
        if not refused.reason or refused.code not in _EXPECTED:
            self.wrong[f"{refused.code.name} {refused.reason}: {refused.message}"] += 1
        elif refused.retry_after is None:
            self.wrong[f"{refused.reason} without a delay"] += 1

    async def stream(self) -> None:
        """A stream that is opened again whenever it ends. A killed process can't explain the end of an open stream."""
        while True:
            call = self.world.stubs.tasks.WatchTasks(
                WatchTasksRequest(workspace_id=self.world.workspace.id),
                metadata=self.world.workspace.owner.credentials,
            )
            opened = False
            try:
                async for _ in call:
                    opened = True
            except grpc.aio.AioRpcError as error:
                refused = read_refusal(error)
                name = f"{refused.code.name} {refused.reason}".strip()
                self.streams[f"{name} {'later' if opened else 'at its start'}"] += 1
            await asyncio.sleep(0.1)


async def run(run: Run, tally: Tally) -> None:
    async with a_world(run, people=2) as world:
        calls = Calls(world)
        streams = [asyncio.create_task(calls.stream()) for _ in range(run.choose(10, 50))]
        names = [f"{name}{number}" for name in _SERVICES for number in ("", "-2")]
        try:
            async with at_rate(_RATE, calls.one) as load, killing(run, names, 1.0, tally):
                await asyncio.sleep(run.choose(8.0, 120.0))
        finally:
            for stream in streams:
                stream.cancel()
        tally.operations = load.begun
        for text, count in calls.wrong.most_common(5):
            tally.broken.append(f"{count} × {text}")
        tally.figures["answers"] = _listed(calls.ends)
        tally.figures["ends of streams"] = _listed(calls.streams)
        await _hang(run, world, tally)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())


async def _hang(run: Run, world: World, tally: Tally) -> None:
    """Pauses both processes of a service, and asks for the health of all services by name."""
    service = run.random.choice(_SERVICES)
    tally.faults += 1
    run.say(f"{service} hangs")
    with paused(run.stack, service), paused(run.stack, f"{service}-2"):
        shown = await _shown(world, {service})
    back = await _shown(world, set())
    for what, seconds in ((f"{service} hangs", shown), (f"{service} is back", back)):
        tally.expect(seconds >= 0, f"health doesn't show that {what}")
        tally.expect_speed(
            seconds <= _SHOWN_SECONDS, f"health showed after {seconds:.1f} s that {what}"
        )
    tally.recovered_after(back)
    tally.figures["health shows a hanging service after (s)"] = f"{shown:.1f}"


async def _shown(world: World, hanging: set[str]) -> float:
    """Seconds until the health of each service is as expected; -1 if it never is."""
    stub: Any = health_pb2_grpc.HealthStub(world.stubs.channel)
    processes = {m.service: m.process for m in METHODS.values() if not m.internal}
    expected = {
        name: _Status.NOT_SERVING if process in hanging else _Status.SERVING
        for name, process in processes.items()
    }
    expected[""] = _Status.NOT_SERVING if hanging else _Status.SERVING
    begun = time.monotonic()
    while time.monotonic() < begun + _PATIENCE:
        found = {}
        for name in expected:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                found[name] = answer.status
            except grpc.aio.AioRpcError as error:
                found[name] = error.code()
        if found == expected:
            return time.monotonic() - begun
        await asyncio.sleep(0.2)
    return -1.0
