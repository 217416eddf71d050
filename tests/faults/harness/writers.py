"""People who create, change, delete and undelete tasks and read notifications; every operation is logged."""

import random
from collections import Counter, deque
from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask

from taskflow.notification.v1.notification_service_pb2 import (
    ListNotificationsRequest,
    MarkReadRequest,
)
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    DeleteTaskRequest,
    UndeleteTaskRequest,
    UpdateTaskRequest,
)
from tests.faults.harness.oplog import Entry, OperationLog
from tests.faults.harness.world import SeededPerson, Stubs, Workspace

# A call's time limit (seconds).
DEADLINE = 10.0
# The number of newest tasks being worked on: few, so that several people change the same one.
_IN_HAND = 60
_READ_AT_ONCE = 5
# Expected errors, because another person just deleted or undeleted the task.
_EXPECTED = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


class Writers:
    """The people of a workspace. The last one is the assignee of all tasks, and reads notifications."""

    def __init__(
        self,
        stubs: Stubs,
        workspace: Workspace,
        log: OperationLog,
        chance: random.Random,
        description: str = "",
        *,
        reads: bool = True,
    ) -> None:
        self._stubs = stubs
        self._workspace = workspace
        self._log = log
        self._random = chance
        self._description = description
        self._reads = reads
        self._tasks: deque[str] = deque(maxlen=_IN_HAND)
        self._deleted: deque[str] = deque(maxlen=_IN_HAND)
        self._unread: deque[str] = deque()
        # Number of calls by code, including OK; and unexpected failures by code and text.
        self.codes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    @property
    def _writers(self) -> list[SeededPerson]:
        return list(self._workspace.people[:-1])

    @property
    def _reader(self) -> SeededPerson:
        return self._workspace.people[-1]

    async def act(self, number: int) -> None:
        """Run the next operation of a random person; the log has its outcome."""
        person = self._writers[number % len(self._writers)]
        kind = self._random.random()
        if kind < 0.3 or not self._tasks:
            await self._create(person)
        elif kind < 0.7:
            await self._update(person)
        elif kind < 0.8:
            await self._delete(person)
        elif kind < 0.9 and self._deleted:
            await self._undelete(person)
        elif self._reads:
            await self._read()
        else:
            await self._update(person)

    async def _create(self, person: SeededPerson) -> None:
        title = f"made {uuid4()}"
        request = CreateTaskRequest(
            project_id=self._random.choice(self._workspace.projects),
            task=Task(title=title, description=self._description, assignee_id=self._reader.id),
        )
        entry = self._log.begin("create", title=title)
        answer = await self._told(entry, self._stubs.tasks.CreateTask, request, person)
        if answer is not None:
            entry.ok(task=answer.task.id)
            self._tasks.append(answer.task.id)

    async def _update(self, person: SeededPerson) -> None:
        task_id = self._random.choice(self._tasks)
        title = f"changed {uuid4()}"
        entry = self._log.begin("update", task=task_id, title=title)
        request = UpdateTaskRequest(
            task=Task(id=task_id, title=title), update_mask=FieldMask(paths=["title"])
        )
        if await self._told(entry, self._stubs.tasks.UpdateTask, request, person) is not None:
            entry.ok()

    async def _delete(self, person: SeededPerson) -> None:
        task_id = self._random.choice(self._tasks)
        entry = self._log.begin("delete", task=task_id)
        request = DeleteTaskRequest(id=task_id)
        if await self._told(entry, self._stubs.tasks.DeleteTask, request, person) is not None:
            entry.ok()
            self._deleted.append(task_id)

    async def _undelete(self, person: SeededPerson) -> None:
        task_id = self._random.choice(self._deleted)
        entry = self._log.begin("undelete", task=task_id)
        request = UndeleteTaskRequest(id=task_id)
        if await self._told(entry, self._stubs.tasks.UndeleteTask, request, person) is not None:
            entry.ok()

    async def _read(self) -> None:
        reader = self._reader
        if len(self._unread) < _READ_AT_ONCE:
            listing = ListNotificationsRequest(unread_only=True, page_size=50)
            entry = self._log.begin("list")
            answer = await self._told(
                entry, self._stubs.notifications.ListNotifications, listing, reader
            )
            if answer is not None:
                entry.ok()
                self._unread.extend(found.id for found in answer.notifications)
            return
        ids = [self._unread.popleft() for _ in range(_READ_AT_ONCE)]
        entry = self._log.begin("mark read", ids=ids)
        method = self._stubs.notifications.MarkRead
        if await self._told(entry, method, MarkReadRequest(ids=ids), reader) is not None:
            entry.ok()

    async def _told(self, entry: Entry, method: Any, request: Any, person: SeededPerson) -> Any:
        """Makes a call; returns its answer, or None after a failure. Both are logged."""
        call: Awaitable[Any] = method(request, metadata=person.credentials, timeout=DEADLINE)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1
            if error.code() not in _EXPECTED:
                self.failures[f"{error.code().name}: {error.details()}"] += 1
            entry.raised(error)
            return None
        self.codes["OK"] += 1
        return answer
