"""Promises about permissions on tasks, also while members join or leave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import grpc
import pytest

from services.platform.config import Settings
from taskflow.auth.v1 import auth_service_pb2
from taskflow.task.v1 import task_pb2, task_service_pb2
from tests.integration.people import Person, refusal
from tests.integration.roles_world import (
    People,
    RolesWorld,
    Task,
    due_date,
    people_of,
    roles_world_at,
)

_Code = grpc.StatusCode
DONE = task_pb2.TASK_STATUS_DONE
TODO = task_pb2.TASK_STATUS_TODO

_WRITES: dict[str, Callable[[RolesWorld, Any, Task, Person], Awaitable[object]]] = {
    "create": lambda world, project, task, by: world.create(project, by=by),
    "update": lambda world, project, task, by: world.update(task, title="x", by=by),
    "assign": lambda world, project, task, by: world.assign(task, "", by=by),
    "status": lambda world, project, task, by: world.set_status(task, DONE, by=by),
    "delete": lambda world, project, task, by: world.delete(task, by=by),
    "undelete": lambda world, project, task, by: world.undelete(task, by=by),
}


@pytest.fixture(scope="module")
async def people(services: Settings) -> People:
    return await people_of(services)


@pytest.fixture
async def world(services: Settings, people: People) -> AsyncIterator[RolesWorld]:
    async with roles_world_at(services, people) as world:
        yield world


@pytest.mark.parametrize("name", _WRITES)
async def test_a_viewer_can_read_tasks_and_not_change_them(world: RolesWorld, name: str) -> None:
    project = await world.project()
    task = await world.create(project)
    viewer = world.people.viewer
    assert await world.get(task.id, by=viewer) == task
    assert await world.all(project.workspace_id, by=viewer) == [task]
    failed = await refusal(_WRITES[name](world, project, task, viewer))
    assert (failed.code, failed.reason) == (_Code.PERMISSION_DENIED, "ROLE_TOO_LOW")
    assert failed.metadata == {"role": "VIEWER", "required_role": "MEMBER"}
    assert await world.all(project.workspace_id) == [task]


@pytest.mark.parametrize("name", _WRITES)
async def test_foreign_and_missing_tasks_get_the_same_answer(world: RolesWorld, name: str) -> None:
    project = await world.project()
    task = await world.create(project)
    nothing = type(project)(id=str(uuid4()))
    stranger = world.people.stranger
    foreign = await refusal(_WRITES[name](world, project, task, stranger))
    absent = await refusal(_WRITES[name](world, nothing, Task(id=str(uuid4())), stranger))
    assert foreign == absent
    assert foreign.code is _Code.NOT_FOUND
    assert await world.all(project.workspace_id) == [task]


async def test_no_call_returns_anything_of_foreign_tasks(world: RolesWorld) -> None:
    project = await world.project()
    task = await world.create(project)
    stranger = world.people.stranger
    own = await world.team.workspace(stranger)
    for read in (
        world.get(task.id, by=stranger),
        world.get(task.key, project.workspace_id, by=stranger),
        world.get(task.key, own.id, by=stranger),
        world.get(task.id, own.id, by=stranger),
        world.page(project.workspace_id, by=stranger),
    ):
        assert (await refusal(read)).code is _Code.NOT_FOUND
    of_project = task_pb2.TaskFilter(project_ids=[project.id])
    assert await world.all(own.id, by=stranger, filter=of_project) == []
    # Naming a foreign task as parent, or its owner as assignee, reveals nothing.
    mine = await world.project(own.id, by=stranger)
    failed = await refusal(world.create(mine, by=stranger, parent_id=task.id))
    assert failed.reason == "PARENT_INVALID"
    failed = await refusal(world.create(mine, by=stranger, assignee_id=world.people.member.id))
    assert failed == await refusal(
        world.create(mine, by=stranger, assignee_id=world.people.member.id)
    )
    assert failed.reason == "ASSIGNEE_NOT_MEMBER"


async def test_calls_without_a_token_are_refused_before_validation(world: RolesWorld) -> None:
    failed = await refusal(world.tasks.GetTask(task_service_pb2.GetTaskRequest()))
    assert (failed.code, failed.reason) == (_Code.UNAUTHENTICATED, "CREDENTIALS_MISSING")


async def test_an_ended_session_can_neither_read_nor_change_tasks(world: RolesWorld) -> None:
    project = await world.project()
    task = await world.create(project)
    person = await world.newcomer(project.workspace_id)
    assert await world.get(task.id, by=person) == task
    await world.team.auth.Logout(auth_service_pb2.LogoutRequest(), metadata=person.credentials)
    for call in (
        world.get(task.id, by=person),
        world.page(project.workspace_id, by=person),
        *(write(world, project, task, person) for write in _WRITES.values()),
    ):
        failed = await refusal(call)
        assert (failed.code, failed.reason) == (_Code.UNAUTHENTICATED, "SESSION_REVOKED")


@pytest.mark.parametrize("name", _WRITES)
async def test_an_archived_project_refuses_every_write_to_its_tasks(
    world: RolesWorld, name: str
) -> None:
    project = await world.project()
    task = await world.create(project)
    await world.archive(project)
    failed = await refusal(_WRITES[name](world, project, task, world.people.owner))
    assert (failed.code, failed.reason) == (_Code.FAILED_PRECONDITION, "PROJECT_ARCHIVED")
    assert await world.all(project.workspace_id) == [task]
    await world.unarchive(project)
    assert (await world.update(task, title="Again")).title == "Again"


async def test_no_task_changes_after_archive_was_acknowledged(world: RolesWorld) -> None:
    for _ in range(5):
        project = await world.project()
        task = await world.create(project)
        writes = [
            asyncio.ensure_future(write)
            for n in range(10)
            for write in (world.create(project), world.update(task, title=f"Title {n}"))
        ]
        await asyncio.sleep(0.005)
        await world.archive(project)
        then = await world.all(project.workspace_id)
        await asyncio.gather(*writes, return_exceptions=True)
        assert await world.all(project.workspace_id) == then


async def test_an_assignee_must_be_a_member(world: RolesWorld) -> None:
    project = await world.project()
    task = await world.create(project, assignee_id=world.people.owner.id)
    for nobody in (world.people.stranger.id, str(uuid4())):
        for write in (
            world.create(project, assignee_id=nobody),
            world.update(task, assignee_id=nobody),
            world.assign(task, nobody),
        ):
            failed = await refusal(write)
            assert (failed.code, failed.reason) == (
                _Code.FAILED_PRECONDITION,
                "ASSIGNEE_NOT_MEMBER",
            )
            assert failed.metadata == {"assignee_id": nobody}
    assert (await world.get(task.id)).assignee_id == world.people.owner.id
    assert (await world.assign(task, "")).assignee_id == ""


async def test_removing_a_member_unassigns_their_open_tasks(world: RolesWorld) -> None:
    project = await world.project()
    person = await world.newcomer(project.workspace_id, "Pacific/Auckland")
    theirs: dict[str, Any] = {"assignee_id": person.id}
    plain = await world.create(project, **theirs)
    dated = await world.create(project, due=due_date(2031, 1, 1), **theirs)
    done = await world.create(project, status=DONE, **theirs)
    gone = await world.create(project, **theirs)
    await world.delete(gone)
    others = await world.create(project, assignee_id=world.people.owner.id)
    await world.team.remove(world.people.owner, project.workspace_id, person.id)

    for task in (plain, dated):
        assert (await world.get(task.id)).assignee_id == ""
        async with asyncio.timeout(20):
            while (await world.get(task.id)).revision == task.revision:
                await asyncio.sleep(0.05)
        now = await world.get(task.id)
        assert (now.assignee_id, now.revision) == ("", 2)
        event = (await world.events(task.id))[-1]
        assert event.type == "task.updated"
        assert event.actor_id == world.people.owner.id
        assert event.task_updated.before.assignee_id == person.id
        assert event.task_updated.task == now
    # The creator's time zone applies now, which isn't New Zealand's.
    assert (await world.get(dated.id)).due_time.seconds == dated.due_time.seconds + 13 * 3600
    assert (await world.get(done.id)).assignee_id == person.id
    assert (await world.get(others.id)).assignee_id == world.people.owner.id
    # An undeleted task isn't reassigned to a user who left.
    assert (await world.undelete(gone)).assignee_id == ""
    assert (await world.set_status(done, TODO)).assignee_id == ""


async def test_no_assignment_survives_a_concurrent_removal(world: RolesWorld) -> None:
    project = await world.project()
    for _ in range(5):
        person = await world.newcomer(project.workspace_id)
        tasks = [await world.create(project) for _ in range(6)]
        calls: list[Awaitable[object]] = [world.assign(task, person.id) for task in tasks]
        calls += [world.create(project, assignee_id=person.id) for _ in range(6)]
        calls.insert(6, world.team.remove(world.people.owner, project.workspace_id, person.id))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results[6] is None
        theirs = task_pb2.TaskFilter(assignee_ids=[person.id], include_deleted=True)
        assert await world.all(project.workspace_id, filter=theirs) == []
