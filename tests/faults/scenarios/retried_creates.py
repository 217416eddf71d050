"""Responses are lost after the commit, and clients retry with the same request_id: hand-written ones and our SDK."""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc.aio

from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest, CreateTaskResponse
from taskflow_client import TaskFlow
from taskflow_client.session_store import MemorySessions, Session
from tests.faults.harness.oplog import OperationLog
from tests.faults.harness.proxy import Proxy
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import SeededPerson, Stubs, World, a_world, stubs_at

# A function that starts a call, or returns the call that is running.
Begin = Callable[[], asyncio.Future[Any]]

PROMISE = "A retried create happens once"

_CLIENTS = 8
# A hand-written client sends this many concurrent retries after a lost answer.
_RETRIES = 3
# Seconds that a client waits for an answer, and that it keeps retrying.
_DEADLINE = 10.0
_PATIENCE = 120.0
_REPEATED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# For this many dropped responses, the scenario also resets one connection during a running call.
_RESET_EVERY = 4
# Longer than a create takes (seconds), so that the reset falls before, within and after it.
_CREATE_SECONDS = 0.02


async def run(run: Run, tally: Tally) -> None:
    wanted = run.choose(150, 1000)
    host, _, port = run.gateway.rpartition(":")
    async with a_world(run) as world:
        with OperationLog(run.folder / "operations") as log:
            trial = Trial(world, log, tally, run.random)
            async with asyncio.TaskGroup() as clients:
                for number in range(_CLIENTS):
                    client = trial.by_hand if number % 2 else trial.by_sdk
                    count = wanted // _CLIENTS + (number < wanted % _CLIENTS)
                    clients.create_task(client(Proxy(host, int(port)), count))
            await _check(world, log, tally)
        tally.figures["responses dropped after the commit"] = f"{trial.dropped:,}"
        tally.figures["connections reset during the call"] = f"{trial.reset:,}"
        tally.expect(trial.dropped >= wanted, f"only {trial.dropped} responses were dropped")


class Trial:
    """Hand-written and SDK clients, each kind behind its own proxy."""

    def __init__(
        self, world: World, log: OperationLog, tally: Tally, chance: random.Random
    ) -> None:
        self._world = world
        self._log = log
        self._tally = tally
        self._random = chance
        self.dropped = 0
        self.reset = 0

    async def by_hand(self, proxy: Proxy, count: int) -> None:
        """Send several concurrent retries, so that repeated requests also race with each other."""
        async with proxy, stubs_at(proxy.address) as stubs:
            person = self._world.people[0]
            for number in range(count + count // _RESET_EVERY):
                request = self._request(str(uuid.uuid4()))
                entry = self._log.begin("create", title=request.task.title)
                if number < count:
                    await self._answer_lost(proxy, partial(_left, stubs, request, person))
                else:
                    await self._cut_off(proxy, partial(_left, stubs, request, person))
                answers = await asyncio.gather(
                    *(_answered(stubs, request, person) for _ in range(_RETRIES))
                )
                self._tally.operations += 1 + _RETRIES
                self._tally.expect(
                    all(answer == answers[0] for answer in answers),
                    f"retries were answered differently: {answers}",
                )
                entry.ok(task=answers[0].task.id)

    async def by_sdk(self, proxy: Proxy, count: int) -> None:
        """The SDK chooses the request_id and retries itself."""
        async with proxy, _sdk(proxy.address, self._world.people[0]) as client:
            for number in range(count + count // _RESET_EVERY):
                request = self._request("")
                entry = self._log.begin("create", title=request.task.title)
                call = asyncio.ensure_future(client.tasks.CreateTask(request))
                if number < count:
                    await self._answer_lost(proxy, partial(_same, call))
                else:
                    await self._cut_off(proxy, partial(_same, call))
                answer = await call
                self._tally.operations += 2
                entry.ok(task=answer.task.id)

    def _request(self, request_id: str) -> CreateTaskRequest:
        return CreateTaskRequest(
            project_id=self._world.project,
            task=Task(title=f"Weld {uuid.uuid4()}"),
            request_id=request_id,
        )

    async def _answer_lost(self, proxy: Proxy, begin: Begin) -> None:
        """Make the call until a response with the task was dropped on its way to the client."""
        give_up = time.monotonic() + _PATIENCE
        dropped = proxy.dropped
        proxy.drop_responses()
        under_way = begin()
        while proxy.dropped == dropped:
            if time.monotonic() > give_up:
                raise TimeoutError("no response came that could be dropped")
            if under_way.done():
                under_way = begin()
            await asyncio.sleep(0.001)
        proxy.pass_()
        self.dropped += 1
        self._tally.faults += 1

    async def _cut_off(self, proxy: Proxy, begin: Begin) -> None:
        """Make the call and reset its connection a moment later, at any point of the call."""
        begin()
        await asyncio.sleep(self._random.uniform(0, _CREATE_SECONDS))
        proxy.reset()
        self.reset += 1
        self._tally.faults += 1


def _same(call: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """Returns the call unchanged, because this client retries by itself."""
    return call


def _left(stubs: Stubs, request: CreateTaskRequest, person: SeededPerson) -> asyncio.Future[Any]:
    """Start a call without waiting for its end."""

    async def call() -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await _create(stubs, request, person)

    return asyncio.ensure_future(call())


async def _answered(
    stubs: Stubs, request: CreateTaskRequest, person: SeededPerson
) -> CreateTaskResponse:
    """Retry like a client that repeats idempotent calls."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                return await _create(stubs, request, person)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REPEATED:
                    raise


async def _create(
    stubs: Stubs, request: CreateTaskRequest, person: SeededPerson
) -> CreateTaskResponse:
    answer: CreateTaskResponse = await stubs.tasks.CreateTask(
        request, metadata=person.credentials, timeout=_DEADLINE, wait_for_ready=True
    )
    return answer


def _sdk(address: str, person: SeededPerson) -> TaskFlow:
    sessions = MemorySessions()
    token = person.credentials[0][1].removeprefix("Bearer ")
    session = Session(
        user_id=person.id,
        email=person.email,
        access_token=token,
        refresh_token="",
        # Never called: a token outlasts the run.
        renew_after=time.time() + 86400,
    )
    sessions.write(address, session)
    return TaskFlow(address, session_store=sessions, timeout=_PATIENCE, retry_for=_PATIENCE)


async def _check(world: World, log: OperationLog, tally: Tally) -> None:
    rows = await world.fetch(
        "SELECT id, title FROM task.tasks WHERE workspace_id = %(workspace)s",
        {"workspace": world.workspace.id},
    )
    kept: dict[str, list[str]] = {}
    for task_id, title in rows:
        kept.setdefault(title, []).append(str(task_id))
    creates = list(log)
    for create in creates:
        found = kept.pop(create.facts["title"], [])
        tally.lost += create.facts["task"] not in found
        tally.doubled += max(0, len(found) - 1)
    tally.doubled += sum(len(found) for found in kept.values())
    tally.figures["rows"] = f"{len(rows):,} of {len(creates):,} creates"
