"""Promises about projects."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.platform.config import Settings
from taskflow.task.v1 import project_service_pb2
from taskflow.task.v1.project_pb2 import Project
from tests.integration.desk import Desk, People, desk_at, people_of
from tests.integration.people import Person, refusal

_Code = grpc.StatusCode


@pytest.fixture(scope="module")
async def people(services: Settings) -> People:
    return await people_of(services)


@pytest.fixture
async def desk(services: Settings, people: People) -> AsyncIterator[Desk]:
    async with desk_at(services, people) as desk:
        yield desk


async def _get(desk: Desk, project_id: str, by: Person) -> Project:
    answer = await desk.projects.GetProject(
        project_service_pb2.GetProjectRequest(id=project_id), metadata=by.credentials
    )
    return answer.project


async def _update(desk: Desk, project: Project, *paths: str, by: Person | None = None) -> Project:
    answer = await desk.projects.UpdateProject(
        project_service_pb2.UpdateProjectRequest(
            project=project, update_mask=FieldMask(paths=paths)
        ),
        metadata=(by or desk.people.member).credentials,
    )
    return answer.project


async def _list(
    desk: Desk,
    workspace_id: str,
    by: Person,
    token: str = "",
    size: int = 0,
    archived: bool = False,
) -> project_service_pb2.ListProjectsResponse:
    return await desk.projects.ListProjects(
        project_service_pb2.ListProjectsRequest(
            workspace_id=workspace_id, page_size=size, page_token=token, include_archived=archived
        ),
        metadata=by.credentials,
    )


async def test_a_project_is_seen_by_the_members_of_its_workspace(desk: Desk) -> None:
    people = desk.people
    project = await desk.project()
    assert project.creator_id == people.member.id
    assert (project.key, project.display_name) == ("OPS", "Operations")
    for reader in (people.owner, people.member, people.viewer):
        assert await _get(desk, project.id, reader) == project
        assert list((await _list(desk, project.workspace_id, reader)).projects) == [project]
    for read in (
        _get(desk, project.id, people.stranger),
        _get(desk, str(uuid4()), people.owner),
        _list(desk, project.workspace_id, people.stranger),
    ):
        assert (await refusal(read)).code is _Code.NOT_FOUND


async def test_a_viewer_does_not_write(desk: Desk) -> None:
    project = await desk.project()
    viewer = desk.people.viewer
    for write in (
        desk.project(project.workspace_id, "NEW", by=viewer),
        _update(desk, Project(id=project.id, display_name="x"), by=viewer),
        desk.projects.ArchiveProject(
            project_service_pb2.ArchiveProjectRequest(id=project.id), metadata=viewer.credentials
        ),
        desk.projects.UnarchiveProject(
            project_service_pb2.UnarchiveProjectRequest(id=project.id),
            metadata=viewer.credentials,
        ),
    ):
        assert (await refusal(write)).reason == "ROLE_TOO_LOW"
    assert await _get(desk, project.id, viewer) == project


async def test_a_key_is_used_once_in_a_workspace_also_by_archived_projects(desk: Desk) -> None:
    project = await desk.project()
    await desk.archive(project)
    failed = await refusal(desk.project(project.workspace_id))
    assert (failed.code, failed.reason) == (_Code.ALREADY_EXISTS, "PROJECT_KEY_TAKEN")
    assert failed.metadata == {"key": "OPS"}
    assert (await desk.project()).key == "OPS"
    workspace_id = await desk.workspace()
    results = await asyncio.gather(
        *(desk.project(workspace_id) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, Project) for result in results) == 1


@pytest.mark.parametrize("key", ["", "ops", "1OPS", "OPS-1", "ABCDEFGHIJK", "\u00d6PS"])
async def test_a_key_that_tasks_cannot_be_named_by_is_refused(desk: Desk, key: str) -> None:
    failed = await refusal(desk.project(key=key))
    assert (failed.reason, failed.fields) in (
        ("INVALID_REQUEST", ["project.key"]),
        ("INVALID_REQUEST", ["project"]),
    )


async def test_a_repeated_create_has_the_first_answer(desk: Desk) -> None:
    workspace_id = await desk.workspace()
    request_id = str(uuid4())
    answers = await asyncio.gather(
        *(desk.project(workspace_id, request_id=request_id) for _ in range(5))
    )
    assert all(answer == answers[0] for answer in answers)
    failed = await refusal(desk.project(workspace_id, "OTHER", request_id=request_id))
    assert failed.reason == "REQUEST_ID_REUSED"


async def test_a_project_is_changed_by_mask_and_etag(desk: Desk) -> None:
    project = await desk.project()
    named = await _update(desk, Project(id=project.id, display_name=" Ope\u0301ra "))
    assert named.display_name == "Op\u00e9ra"
    assert named.etag != project.etag
    described = await _update(desk, Project(id=project.id, description="All of it"))
    assert (described.display_name, described.description) == ("Op\u00e9ra", "All of it")
    assert await _update(desk, Project(id=project.id), "key", "create_time") == described
    replaced = await _update(desk, Project(id=project.id, display_name="New"), "*")
    assert (replaced.display_name, replaced.description) == ("New", "")
    assert await _update(desk, Project(id=project.id, display_name="New"), "*") == replaced
    stale = Project(id=project.id, display_name="x", etag=project.etag)
    failed = await refusal(_update(desk, stale))
    assert (failed.code, failed.reason) == (_Code.ABORTED, "ETAG_MISMATCH")
    assert failed.metadata == {"etag": replaced.etag}
    for wrong in ("display_name", "no_such_field"):
        failed = await refusal(_update(desk, Project(id=project.id), wrong))
        assert failed.reason == "INVALID_REQUEST"
    events = await desk.events(project.id)
    assert [event.type for event in events] == ["project.created"] + 3 * ["project.updated"]
    assert [event.revision for event in events] == [1, 2, 3, 4]
    assert events[-1].project_changed.project == replaced


async def test_an_archived_project_is_listed_when_asked_for(desk: Desk) -> None:
    project = await desk.project()
    member = desk.people.member
    failed = await refusal(desk.archive(project, etag="x"))
    assert failed.reason == "ETAG_MISMATCH"
    archived = await desk.archive(project, etag=project.etag)
    assert archived.HasField("archive_time")
    assert await desk.archive(project) == archived
    assert not (await _list(desk, project.workspace_id, member)).projects
    listed = await _list(desk, project.workspace_id, member, archived=True)
    assert list(listed.projects) == [archived]
    back = await desk.unarchive(project)
    assert not back.HasField("archive_time")
    assert await desk.unarchive(project) == back
    events = [event.type for event in await desk.events(project.id)]
    assert events == ["project.created", "project.archived", "project.unarchived"]


async def test_pages_show_every_project_once_oldest_first(desk: Desk) -> None:
    member = desk.people.member
    workspace_id = await desk.workspace()
    made = [await desk.project(workspace_id, f"P{n}") for n in range(7)]
    seen: list[Project] = []
    token = ""
    while True:
        page = await _list(desk, workspace_id, member, token, size=3)
        seen += page.projects
        token = page.next_page_token
        if not token:
            break
        await desk.project(workspace_id, f"NEW{len(seen)}")
    assert seen[:7] == made
    first = await _list(desk, workspace_id, member, size=3)
    other = await desk.workspace()
    for foreign in (
        _list(desk, other, member, first.next_page_token, size=3),
        _list(desk, workspace_id, desk.people.owner, first.next_page_token),
        _list(desk, workspace_id, member, first.next_page_token, archived=True),
        _list(desk, workspace_id, member, "forged"),
    ):
        assert (await refusal(foreign)).reason == "INVALID_PAGE_TOKEN"
