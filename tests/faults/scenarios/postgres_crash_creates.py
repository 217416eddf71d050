"""All of Postgres is killed (SIGKILL) again and again while many clients create tasks in the same projects."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc.aio
from google.protobuf.struct_pb2 import Struct

from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest
from tests.faults.harness.checker import check
from tests.faults.harness.oplog import Entry, OperationLog
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import SeededPerson, World, a_world

PROMISE = "A Postgres crash under concurrent creates costs UNAVAILABLE only"
LIMIT_SECONDS = {"short": 300.0, "long": 900.0}

# Enough that several calls share each batch of both task processes.
_CLIENTS = 96
_PROJECTS = 2
# Creates go on for this long (seconds) between a recovery and the next kill.
_BETWEEN = (0.05, 0.4)
# Longer than the server works on a call (`max_call_seconds`): no client gives up before the server answers.
_DEADLINE = 40.0
# After UNAVAILABLE a client waits this long (seconds).
_PAUSE = 0.2
# The parts of the creates with a request_id and with a payload. The latter use numbers outside of batches.
_REPEATABLE = 0.3
_WITH_PAYLOAD = 0.4


@dataclass
class Clients:
    """Clients that each create one task after the other until `stop` is set."""

    world: World
    log: OperationLog
    random: random.Random
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    codes: Counter[str] = field(default_factory=Counter)
    # Answers that no client should see, by their text.
    wrong: Counter[str] = field(default_factory=Counter)
    # Ids of acknowledged tasks by their key: a key belongs to one task.
    keys: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    # Acknowledged tasks with a payload: each has one job.
    with_payload: set[str] = field(default_factory=set)
    # When the newest acknowledged call began (time.monotonic()).
    newest: float = 0.0
    # Request_ids whose repetitions were answered with another task.
    doubled: int = 0

    async def create_tasks(self, number: int) -> None:
        person = self.world.people[number % len(self.world.people)]
        while not self.stop.is_set():
            title = f"made {uuid4()}"
            request = CreateTaskRequest(
                project_id=self.random.choice(self.world.workspace.projects),
                task=Task(title=title, payload=self._payload()),
            )
            entry = self.log.begin("create", title=title)
            if self.random.random() < _REPEATABLE:
                request.request_id = str(uuid4())
                await self._create_repeatedly(request, person, entry)
            else:
                await self._create_once(request, person, entry)

    def _payload(self) -> Struct | None:
        if self.random.random() >= _WITH_PAYLOAD:
            return None
        payload = Struct()
        payload.update({"message": "weigh the anchor"})
        return payload

    async def _create_once(
        self, request: CreateTaskRequest, person: SeededPerson, entry: Entry
    ) -> None:
        try:
            task = await self._call(request, person)
        except grpc.aio.AioRpcError as error:
            entry.raised(error)
            await asyncio.sleep(_PAUSE)
        else:
            entry.ok(task=task.id)

    async def _create_repeatedly(
        self, request: CreateTaskRequest, person: SeededPerson, entry: Entry
    ) -> None:
        """Sends the request twice at once until both calls are acknowledged."""
        found: set[str] = set()
        waiting = 2
        while waiting:
            calls = (self._call(request, person) for _ in range(waiting))
            for answer in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(answer, Task):
                    found.add(answer.id)
                    waiting -= 1
                elif not isinstance(answer, grpc.aio.AioRpcError):
                    raise answer
            if waiting:
                await asyncio.sleep(_PAUSE)
        self.doubled += len(found) > 1
        entry.ok(task=min(found))

    async def _call(self, request: CreateTaskRequest, person: SeededPerson) -> Task:
        begun = time.monotonic()
        call: Any = self.world.stubs.tasks.CreateTask(
            request, metadata=person.credentials, timeout=_DEADLINE
        )
        try:
            task: Task = (await call).task
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            self.codes[code] += 1
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                self.wrong[f"{code}: {error.details()}"] += 1
            raise
        self.codes["OK"] += 1
        self.newest = max(self.newest, begun)
        self.keys.setdefault((task.project_id, task.key), set()).add(task.id)
        if request.task.HasField("payload"):
            self.with_payload.add(task.id)
        return task

    async def recovered(self, since: float) -> float:
        """Waits for an answer to a call that began after `since`; returns the seconds until it."""
        while self.newest <= since:
            await asyncio.sleep(0.01)
        return time.monotonic() - since


async def run(run: Run, tally: Tally) -> None:
    async with a_world(run, people=8, projects=_PROJECTS) as world:
        with OperationLog(run.folder / "operations") as log:
            clients = Clients(world, log, run.random)
            async with asyncio.TaskGroup() as group:
                for number in range(_CLIENTS):
                    group.create_task(clients.create_tasks(number))
                try:
                    await _kill(run, clients, run.choose(25, 100), tally)
                finally:
                    clients.stop.set()
            tally.operations = clients.codes.total()
            await check(world.settings, world.workspace.id, log, tally)
        await _check_numbers(world, clients, tally)
        await _check_jobs(world, clients, tally)
    for text, count in clients.wrong.most_common(5):
        tally.broken.append(f"{count} × {text}")
    tally.figures["answers"] = ", ".join(f"{code} {n:,}" for code, n in clients.codes.most_common())


async def _kill(run: Run, clients: Clients, count: int, tally: Tally) -> None:
    await clients.recovered(0.0)
    for number in range(count):
        await asyncio.sleep(run.random.uniform(*_BETWEEN))
        run.say(f"kill {number + 1} of Postgres")
        killed = time.monotonic()
        await run.stack.hold("postgres")
        run.stack.release("postgres")
        tally.faults += 1
        tally.recovered_after(await clients.recovered(killed))


async def _check_numbers(world: World, clients: Clients, tally: Tally) -> None:
    """No number belongs to two tasks, and none that is taken will be given out again."""
    tally.doubled += clients.doubled
    tally.doubled += sum(len(found) > 1 for found in clients.keys.values())
    behind = await world.fetch(
        "SELECT p.key, p.next_number, max(t.number) FROM task.projects p"
        " JOIN task.tasks t ON t.project_id = p.id WHERE p.workspace_id = %(workspace)s"
        " GROUP BY p.id HAVING max(t.number) >= p.next_number",
        {"workspace": world.workspace.id},
    )
    for key, following, highest in behind:
        tally.broken.append(f"{key} issues {following} next, but {key}-{highest} exists")


async def _check_jobs(world: World, clients: Clients, tally: Tally) -> None:
    rows = await world.fetch(
        "SELECT task_id FROM task.jobs WHERE workspace_id = %(workspace)s",
        {"workspace": world.workspace.id},
    )
    jobs = Counter(str(task_id) for (task_id,) in rows)
    tally.lost += sum(jobs[task_id] == 0 for task_id in clients.with_payload)
    tally.doubled += sum(count > 1 for count in jobs.values())
