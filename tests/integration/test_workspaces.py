"""Promises about workspaces: created once, visible to members only, changed by admins."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.platform.config import Settings
from services.platform.data.db import Database
from taskflow.auth.v1 import workspace_pb2, workspace_service_pb2
from tests.integration.people import Person, Team, database, events, refusal, team_at

_Code = grpc.StatusCode


@pytest.fixture
async def team(services: Settings) -> AsyncIterator[Team]:
    async with team_at(services) as team:
        yield team


@pytest.fixture
async def db(services: Settings) -> AsyncIterator[Database]:
    async with database(services) as db:
        yield db


async def _update(
    team: Team, caller: Person, paths: list[str] | None = None, **fields: object
) -> workspace_pb2.Workspace:
    answer = await team.workspaces.UpdateWorkspace(
        workspace_service_pb2.UpdateWorkspaceRequest(
            workspace=workspace_pb2.Workspace(**fields),  # type: ignore[arg-type]
            update_mask=FieldMask(paths=paths) if paths else None,
        ),
        metadata=caller.credentials,
    )
    return answer.workspace


async def _list(
    team: Team, caller: Person, size: int = 0, token: str = ""
) -> workspace_service_pb2.ListWorkspacesResponse:
    return await team.workspaces.ListWorkspaces(
        workspace_service_pb2.ListWorkspacesRequest(page_size=size, page_token=token),
        metadata=caller.credentials,
    )


async def test_the_creator_of_a_workspace_owns_it(team: Team, db: Database) -> None:
    ada = await team.person()
    workspace = await team.workspace(ada, display_name="  Op\u0065\u0301ra ")
    assert workspace.display_name == "Op\u00e9ra"
    assert workspace.ai_enabled
    assert workspace.role == workspace_pb2.ROLE_OWNER
    assert workspace.etag.isalnum()
    assert await team.get(ada, workspace.id) == workspace
    (member,) = await team.members(ada, workspace.id)
    assert (member.user_id, member.email, member.role) == (
        ada.id,
        ada.email,
        workspace_pb2.ROLE_OWNER,
    )
    created, added = await events(db, f"taskflow.{workspace.id}.%")
    assert (created.type, created.aggregate_id, created.actor_id) == (
        "workspace.created",
        workspace.id,
        ada.id,
    )
    assert created.workspace_changed.ai_enabled
    assert (added.type, added.aggregate_id) == ("member.added", ada.id)
    assert added.member_added.role == workspace_pb2.ROLE_OWNER


async def test_a_workspace_can_be_created_with_ai_off(team: Team, db: Database) -> None:
    workspace = await team.workspace(await team.person(), ai_enabled=False)
    assert not workspace.ai_enabled
    created, *_ = await events(db, f"taskflow.{workspace.id}.%")
    assert not created.workspace_changed.ai_enabled


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\u202eb", "a\x00b", "a\nb"])
async def test_a_workspace_needs_a_valid_name(team: Team, name: str) -> None:
    refused = await refusal(team.workspace(await team.person(), display_name=name))
    assert (refused.code, refused.fields) == (_Code.INVALID_ARGUMENT, ["display_name"])


async def test_a_repeated_create_creates_one_workspace(team: Team) -> None:
    ada = await team.person()
    request_id = str(uuid4())
    answers = await asyncio.gather(*(team.workspace(ada, request_id=request_id) for _ in range(4)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert len((await _list(team, ada)).workspaces) == 1
    refused = await refusal(team.workspace(ada, display_name="Other", request_id=request_id))
    assert (refused.code, refused.reason) == (_Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    other = await team.workspace(await team.person("bob"), request_id=request_id)
    assert other.id != answers[0].id, "request_ids are the caller's own"


async def test_workspaces_are_listed_oldest_first_with_the_callers_role(team: Team) -> None:
    ada, bob = await asyncio.gather(team.person(), team.person("bob"))
    made = [await team.workspace(ada, display_name=f"W{i}") for i in range(5)]
    await team.add(ada, made[3].id, bob.email, workspace_pb2.ROLE_VIEWER)
    await team.add(ada, made[1].id, bob.email, workspace_pb2.ROLE_ADMIN)
    assert list((await _list(team, ada)).workspaces) == made
    assert [(w.id, w.role) for w in (await _list(team, bob)).workspaces] == [
        (made[1].id, workspace_pb2.ROLE_ADMIN),
        (made[3].id, workspace_pb2.ROLE_VIEWER),
    ]


async def test_pages_neither_repeat_nor_miss_a_workspace_while_others_are_created(
    team: Team,
) -> None:
    ada = await team.person()
    made = [(await team.workspace(ada)).id for _ in range(5)]
    page = await _list(team, ada, 2)
    seen = [workspace.id for workspace in page.workspaces]
    while page.next_page_token:
        made.append((await team.workspace(ada)).id)
        page = await _list(team, ada, 3, page.next_page_token)
        seen += [workspace.id for workspace in page.workspaces]
    assert seen == made[: len(seen)]
    assert set(made[:5]) <= set(seen)


async def test_page_sizes_and_tokens_are_validated(team: Team) -> None:
    ada, bob = await asyncio.gather(team.person(), team.person("bob"))
    for _ in range(3):
        await team.workspace(ada)
    assert len((await _list(team, ada, 5000)).workspaces) == 3
    assert (await refusal(_list(team, ada, -1))).code is _Code.INVALID_ARGUMENT
    token = (await _list(team, ada, 1)).next_page_token
    for caller, bad in ((bob, token), (ada, token[:-2]), (ada, "x"), (ada, token + "A")):
        refused = await refusal(_list(team, caller, 1, bad))
        assert (refused.code, refused.reason) == (_Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    workspace = (await _list(team, ada)).workspaces[0]
    refused = await refusal(
        team.workspaces.ListMembers(
            workspace_service_pb2.ListMembersRequest(workspace_id=workspace.id, page_token=token),
            metadata=ada.credentials,
        )
    )
    assert refused.reason == "INVALID_PAGE_TOKEN", "a token is of one method"


async def test_a_mask_selects_name_and_ai_switch(team: Team, db: Database) -> None:
    ada = await team.person()
    workspace = await team.workspace(ada)
    named = await _update(team, ada, id=workspace.id, display_name="Dev")
    assert (named.display_name, named.ai_enabled) == ("Dev", True)
    assert named.etag != workspace.etag
    off = await _update(team, ada, ["ai_enabled"], id=workspace.id, display_name="ignored")
    assert (off.display_name, off.ai_enabled) == ("Dev", False)
    every = await _update(team, ada, ["*"], id=workspace.id, display_name="All", ai_enabled=True)
    assert (every.display_name, every.ai_enabled) == ("All", True)
    assert every == await team.get(ada, workspace.id)
    updates = await events(db, f"taskflow.{workspace.id}.workspace.updated")
    assert [(e.revision, e.workspace_changed.ai_enabled) for e in updates] == [
        (2, True),
        (3, False),
        (4, True),
    ]


async def test_an_update_without_changes_emits_no_event(team: Team, db: Database) -> None:
    ada = await team.person()
    workspace = await team.workspace(ada)
    assert await _update(team, ada, id=workspace.id, display_name="Ops") == workspace
    assert await _update(team, ada, ["role"], id=workspace.id, role=1) == workspace
    assert await events(db, f"taskflow.{workspace.id}.workspace.updated") == []


async def test_an_invalid_update_is_refused_with_the_field_name(team: Team) -> None:
    ada = await team.person()
    workspace = await team.workspace(ada)
    for paths, fields, wrong in (
        (["nickname"], {}, "update_mask"),
        (["owner"], {}, "update_mask"),
        (["display_name"], {}, "workspace.display_name"),
        (["*"], {"ai_enabled": True}, "workspace.display_name"),
    ):
        refused = await refusal(_update(team, ada, paths, id=workspace.id, **fields))
        assert (refused.code, refused.fields) == (_Code.INVALID_ARGUMENT, [wrong])
    refused = await refusal(_update(team, ada, display_name="x"))
    assert (refused.code, refused.fields) == (_Code.INVALID_ARGUMENT, ["workspace"])


async def test_of_two_updates_with_one_etag_one_aborts_with_the_current_etag(team: Team) -> None:
    ada = await team.person()
    workspace = await team.workspace(ada)
    answers = await asyncio.gather(
        *(
            _update(team, ada, id=workspace.id, display_name=name, etag=workspace.etag)
            for name in ("One", "Two")
        ),
        return_exceptions=True,
    )
    (won,) = (a for a in answers if isinstance(a, workspace_pb2.Workspace))
    refused = await refusal(
        _update(team, ada, id=workspace.id, display_name="Three", etag=workspace.etag)
    )
    assert (refused.code, refused.reason) == (_Code.ABORTED, "ETAG_MISMATCH")
    assert refused.metadata == {"etag": won.etag}
    assert (await team.get(ada, workspace.id)).display_name == won.display_name
    last = await _update(team, ada, id=workspace.id, display_name="Last")
    assert last.display_name == "Last", "without an etag the last write wins"


async def test_a_workspace_is_not_found_for_nonmembers(team: Team) -> None:
    ada, eve = await asyncio.gather(team.person(), team.person("eve"))
    workspace = await team.workspace(ada)

    async def answers(id: str) -> list[object]:
        calls = (
            team.get(eve, id),
            team.members(eve, id),
            _update(team, eve, id=id, display_name="Mine"),
            team.add(eve, id, eve.email, workspace_pb2.ROLE_OWNER),
            team.set_role(eve, id, ada.id, workspace_pb2.ROLE_VIEWER),
            team.remove(eve, id, ada.id),
            team.remove(eve, id, eve.id),
        )
        refused = [await refusal(call) for call in calls]
        assert {r.code for r in refused} == {_Code.NOT_FOUND}
        return [(r.message, r.reason, r.metadata, r.resource) for r in refused]

    assert await answers(workspace.id) == await answers(str(uuid4()))
    assert await team.get(ada, workspace.id) == workspace
    assert len(await team.members(ada, workspace.id)) == 1


async def test_a_malformed_id_is_refused_before_any_lookup(team: Team) -> None:
    ada = await team.person()
    for call in (team.get(ada, "x"), team.members(ada, ""), team.remove(ada, "../1", ada.id)):
        assert (await refusal(call)).code is _Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (workspace_pb2.ROLE_VIEWER, False),
        (workspace_pb2.ROLE_MEMBER, False),
        (workspace_pb2.ROLE_ADMIN, True),
        (workspace_pb2.ROLE_OWNER, True),
    ],
)
async def test_admins_and_owners_can_change_a_workspace_and_all_members_can_read_it(
    team: Team, role: workspace_pb2.Role.ValueType, may: bool
) -> None:
    ada, bob = await asyncio.gather(team.person(), team.person("bob"))
    workspace = await team.workspace(ada)
    await team.add(ada, workspace.id, bob.email, role)
    assert (await team.get(bob, workspace.id)).role == role
    assert len(await team.members(bob, workspace.id)) == 2
    if may:
        assert (await _update(team, bob, id=workspace.id, display_name="B")).role == role
        return
    refused = await refusal(_update(team, bob, id=workspace.id, display_name="B"))
    assert (refused.code, refused.reason) == (_Code.PERMISSION_DENIED, "ROLE_TOO_LOW")
    name = workspace_pb2.Role.Name(role).removeprefix("ROLE_")
    assert refused.metadata == {"role": name, "required_role": "ADMIN"}
