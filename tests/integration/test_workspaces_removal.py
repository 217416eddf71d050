"""Promises about removing a member with assigned tasks: access ends at once, the rest follows in small batches."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc
import grpc.aio
import psycopg
import pytest

from services.platform.config import Settings
from services.platform.data.db import Database
from services.task.tasks import bulk
from taskflow.auth.v1 import user_service_pb2
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

    async def list(self, assignee_id: str) -> set[str]:
        """The ids of the open and closed tasks with this assignee; "" finds unassigned ones."""
        listed = await self.tasks.ListTasks(
            task_service_pb2.ListTasksRequest(
                workspace_id=self.workspace_id,
                filter=task_pb2.TaskFilter(assignee_ids=[assignee_id]),
                page_size=1000,
            ),
            metadata=self.ada.credentials,
        )
        return {task.id for task in listed.tasks}

    async def is_at(self, id: str, revision: int) -> bool:
        return (await self.read(id)).revision == revision

    async def set_status(self, id: str, status: task_pb2.TaskStatus.ValueType) -> task_pb2.Task:
        answer = await self.tasks.ChangeTaskStatus(
            task_service_pb2.ChangeTaskStatusRequest(id=id, status=status),
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
        assert (await work.read(task.id)).assignee_id == ""
        await eventually(partial(work.is_at, task.id, task.revision + 1))
        after = await work.read(task.id)
        assert after.assignee_id == ""
        (event,) = await events(db, f"taskflow.{work.workspace_id}.task.updated", task.id)
        assert list(event.task_updated.changed_fields.paths) == ["assignee_id"]
        assert event.task_updated.before.assignee_id == work.bob.id
        assert event.task_updated.task.assignee_id == ""
        assert (event.revision, event.actor_id) == (after.revision, work.ada.id)
    for task in (*closed, *others):
        assert await work.read(task.id) == task


@asynccontextmanager
async def locked(settings: Settings, task_id: str) -> AsyncIterator[None]:
    """Another transaction holds the task's row, so that nothing that needs it goes on."""
    async with await psycopg.AsyncConnection.connect(settings.postgres) as connection:
        await connection.execute("SELECT FROM task.tasks WHERE id = %s FOR UPDATE", (task_id,))
        yield


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_a_removal_waits_for_none_of_the_tasks(work: Work, services: Settings) -> None:
    first = await work.create(assignee_id=work.bob.id)
    second = await work.create(assignee_id=work.bob.id)
    third = await work.create(assignee_id=work.ada.id)
    async with locked(services, first.id):
        async with asyncio.timeout(5):
            await work.team.remove(work.ada, work.workspace_id, work.bob.id)
        for task in (first, second):
            assert (await work.read(task.id)).assignee_id == ""
        assert await work.list(work.bob.id) == set()
        assert await work.list("") == {first.id, second.id}
        assert await work.list(work.ada.id) == {third.id}
    for task in (first, second):
        await eventually(partial(work.is_at, task.id, task.revision + 1))
    assert await work.list("") == {first.id, second.id}


async def test_a_change_of_a_former_members_task_unassigns_it(
    work: Work, services: Settings, db: Database
) -> None:
    first = await work.create(assignee_id=work.bob.id)
    finished = await work.create(assignee_id=work.bob.id)
    handed_on = await work.create(assignee_id=work.bob.id)
    async with locked(services, first.id):
        await work.team.remove(work.ada, work.workspace_id, work.bob.id)
        assert (await work.set_status(finished.id, task_pb2.TASK_STATUS_DONE)).assignee_id == ""
        assert (await work.assign(handed_on.id, work.ada.id)).assignee_id == work.ada.id
    await eventually(lambda: work.is_at(first.id, first.revision + 1))
    assert (await work.read(finished.id)).assignee_id == ""
    assert (await work.read(handed_on.id)).assignee_id == work.ada.id
    (event,) = await events(db, f"taskflow.{work.workspace_id}.task.updated", finished.id)
    assert list(event.task_updated.changed_fields.paths) == ["assignee_id", "status"]
    assert event.task_updated.before.assignee_id == work.bob.id


async def test_a_former_member_returns_when_no_task_is_left(work: Work, services: Settings) -> None:
    task = await work.create(assignee_id=work.bob.id)
    async with locked(services, task.id):
        await work.team.remove(work.ada, work.workspace_id, work.bob.id)
        refused = await refusal(
            work.team.add(work.ada, work.workspace_id, work.bob.email, ROLE_MEMBER)
        )
        assert refused.reason == "DEPENDENCY_UNAVAILABLE"
    await work.team.add(work.ada, work.workspace_id, work.bob.email, ROLE_MEMBER)
    assert (await work.read(task.id)).assignee_id == ""
    assert (await work.assign(task.id, work.bob.id)).assignee_id == work.bob.id
    assert (await work.read(task.id)).assignee_id == work.bob.id


async def test_a_removal_never_deadlocks_with_creating_and_restoring_tasks(work: Work) -> None:
    for _ in range(4):
        tasks = [await work.create(assignee_id=work.bob.id) for _ in range(6)]
        for task in tasks[:3]:
            await work.tasks.DeleteTask(
                task_service_pb2.DeleteTaskRequest(id=task.id), metadata=work.ada.credentials
            )
        calls: list[Awaitable[object]] = [
            work.tasks.UndeleteTask(
                task_service_pb2.UndeleteTaskRequest(id=task.id), metadata=work.ada.credentials
            )
            for task in tasks[:3]
        ]
        calls += [work.set_status(task.id, task_pb2.TASK_STATUS_TODO) for task in tasks[3:]]
        calls += [work.create(assignee_id=work.bob.id) for _ in range(4)]
        calls.insert(3, work.team.remove(work.ada, work.workspace_id, work.bob.id))
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, grpc.aio.AioRpcError):
                assert result.code() is _Code.FAILED_PRECONDITION, result.details()
            else:
                assert not isinstance(result, BaseException), result
        assert await work.list(work.bob.id) == set()
        await work.team.add(work.ada, work.workspace_id, work.bob.email, ROLE_MEMBER)


async def test_calls_that_wait_for_one_row_leave_connections_to_others(
    work: Work, services: Settings
) -> None:
    others = [await work.team.person(f"other{n}") for n in range(12)]
    async with await psycopg.AsyncConnection.connect(services.postgres) as connection:
        await connection.execute(
            "SELECT FROM auth.workspaces WHERE id = %s FOR UPDATE", (work.workspace_id,)
        )
        adding = [
            asyncio.ensure_future(
                refusal(work.team.add(work.ada, work.workspace_id, other.email, ROLE_MEMBER))
            )
            for other in others
        ]
        await asyncio.sleep(0.2)
        await work.team.users.GetCurrentUser(
            user_service_pb2.GetCurrentUserRequest(), metadata=work.bob.credentials
        )
        assert {each.code for each in await asyncio.gather(*adding)} == {_Code.UNAVAILABLE}


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
