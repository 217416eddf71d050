"""Promises about who may do what with tasks, and about those who come and go meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import grpc
import pytest

from services.platform.config import Settings
from taskflow.auth.v1 import auth_service_pb2
from taskflow.task.v1 import task_pb2, task_service_pb2
from tests.integration.desk import Desk, People, Task, desk_at, due_date, people_of
from tests.integration.people import Person, refusal

_Code = grpc.StatusCode
DONE = task_pb2.TASK_STATUS_DONE
TODO = task_pb2.TASK_STATUS_TODO

_WRITES: dict[str, Callable[[Desk, Any, Task, Person], Awaitable[object]]] = {
    "create": lambda desk, project, task, by: desk.create(project, by=by),
    "update": lambda desk, project, task, by: desk.update(task, title="x", by=by),
    "assign": lambda desk, project, task, by: desk.assign(task, "", by=by),
    "status": lambda desk, project, task, by: desk.set_status(task, DONE, by=by),
    "delete": lambda desk, project, task, by: desk.delete(task, by=by),
    "undelete": lambda desk, project, task, by: desk.undelete(task, by=by),
}


@pytest.fixture(scope="module")
async def people(services: Settings) -> People:
    return await people_of(services)


@pytest.fixture
async def desk(services: Settings, people: People) -> AsyncIterator[Desk]:
    async with desk_at(services, people) as desk:
        yield desk


@pytest.mark.parametrize("name", _WRITES)
async def test_a_viewer_reads_and_does_not_write(desk: Desk, name: str) -> None:
    project = await desk.project()
    task = await desk.create(project)
    viewer = desk.people.viewer
    assert await desk.get(task.id, by=viewer) == task
    assert await desk.all(project.workspace_id, by=viewer) == [task]
    failed = await refusal(_WRITES[name](desk, project, task, viewer))
    assert (failed.code, failed.reason) == (_Code.PERMISSION_DENIED, "ROLE_TOO_LOW")
    assert failed.metadata == {"role": "VIEWER", "required_role": "MEMBER"}
    assert await desk.all(project.workspace_id) == [task]


@pytest.mark.parametrize("name", _WRITES)
async def test_what_is_foreign_and_what_does_not_exist_look_the_same(desk: Desk, name: str) -> None:
    project = await desk.project()
    task = await desk.create(project)
    nothing = type(project)(id=str(uuid4()))
    stranger = desk.people.stranger
    foreign = await refusal(_WRITES[name](desk, project, task, stranger))
    absent = await refusal(_WRITES[name](desk, nothing, Task(id=str(uuid4())), stranger))
    assert foreign == absent
    assert foreign.code is _Code.NOT_FOUND
    assert await desk.all(project.workspace_id) == [task]


async def test_foreign_tasks_cannot_be_read_in_any_way(desk: Desk) -> None:
    project = await desk.project()
    task = await desk.create(project)
    stranger = desk.people.stranger
    own = await desk.team.workspace(stranger)
    for read in (
        desk.get(task.id, by=stranger),
        desk.get(task.key, project.workspace_id, by=stranger),
        desk.get(task.key, own.id, by=stranger),
        desk.get(task.id, own.id, by=stranger),
        desk.page(project.workspace_id, by=stranger),
    ):
        assert (await refusal(read)).code is _Code.NOT_FOUND
    of_project = task_pb2.TaskFilter(project_ids=[project.id])
    assert await desk.all(own.id, by=stranger, filter=of_project) == []
    # Neither as a parent nor as somebody to assign to is anything learned of them.
    mine = await desk.project(own.id, by=stranger)
    failed = await refusal(desk.create(mine, by=stranger, parent_id=task.id))
    assert failed.reason == "PARENT_INVALID"
    failed = await refusal(desk.create(mine, by=stranger, assignee_id=desk.people.member.id))
    assert failed == await refusal(
        desk.create(mine, by=stranger, assignee_id=desk.people.member.id)
    )
    assert failed.reason == "ASSIGNEE_NOT_MEMBER"


async def test_calls_without_a_token_are_refused_before_anything_else(desk: Desk) -> None:
    failed = await refusal(desk.tasks.GetTask(task_service_pb2.GetTaskRequest()))
    assert (failed.code, failed.reason) == (_Code.UNAUTHENTICATED, "CREDENTIALS_MISSING")


async def test_a_session_that_ended_sees_and_does_nothing(desk: Desk) -> None:
    project = await desk.project()
    task = await desk.create(project)
    person = await desk.newcomer(project.workspace_id)
    assert await desk.get(task.id, by=person) == task
    await desk.team.auth.Logout(auth_service_pb2.LogoutRequest(), metadata=person.credentials)
    for call in (
        desk.get(task.id, by=person),
        desk.page(project.workspace_id, by=person),
        *(write(desk, project, task, person) for write in _WRITES.values()),
    ):
        failed = await refusal(call)
        assert (failed.code, failed.reason) == (_Code.UNAUTHENTICATED, "SESSION_REVOKED")


@pytest.mark.parametrize("name", _WRITES)
async def test_an_archived_project_refuses_every_write_to_its_tasks(desk: Desk, name: str) -> None:
    project = await desk.project()
    task = await desk.create(project)
    await desk.archive(project)
    failed = await refusal(_WRITES[name](desk, project, task, desk.people.owner))
    assert (failed.code, failed.reason) == (_Code.FAILED_PRECONDITION, "PROJECT_ARCHIVED")
    assert await desk.all(project.workspace_id) == [task]
    await desk.unarchive(project)
    assert (await desk.update(task, title="Again")).title == "Again"


async def test_nothing_is_written_after_the_answer_to_archive(desk: Desk) -> None:
    for _ in range(5):
        project = await desk.project()
        task = await desk.create(project)
        writes = [
            asyncio.ensure_future(write)
            for n in range(10)
            for write in (desk.create(project), desk.update(task, title=f"Title {n}"))
        ]
        await asyncio.sleep(0.005)
        await desk.archive(project)
        then = await desk.all(project.workspace_id)
        await asyncio.gather(*writes, return_exceptions=True)
        assert await desk.all(project.workspace_id) == then


async def test_an_assignee_is_a_member(desk: Desk) -> None:
    project = await desk.project()
    task = await desk.create(project, assignee_id=desk.people.owner.id)
    for nobody in (desk.people.stranger.id, str(uuid4())):
        for write in (
            desk.create(project, assignee_id=nobody),
            desk.update(task, assignee_id=nobody),
            desk.assign(task, nobody),
        ):
            failed = await refusal(write)
            assert (failed.code, failed.reason) == (
                _Code.FAILED_PRECONDITION,
                "ASSIGNEE_NOT_MEMBER",
            )
            assert failed.metadata == {"assignee_id": nobody}
    assert (await desk.get(task.id)).assignee_id == desk.people.owner.id
    assert (await desk.assign(task, "")).assignee_id == ""


async def test_removing_a_member_unassigns_their_open_tasks(desk: Desk) -> None:
    project = await desk.project()
    person = await desk.newcomer(project.workspace_id, "Pacific/Auckland")
    theirs: dict[str, Any] = {"assignee_id": person.id}
    plain = await desk.create(project, **theirs)
    dated = await desk.create(project, due=due_date(2031, 1, 1), **theirs)
    done = await desk.create(project, status=DONE, **theirs)
    gone = await desk.create(project, **theirs)
    await desk.delete(gone)
    others = await desk.create(project, assignee_id=desk.people.owner.id)
    await desk.team.remove(desk.people.owner, project.workspace_id, person.id)

    for task in (plain, dated):
        now = await desk.get(task.id)
        assert (now.assignee_id, now.revision) == ("", 2)
        event = (await desk.events(task.id))[-1]
        assert event.type == "task.updated"
        assert event.actor_id == desk.people.owner.id
        assert event.task_updated.before.assignee_id == person.id
        assert event.task_updated.task == now
    # The date is the creator's business now, who isn't in New Zealand.
    assert (await desk.get(dated.id)).due_time.seconds == dated.due_time.seconds + 13 * 3600
    assert (await desk.get(done.id)).assignee_id == person.id
    assert (await desk.get(others.id)).assignee_id == desk.people.owner.id
    # Coming back to life, a task doesn't come back to somebody who left.
    assert (await desk.undelete(gone)).assignee_id == ""
    assert (await desk.set_status(done, TODO)).assignee_id == ""


async def test_no_assignment_survives_a_removal_that_happens_meanwhile(desk: Desk) -> None:
    project = await desk.project()
    for _ in range(5):
        person = await desk.newcomer(project.workspace_id)
        tasks = [await desk.create(project) for _ in range(6)]
        calls: list[Awaitable[object]] = [desk.assign(task, person.id) for task in tasks]
        calls += [desk.create(project, assignee_id=person.id) for _ in range(6)]
        calls.insert(6, desk.team.remove(desk.people.owner, project.workspace_id, person.id))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results[6] is None
        theirs = task_pb2.TaskFilter(assignee_ids=[person.id], include_deleted=True)
        assert await desk.all(project.workspace_id, filter=theirs) == []
