"""Promises about removing a member with assigned tasks: tasks and membership change in one transaction."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest

from services.platform.config import Settings
from services.platform.data.db import Database
from services.task.tasks import bulk
from taskflow.auth.v1.workspace_pb2 import ROLE_MEMBER
from taskflow.task.v1 import (
    project_pb2,
    project_service_pb2,
    project_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
)
from tests.integration.people import Person, Team, database, events, refusal, team_at

_Code = grpc.StatusCode
_OPEN = (task_pb2.TASK_STATUS_TODO, task_pb2.TASK_STATUS_IN_PROGRESS)
_CLOSED = (task_pb2.TASK_STATUS_DONE, task_pb2.TASK_STATUS_CANCELED)


@dataclass(frozen=True)
class Work:
    """Ada's workspace with a project, and Bob as a member."""

    team: Team
    tasks: task_service_pb2_grpc.TaskServiceStub
    ada: Person
    bob: Person
    workspace_id: str
    project_id: str

    async def create(self, **fields: object) -> task_pb2.Task:
        answer = await self.tasks.CreateTask(
            task_service_pb2.CreateTaskRequest(
                project_id=self.project_id,
                task=task_pb2.Task(**{"title": "A task", **fields}),  # type: ignore[arg-type]
            ),
            metadata=self.ada.credentials,
        )
        return answer.task

    async def read(self, id: str) -> task_pb2.Task:
        answer = await self.tasks.GetTask(
            task_service_pb2.GetTaskRequest(id=id), metadata=self.ada.credentials
        )
        return answer.task

    async def assign(self, id: str, user_id: str) -> task_pb2.Task:
        answer = await self.tasks.AssignTask(
            task_service_pb2.AssignTaskRequest(id=id, assignee_id=user_id),
            metadata=self.ada.credentials,
        )
        return answer.task


@pytest.fixture
async def work(services: Settings) -> AsyncIterator[Work]:
    async with team_at(services) as team, grpc.aio.insecure_channel(services.task) as channel:
        ada, bob = await asyncio.gather(team.person("ada"), team.person("bob"))
        workspace = await team.workspace(ada)
        await team.add(ada, workspace.id, bob.email, ROLE_MEMBER)
        created = await project_service_pb2_grpc.ProjectServiceStub(channel).CreateProject(
            project_service_pb2.CreateProjectRequest(
                workspace_id=workspace.id,
                project=project_pb2.Project(key="OPS", display_name="Operations"),
            ),
            metadata=ada.credentials,
        )
        yield Work(
            team,
            task_service_pb2_grpc.TaskServiceStub(channel),
            ada,
            bob,
            workspace.id,
            created.project.id,
        )


@pytest.fixture
async def db(services: Settings) -> AsyncIterator[Database]:
    async with database(services) as db:
        yield db


async def test_a_removal_unassigns_open_tasks_with_an_event_each(work: Work, db: Database) -> None:
    mine = [await work.create(assignee_id=work.bob.id, status=status) for status in _OPEN]
    closed = [await work.create(assignee_id=work.bob.id, status=status) for status in _CLOSED]
    others = [await work.create(assignee_id=work.ada.id), await work.create()]
    await work.team.remove(work.ada, work.workspace_id, work.bob.id)
    for task in mine:
        after = await work.read(task.id)
        assert after.assignee_id == ""
        assert after.revision == task.revision + 1
        (event,) = await events(db, f"taskflow.{work.workspace_id}.task.updated", task.id)
        assert list(event.task_updated.changed_fields.paths) == ["assignee_id"]
        assert event.task_updated.before.assignee_id == work.bob.id
        assert event.task_updated.task.assignee_id == ""
        assert (event.revision, event.actor_id) == (after.revision, work.ada.id)
    for task in (*closed, *others):
        assert await work.read(task.id) == task


async def test_a_removal_unassigns_any_number_of_tasks(work: Work) -> None:
    count = 2 * bulk.BATCH + 1
    await asyncio.gather(*(work.create(assignee_id=work.bob.id) for _ in range(count)))
    await work.team.remove(work.ada, work.workspace_id, work.bob.id)
    listed = await work.tasks.ListTasks(
        task_service_pb2.ListTasksRequest(workspace_id=work.workspace_id, page_size=1000),
        metadata=work.ada.credentials,
    )
    assert [task.assignee_id for task in listed.tasks] == [""] * count


async def test_a_refused_removal_changes_no_task(work: Work) -> None:
    task = await work.create(assignee_id=work.ada.id)
    refused = await refusal(work.team.remove(work.ada, work.workspace_id, work.ada.id))
    assert refused.reason == "LAST_OWNER"
    assert await work.read(task.id) == task


async def test_a_readded_member_does_not_get_the_tasks_back(work: Work) -> None:
    task = await work.create(assignee_id=work.bob.id)
    await work.team.remove(work.bob, work.workspace_id, work.bob.id)
    await work.team.add(work.ada, work.workspace_id, work.bob.email, ROLE_MEMBER)
    assert (await work.read(task.id)).assignee_id == ""


async def test_no_open_task_stays_with_a_member_removed_during_assignments(
    work: Work,
) -> None:
    tasks = [await work.create() for _ in range(8)]

    async def assign(task: task_pb2.Task) -> grpc.StatusCode:
        try:
            await work.assign(task.id, work.bob.id)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return _Code.OK

    async def create() -> grpc.StatusCode:
        try:
            tasks.append(await work.create(assignee_id=work.bob.id))
        except grpc.aio.AioRpcError as error:
            return error.code()
        return _Code.OK

    for _ in range(6):
        codes = await asyncio.gather(
            *(assign(task) for task in tasks[:4]),
            *(create() for _ in range(2)),
            asyncio.sleep(0.005, _Code.OK),
            *(assign(task) for task in tasks[4:8]),
            _removed(work),
        )
        assert set(codes) <= {_Code.OK, _Code.FAILED_PRECONDITION}
        for task in tasks:
            assert (await work.read(task.id)).assignee_id != work.bob.id
        await work.team.add(work.ada, work.workspace_id, work.bob.email, ROLE_MEMBER)


async def _removed(work: Work) -> grpc.StatusCode:
    await work.team.remove(work.ada, work.workspace_id, work.bob.id)
    return _Code.OK
