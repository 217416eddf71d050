"""One workspace with a project, all stubs of the task service, and clients that follow WatchTasks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.datetime_pb2 import DateTime, TimeZone

from services.platform.config import Settings
from services.platform.data.db import Database
from services.platform.rpc.identity import SERVICE_HEADER
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.task.v1 import task_pb2
from taskflow.task.v1.internal_service_pb2_grpc import (
    JobInternalServiceStub,
    ReminderInternalServiceStub,
    SuggestionInternalServiceStub,
)
from taskflow.task.v1.job_service_pb2_grpc import JobServiceStub
from taskflow.task.v1.project_pb2 import Project
from taskflow.task.v1.project_service_pb2 import CreateProjectRequest
from taskflow.task.v1.project_service_pb2_grpc import ProjectServiceStub
from taskflow.task.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import (
    ChangeTaskStatusRequest,
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    TaskChangeKind,
    UndeleteTaskRequest,
    UpdateTaskRequest,
    WatchTasksRequest,
    WatchTasksResponse,
)
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.integration.people import Person, Refusal, Team, database, read_refusal, team_at

# Time limit (seconds) of every wait: far more than any wait takes, even on a busy machine.
PATIENCE = 20.0


@dataclass
class TaskWorld:
    """One workspace with a project. Calls are made by its owner, on services in this process."""

    settings: Settings
    db: Database
    team: Team
    channel: grpc.aio.Channel
    owner: Person
    workspace_id: str
    project_id: str = ""

    def __post_init__(self) -> None:
        self.projects = ProjectServiceStub(self.channel)
        self.tasks = TaskServiceStub(self.channel)
        self.suggestions = SuggestionServiceStub(self.channel)
        self.jobs = JobServiceStub(self.channel)
        self.worker_suggestions = SuggestionInternalServiceStub(self.channel)
        self.worker_jobs = JobInternalServiceStub(self.channel)
        self.worker_reminders = ReminderInternalServiceStub(self.channel)
        secret = self.settings.service_secret.get_secret_value()
        self.service = ((SERVICE_HEADER, secret),)
        self.me = self.owner.credentials

    async def new_project(self, key: str = "OPS") -> str:
        answer = await self.projects.CreateProject(
            CreateProjectRequest(
                workspace_id=self.workspace_id, project=Project(key=key, display_name=key)
            ),
            metadata=self.me,
        )
        return str(answer.project.id)

    async def member(self, name: str, role: Any = Role.ROLE_MEMBER) -> Person:
        person = await self.team.person(name)
        await self.team.add(self.owner, self.workspace_id, person.email, role)
        return person

    async def create(self, title: str = "Renew the certificate", **fields: Any) -> Task:
        request = CreateTaskRequest(
            project_id=fields.pop("project_id", self.project_id), task=Task(title=title, **fields)
        )
        task: Task = (await self.tasks.CreateTask(request, metadata=self.me)).task
        return task

    async def update(self, task: Task, *clear: str, **fields: Any) -> Task:
        request = UpdateTaskRequest(
            task=Task(id=task.id, **fields), update_mask=FieldMask(paths=[*fields, *clear])
        )
        changed: Task = (await self.tasks.UpdateTask(request, metadata=self.me)).task
        return changed

    async def set_status(self, task: Task, status: Any = task_pb2.TASK_STATUS_DONE) -> Task:
        request = ChangeTaskStatusRequest(id=task.id, status=status)
        changed: Task = (await self.tasks.ChangeTaskStatus(request, metadata=self.me)).task
        return changed

    async def delete(self, task: Task) -> None:
        await self.tasks.DeleteTask(DeleteTaskRequest(id=task.id), metadata=self.me)

    async def undelete(self, task: Task) -> None:
        await self.tasks.UndeleteTask(UndeleteTaskRequest(id=task.id), metadata=self.me)

    async def get(self, task: Task) -> Task:
        found: Task = (await self.tasks.GetTask(GetTaskRequest(id=task.id), metadata=self.me)).task
        return found

    async def listed(self, wanted: TaskFilter | None = None) -> dict[str, Task]:
        found: dict[str, Task] = {}
        token = ""
        while True:
            request = ListTasksRequest(
                workspace_id=self.workspace_id, filter=wanted, page_token=token
            )
            answer = await self.tasks.ListTasks(request, metadata=self.me)
            found |= {task.id: task for task in answer.tasks}
            token = answer.next_page_token
            if not token:
                return found

    def watch(self, person: Person | None = None, **request: Any) -> Any:
        return self.tasks.WatchTasks(
            WatchTasksRequest(**{"workspace_id": self.workspace_id, **request}),
            metadata=(person or self.owner).credentials,
        )

    async def opened(self, person: Person | None = None, **request: Any) -> Any:
        """A stream of new changes, after its first heartbeat."""
        call = self.watch(person, **request)
        assert (await next_message(call)).WhichOneof("kind") == "heartbeat"
        return call


def due_at(instant: Any) -> task_pb2.Due:
    """A deadline at an instant, given as an aware datetime."""
    return task_pb2.Due(
        date_time=DateTime(
            year=instant.year,
            month=instant.month,
            day=instant.day,
            hours=instant.hour,
            minutes=instant.minute,
            seconds=instant.second,
            nanos=instant.microsecond * 1000,
            time_zone=TimeZone(id="UTC"),
        )
    )


@asynccontextmanager
async def a_task_world(settings: Settings) -> AsyncIterator[TaskWorld]:
    """A new workspace on the auth service, the task service and the relay, which already run."""
    async with AsyncExitStack() as open_things:
        team = await open_things.enter_async_context(team_at(settings))
        db = await open_things.enter_async_context(database(settings))
        channel = await open_things.enter_async_context(grpc.aio.insecure_channel(settings.task))
        owner = await team.person("olga")
        workspace = await team.workspace(owner, ai_enabled=True)
        world = TaskWorld(settings, db, team, channel, owner, workspace.id)
        world.project_id = await world.new_project()
        yield world


async def next_message(call: Any) -> WatchTasksResponse:
    async with asyncio.timeout(PATIENCE):
        message: WatchTasksResponse = await call.read()
    assert isinstance(message, WatchTasksResponse), "the stream ended"
    return message


async def next_event(call: Any) -> WatchTasksResponse:
    """The next message that isn't a heartbeat."""
    while True:
        message = await next_message(call)
        if message.WhichOneof("kind") != "heartbeat":
            return message


async def events(call: Any, count: int) -> list[WatchTasksResponse]:
    return [await next_event(call) for _ in range(count)]


async def ended(call: Any, seen: list[WatchTasksResponse] | None = None) -> Refusal:
    """The error that ends the stream within 5 s. Messages before it, except heartbeats, are added to `seen`."""
    rest = [] if seen is None else seen

    async def drain() -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            if message.WhichOneof("kind") != "heartbeat":
                rest.append(message)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(drain(), 5)
    return read_refusal(caught.value)


def summary(message: WatchTasksResponse) -> tuple[str, str, int]:
    """A change in short: its kind, the task's title and revision."""
    kind = TaskChangeKind.Name(message.change.kind).removeprefix("TASK_CHANGE_KIND_")
    return kind, message.change.task.title, message.change.task.revision


@dataclass
class Mirror:
    """A client that learns of tasks only from its streams, as a board does."""

    tasks: dict[str, Task] = field(default_factory=dict)
    cursor: str = ""
    snapshot_done: bool = False
    resets: int = 0

    def apply(self, message: WatchTasksResponse) -> None:
        self.cursor = message.cursor
        match message.WhichOneof("kind"):
            case "snapshot":
                self._keep(message.snapshot)
            case "change":
                self._keep(message.change.task)
            case "snapshot_complete":
                self.snapshot_done = True
            case "reset":
                self.resets += 1

    def _keep(self, task: Task) -> None:
        known = self.tasks.get(task.id)
        if known is None or known.revision <= task.revision:
            self.tasks[task.id] = task

    def live(self) -> dict[str, Task]:
        return {key: task for key, task in self.tasks.items() if not task.HasField("delete_time")}
