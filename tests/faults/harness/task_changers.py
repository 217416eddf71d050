"""Clients that each update one task again and again, and log the answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask

from taskflow.task.v1.task_pb2 import TASK_STATUS_IN_PROGRESS, TASK_STATUS_TODO, Task
from taskflow.task.v1.task_service_pb2 import (
    ChangeTaskStatusRequest,
    CreateTaskRequest,
    UpdateTaskRequest,
)
from tests.faults.harness.oplog import OperationLog
from tests.faults.harness.scenario import Run
from tests.faults.harness.world import World

_WRITERS = 4
_TASKS_EACH = 6
# Seconds that a writer waits for an answer.
_PATIENCE = 15.0
# Attempts to create each initial task, a second apart.
_TRIES = 10


class Changes:
    """The owner changes tasks that are assigned to the second person; `acknowledged` counts the changes.

    One change in `notifying_every` is a status change, which notifies the assignee; the others change the priority and
    notify nobody. `pause` is the time between a writer's calls (seconds) and may be changed during the run.
    """

    def __init__(
        self, run: Run, world: World, log: OperationLog, *, notifying_every: int, pause: float
    ) -> None:
        self._run = run
        self._world = world
        self._log = log
        self._notifying_every = notifying_every
        self._tasks: list[Task] = []
        self.acknowledged = 0
        self.pause = pause

    @property
    def spare(self) -> Task:
        """A task that no writer changes."""
        return self._tasks[-1]

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Create the tasks; the writers work while the block runs."""
        for _ in range(_WRITERS * _TASKS_EACH + 1):
            self._tasks.append(await self._create())
        writing = [
            asyncio.create_task(self._write(self._tasks[n * _TASKS_EACH : (n + 1) * _TASKS_EACH]))
            for n in range(_WRITERS)
        ]
        try:
            yield
        finally:
            for task in writing:
                task.cancel()
            await asyncio.gather(*writing, return_exceptions=True)

    async def reach(self, acknowledged: int) -> None:
        """Wait until this many changes have been acknowledged."""
        while self.acknowledged < acknowledged:
            await asyncio.sleep(0.01)

    async def change(self, task: Task, *, telling: bool) -> None:
        """Change a task and keep the returned state."""
        entry = self._log.begin("status" if telling else "priority", task=task.id)
        try:
            answer = await (self._status(task) if telling else self._priority(task))
        except grpc.aio.AioRpcError as error:
            entry.raised(error)
            return
        task.CopyFrom(answer.task)
        entry.ok(revision=task.revision)
        self.acknowledged += 1

    async def _create(self) -> Task:
        """Create a task, with retries while the stack recovers from the previous scenario."""
        request = CreateTaskRequest(
            project_id=self._world.project,
            task=Task(title="Weigh the anchor", assignee_id=self._world.people[1].id),
        )
        for tries_left in reversed(range(_TRIES)):
            entry = self._log.begin("create")
            try:
                answer = await self._world.stubs.tasks.CreateTask(
                    request, metadata=self._world.people[0].credentials, timeout=_PATIENCE
                )
            except grpc.aio.AioRpcError as error:
                entry.raised(error)
                if not tries_left:
                    raise
                await asyncio.sleep(1)
            else:
                break
        task: Task = answer.task
        entry.ok(task=task.id, revision=task.revision)
        return task

    async def _write(self, tasks: list[Task]) -> None:
        count = 0
        while True:
            count += 1
            task = self._run.random.choice(tasks)
            await self.change(task, telling=count % self._notifying_every == 0)
            await asyncio.sleep(self.pause)

    def _status(self, task: Task) -> Any:
        todo = task.status == TASK_STATUS_TODO
        request = ChangeTaskStatusRequest(
            id=task.id, status=TASK_STATUS_IN_PROGRESS if todo else TASK_STATUS_TODO
        )
        return self._world.stubs.tasks.ChangeTaskStatus(
            request, metadata=self._world.people[0].credentials, timeout=_PATIENCE
        )

    def _priority(self, task: Task) -> Any:
        request = UpdateTaskRequest(
            task=Task(id=task.id, priority=task.priority % 4 + 1),  # type: ignore[arg-type]
            update_mask=FieldMask(paths=["priority"]),
        )
        return self._world.stubs.tasks.UpdateTask(
            request, metadata=self._world.people[0].credentials, timeout=_PATIENCE
        )
