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
from tests.integration.people import Person, refusal
from tests.integration.roles_world import People, RolesWorld, people_of, roles_world_at

_Code = grpc.StatusCode


@pytest.fixture(scope="module")
async def people(services: Settings) -> People:
    return await people_of(services)


@pytest.fixture
async def world(services: Settings, people: People) -> AsyncIterator[RolesWorld]:
    async with roles_world_at(services, people) as world:
        yield world


async def _get(world: RolesWorld, project_id: str, by: Person) -> Project:
    answer = await world.projects.GetProject(
        project_service_pb2.GetProjectRequest(id=project_id), metadata=by.credentials
    )
    return answer.project


async def _update(
    world: RolesWorld, project: Project, *paths: str, by: Person | None = None
) -> Project:
    answer = await world.projects.UpdateProject(
        project_service_pb2.UpdateProjectRequest(
            project=project, update_mask=FieldMask(paths=paths)
        ),
        metadata=(by or world.people.member).credentials,
    )
    return answer.project


async def _list(
    world: RolesWorld,
    workspace_id: str,
    by: Person,
    token: str = "",
    size: int = 0,
    archived: bool = False,
) -> project_service_pb2.ListProjectsResponse:
    return await world.projects.ListProjects(
        project_service_pb2.ListProjectsRequest(
            workspace_id=workspace_id, page_size=size, page_token=token, include_archived=archived
        ),
        metadata=by.credentials,
    )


async def test_a_project_is_visible_to_the_members_of_its_workspace_only(world: RolesWorld) -> None:
    people = world.people
    project = await world.project()
    assert project.creator_id == people.member.id
    assert (project.key, project.display_name) == ("OPS", "Operations")
    for reader in (people.owner, people.member, people.viewer):
        assert await _get(world, project.id, reader) == project
        assert list((await _list(world, project.workspace_id, reader)).projects) == [project]
    for read in (
        _get(world, project.id, people.stranger),
        _get(world, str(uuid4()), people.owner),
        _list(world, project.workspace_id, people.stranger),
    ):
        assert (await refusal(read)).code is _Code.NOT_FOUND


async def test_a_viewer_cannot_change_projects(world: RolesWorld) -> None:
    project = await world.project()
    viewer = world.people.viewer
    for write in (
        world.project(project.workspace_id, "NEW", by=viewer),
        _update(world, Project(id=project.id, display_name="x"), by=viewer),
        world.projects.ArchiveProject(
            project_service_pb2.ArchiveProjectRequest(id=project.id), metadata=viewer.credentials
        ),
        world.projects.UnarchiveProject(
            project_service_pb2.UnarchiveProjectRequest(id=project.id),
            metadata=viewer.credentials,
        ),
    ):
        assert (await refusal(write)).reason == "ROLE_TOO_LOW"
    assert await _get(world, project.id, viewer) == project


async def test_a_project_key_is_unique_in_a_workspace_including_archived_projects(
    world: RolesWorld,
) -> None:
    project = await world.project()
    await world.archive(project)
    failed = await refusal(world.project(project.workspace_id))
    assert (failed.code, failed.reason) == (_Code.ALREADY_EXISTS, "PROJECT_KEY_TAKEN")
    assert failed.metadata == {"key": "OPS"}
    assert (await world.project()).key == "OPS"
    workspace_id = await world.workspace()
    results = await asyncio.gather(
        *(world.project(workspace_id) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, Project) for result in results) == 1


@pytest.mark.parametrize("key", ["", "ops", "1OPS", "OPS-1", "ABCDEFGHIJK", "\u00d6PS"])
async def test_an_invalid_project_key_is_refused(world: RolesWorld, key: str) -> None:
    failed = await refusal(world.project(key=key))
    assert (failed.reason, failed.fields) in (
        ("INVALID_REQUEST", ["project.key"]),
        ("INVALID_REQUEST", ["project"]),
    )


async def test_a_repeated_create_has_the_first_answer(world: RolesWorld) -> None:
    workspace_id = await world.workspace()
    request_id = str(uuid4())
    answers = await asyncio.gather(
        *(world.project(workspace_id, request_id=request_id) for _ in range(5))
    )
    assert all(answer == answers[0] for answer in answers)
    failed = await refusal(world.project(workspace_id, "OTHER", request_id=request_id))
    assert failed.reason == "REQUEST_ID_REUSED"


async def test_a_project_update_obeys_mask_and_etag(world: RolesWorld) -> None:
    project = await world.project()
    named = await _update(world, Project(id=project.id, display_name=" Ope\u0301ra "))
    assert named.display_name == "Op\u00e9ra"
    assert named.etag != project.etag
    described = await _update(world, Project(id=project.id, description="All of it"))
    assert (described.display_name, described.description) == ("Op\u00e9ra", "All of it")
    assert await _update(world, Project(id=project.id), "key", "create_time") == described
    replaced = await _update(world, Project(id=project.id, display_name="New"), "*")
    assert (replaced.display_name, replaced.description) == ("New", "")
    assert await _update(world, Project(id=project.id, display_name="New"), "*") == replaced
    stale = Project(id=project.id, display_name="x", etag=project.etag)
    failed = await refusal(_update(world, stale))
    assert (failed.code, failed.reason) == (_Code.ABORTED, "ETAG_MISMATCH")
    assert failed.metadata == {"etag": replaced.etag}
    for wrong in ("display_name", "no_such_field"):
        failed = await refusal(_update(world, Project(id=project.id), wrong))
        assert failed.reason == "INVALID_REQUEST"
    events = await world.events(project.id)
    assert [event.type for event in events] == ["project.created"] + 3 * ["project.updated"]
    assert [event.revision for event in events] == [1, 2, 3, 4]
    assert events[-1].project_changed.project == replaced


async def test_an_archived_project_is_listed_only_on_request(world: RolesWorld) -> None:
    project = await world.project()
    member = world.people.member
    failed = await refusal(world.archive(project, etag="x"))
    assert failed.reason == "ETAG_MISMATCH"
    archived = await world.archive(project, etag=project.etag)
    assert archived.HasField("archive_time")
    assert await world.archive(project) == archived
    assert not (await _list(world, project.workspace_id, member)).projects
    listed = await _list(world, project.workspace_id, member, archived=True)
    assert list(listed.projects) == [archived]
    back = await world.unarchive(project)
    assert not back.HasField("archive_time")
    assert await world.unarchive(project) == back
    events = [event.type for event in await world.events(project.id)]
    assert events == ["project.created", "project.archived", "project.unarchived"]


async def test_pages_show_every_project_once_oldest_first(world: RolesWorld) -> None:
    member = world.people.member
    workspace_id = await world.workspace()
    made = [await world.project(workspace_id, f"P{n}") for n in range(7)]
    seen: list[Project] = []
    token = ""
    while True:
        page = await _list(world, workspace_id, member, token, size=3)
        seen += page.projects
        token = page.next_page_token
        if not token:
            break
        await world.project(workspace_id, f"NEW{len(seen)}")
    assert seen[:7] == made
    first = await _list(world, workspace_id, member, size=3)
    other = await world.workspace()
    for foreign in (
        _list(world, other, member, first.next_page_token, size=3),
        _list(world, workspace_id, world.people.owner, first.next_page_token),
        _list(world, workspace_id, member, first.next_page_token, archived=True),
        _list(world, workspace_id, member, "forged"),
    ):
        assert (await refusal(foreign)).reason == "INVALID_PAGE_TOKEN"


async def test_a_page_ends_before_it_is_larger_than_grpc_clients_accept(world: RolesWorld) -> None:
    workspace_id = await world.workspace()
    # 60 descriptions of 80 kB each exceed the page limit of 3 MiB.
    text = "\N{GRINNING FACE}" * 20_000
    made = []
    for n in range(60):
        project = await world.project(workspace_id, f"P{n}")
        project.description = text
        made.append(await _update(world, project, "description"))
    first = await _list(world, workspace_id, world.people.member, size=1000)
    rest = await _list(world, workspace_id, world.people.member, first.next_page_token, size=1000)
    assert first.ByteSize() < 4 * 1024 * 1024
    assert not rest.next_page_token
    assert [*first.projects, *rest.projects] == made
