"""Responses are lost after the commit; the client asks again with the same request_id."""

import asyncio
import contextlib
import uuid

import grpc.aio

from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest, CreateTaskResponse
from tests.faults.harness.oplog import OperationLog
from tests.faults.harness.proxy import Proxy
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import Stubs, World, a_world, stubs_at

PROMISE = "A retried create happens once"

_CLIENTS = 8
# How long a client waits for an answer that was dropped (seconds): long enough for the commit.
_PATIENCE = 1.0
_REPEATED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def run(run: Run, tally: Tally) -> None:
    wanted = run.choose(150, 1000)
    host, _, port = run.gateway.rpartition(":")
    async with a_world(run) as world:
        with OperationLog(run.folder / "operations") as log:
            async with asyncio.TaskGroup() as clients:
                for number in range(_CLIENTS):
                    count = wanted // _CLIENTS + (number < wanted % _CLIENTS)
                    clients.create_task(_client(world, Proxy(host, int(port)), count, log, tally))
            await _check(world, log, tally, wanted)


async def _client(world: World, proxy: Proxy, count: int, log: OperationLog, tally: Tally) -> None:
    async with proxy, stubs_at(proxy.address) as stubs:
        for _ in range(count):
            request = CreateTaskRequest(
                project_id=world.project,
                task=Task(title=f"Weld {uuid.uuid4()}"),
                request_id=str(uuid.uuid4()),
            )
            dropped = proxy.dropped
            proxy.drop_responses()
            waiting = asyncio.create_task(_lost(stubs, request, world))
            async with asyncio.timeout(30):
                while proxy.dropped == dropped and not waiting.done():
                    await asyncio.sleep(0.002)
            proxy.pass_()
            await waiting
            tally.faults += proxy.dropped - dropped
            entry = log.begin("create", title=request.task.title)
            first = await _answered(stubs, request, world)
            second = await _answered(stubs, request, world)
            tally.operations += 3
            tally.expect(
                first == second, f"two retries were answered differently: {first} {second}"
            )
            entry.ok(task=first.task.id)


async def _lost(stubs: Stubs, request: CreateTaskRequest, world: World) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await stubs.tasks.CreateTask(
            request, metadata=world.people[0].credentials, timeout=_PATIENCE, wait_for_ready=True
        )


async def _answered(stubs: Stubs, request: CreateTaskRequest, world: World) -> CreateTaskResponse:
    """As a client does that retries what is safe to repeat."""
    async with asyncio.timeout(60):
        while True:
            try:
                answer: CreateTaskResponse = await stubs.tasks.CreateTask(
                    request, metadata=world.people[0].credentials, timeout=10, wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REPEATED:
                    raise
                continue
            return answer


async def _check(world: World, log: OperationLog, tally: Tally, wanted: int) -> None:
    rows = await world.fetch(
        "SELECT id, title FROM task.tasks WHERE workspace_id = %(workspace)s",
        {"workspace": world.workspace.id},
    )
    kept: dict[str, list[str]] = {}
    for task_id, title in rows:
        kept.setdefault(title, []).append(str(task_id))
    for operation in log:
        found = kept.pop(operation.facts["title"], [])
        tally.lost += operation.facts["task"] not in found
        tally.doubled += max(0, len(found) - 1)
    tally.doubled += len(kept)
    tally.figures["rows"] = f"{len(rows):,} of {wanted:,}"
