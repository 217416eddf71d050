"""Promises about members: who may add, change and remove whom, and the effects."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from itertools import product
from uuid import uuid4

import grpc
import pytest

from services.platform.config import Settings
from services.platform.data.db import Database
from taskflow.auth.v1 import workspace_pb2, workspace_service_pb2
from taskflow.auth.v1.workspace_pb2 import ROLE_ADMIN, ROLE_MEMBER, ROLE_OWNER, ROLE_VIEWER
from tests.integration.people import Person, Team, database, events, refusal, team_at

_Code = grpc.StatusCode
_ROLES = (ROLE_VIEWER, ROLE_MEMBER, ROLE_ADMIN, ROLE_OWNER)


@pytest.fixture
async def team(services: Settings) -> AsyncIterator[Team]:
    async with team_at(services) as team:
        yield team


@pytest.fixture
async def db(services: Settings) -> AsyncIterator[Database]:
    async with database(services) as db:
        yield db


@pytest.fixture(scope="session")
async def cast(services: Settings) -> dict[str, Person]:
    """Users without a common workspace until a test creates one."""
    async with team_at(services) as team:
        people = [await team.person(name) for name in ("ada", "bob", "cat", "dan")]
    return dict(zip(("ada", "bob", "cat", "dan"), people, strict=True))


def _name(role: workspace_pb2.Role.ValueType) -> str:
    return workspace_pb2.Role.Name(role).removeprefix("ROLE_")


# --- AddMember


async def test_an_existing_user_is_added_by_any_spelling_of_the_email(
    team: Team, cast: dict[str, Person], db: Database
) -> None:
    ada, bob = cast["ada"], cast["bob"]
    workspace = await team.workspace(ada)
    member = await team.add(ada, workspace.id, bob.email.upper(), ROLE_MEMBER)
    assert (member.workspace_id, member.user_id, member.email) == (workspace.id, bob.id, bob.email)
    assert (member.display_name, member.role) == (bob.user.display_name, ROLE_MEMBER)
    assert (await team.get(bob, workspace.id)).role == ROLE_MEMBER
    (event,) = await events(db, f"taskflow.{workspace.id}.member.added", bob.id)
    assert (event.actor_id, event.member_added.user_id) == (ada.id, bob.id)
    assert event.member_added.role == ROLE_MEMBER


async def test_adding_an_unknown_email_is_not_found_and_a_member_already_exists(
    team: Team, cast: dict[str, Person]
) -> None:
    ada, bob = cast["ada"], cast["bob"]
    workspace = await team.workspace(ada)
    unknown = f"{uuid4().hex}@example.com"
    refused = await refusal(team.add(ada, workspace.id, unknown, ROLE_MEMBER))
    assert (refused.code, refused.resource) == (_Code.NOT_FOUND, "user")
    for email in ("no e-mail", ".dot@example.com", "a..b@example.com", "a" * 65 + "@example.com"):
        refused = await refusal(team.add(ada, workspace.id, email, ROLE_MEMBER))
        assert (refused.code, refused.fields) == (_Code.INVALID_ARGUMENT, ["email"])
    await team.add(ada, workspace.id, bob.email, ROLE_MEMBER)
    refused = await refusal(team.add(ada, workspace.id, bob.email, ROLE_ADMIN))
    assert (refused.code, refused.reason) == (_Code.ALREADY_EXISTS, "ALREADY_MEMBER")
    for role in (0, 5):
        refused = await refusal(team.add(ada, workspace.id, bob.email, role))
        assert (refused.code, refused.fields) == (_Code.INVALID_ARGUMENT, ["role"])


async def test_a_repeated_add_returns_the_same_answer_only_to_callers_who_may_add(
    team: Team, cast: dict[str, Person], db: Database
) -> None:
    ada, bob, cat = cast["ada"], cast["bob"], cast["cat"]
    workspace = await team.workspace(ada)
    await team.add(ada, workspace.id, cat.email, ROLE_ADMIN)
    request_id = str(uuid4())

    async def add(role: workspace_pb2.Role.ValueType = ROLE_MEMBER) -> workspace_pb2.Member:
        return await team.add(cat, workspace.id, bob.email, role, request_id)

    answers = await asyncio.gather(*(add() for _ in range(4)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert len(await events(db, f"taskflow.{workspace.id}.member.added", bob.id)) == 1
    assert (await refusal(add(ROLE_VIEWER))).reason == "REQUEST_ID_REUSED"
    await team.set_role(ada, workspace.id, cat.id, ROLE_MEMBER)
    assert (await refusal(add())).reason == "ROLE_TOO_LOW"
    await team.remove(ada, workspace.id, cat.id)
    assert (await refusal(add())).code is _Code.NOT_FOUND


# --- roles


@pytest.mark.parametrize(("caller", "new"), list(product(_ROLES, _ROLES)), ids=str)
async def test_admins_can_add_any_role_but_owner_and_owners_any_role(
    team: Team,
    cast: dict[str, Person],
    caller: workspace_pb2.Role.ValueType,
    new: workspace_pb2.Role.ValueType,
) -> None:
    ada, bob, cat = cast["ada"], cast["bob"], cast["cat"]
    workspace = await team.workspace(ada)
    await team.add(ada, workspace.id, bob.email, caller)
    needed = ROLE_OWNER if new == ROLE_OWNER and caller >= ROLE_ADMIN else ROLE_ADMIN
    if caller >= needed:
        assert (await team.add(bob, workspace.id, cat.email, new)).role == new
        return
    refused = await refusal(team.add(bob, workspace.id, cat.email, new))
    assert (refused.code, refused.reason) == (_Code.PERMISSION_DENIED, "ROLE_TOO_LOW")
    assert refused.metadata == {"role": _name(caller), "required_role": _name(needed)}


@pytest.mark.parametrize(("caller", "target"), list(product(_ROLES, _ROLES)), ids=str)
async def test_admins_can_manage_everyone_but_owners_and_owners_everyone(
    team: Team,
    cast: dict[str, Person],
    caller: workspace_pb2.Role.ValueType,
    target: workspace_pb2.Role.ValueType,
) -> None:
    ada, bob, cat = cast["ada"], cast["bob"], cast["cat"]
    workspace = await team.workspace(ada)
    await team.add(ada, workspace.id, bob.email, caller)
    await team.add(ada, workspace.id, cat.email, target)
    needed = ROLE_OWNER if target == ROLE_OWNER and caller >= ROLE_ADMIN else ROLE_ADMIN
    other = ROLE_VIEWER if target != ROLE_VIEWER else ROLE_MEMBER
    if caller >= needed:
        assert (await team.set_role(bob, workspace.id, cat.id, other)).role == other
        if caller == ROLE_OWNER:
            promoted = await team.set_role(bob, workspace.id, cat.id, ROLE_OWNER)
            assert promoted.role == ROLE_OWNER
        else:
            refused = await refusal(team.set_role(bob, workspace.id, cat.id, ROLE_OWNER))
            assert refused.metadata == {"role": "ADMIN", "required_role": "OWNER"}
        await team.remove(bob, workspace.id, cat.id)
        assert {m.user_id for m in await team.members(ada, workspace.id)} == {ada.id, bob.id}
        return
    for call in (
        team.set_role(bob, workspace.id, cat.id, other),
        team.remove(bob, workspace.id, cat.id),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (_Code.PERMISSION_DENIED, "ROLE_TOO_LOW")
        assert refused.metadata == {"role": _name(caller), "required_role": _name(needed)}
    roles = {m.user_id: m.role for m in await team.members(ada, workspace.id)}
    assert roles == {ada.id: ROLE_OWNER, bob.id: caller, cat.id: target}


async def test_members_cannot_raise_their_own_role(team: Team, cast: dict[str, Person]) -> None:
    ada, bob = cast["ada"], cast["bob"]
    workspace = await team.workspace(ada)
    await team.add(ada, workspace.id, bob.email, ROLE_ADMIN)
    refused = await refusal(team.set_role(bob, workspace.id, bob.id, ROLE_OWNER))
    assert refused.reason == "ROLE_TOO_LOW"
    assert (await team.set_role(bob, workspace.id, bob.id, ROLE_MEMBER)).role == ROLE_MEMBER
    refused = await refusal(team.set_role(bob, workspace.id, bob.id, ROLE_ADMIN))
    assert refused.reason == "ROLE_TOO_LOW"


async def test_a_new_role_takes_effect_with_the_next_call(
    team: Team, cast: dict[str, Person], db: Database
) -> None:
    ada, bob, cat = cast["ada"], cast["bob"], cast["cat"]
    workspace = await team.workspace(ada)
    await team.add(ada, workspace.id, bob.email, ROLE_VIEWER)
    for role, may in ((ROLE_ADMIN, True), (ROLE_MEMBER, False)) * 2:
        await team.set_role(ada, workspace.id, bob.id, role)
        if may:
            await team.add(bob, workspace.id, cat.email, ROLE_VIEWER)
            await team.remove(bob, workspace.id, cat.id)
        else:
            refused = await refusal(team.add(bob, workspace.id, cat.email, ROLE_VIEWER))
            assert refused.code is _Code.PERMISSION_DENIED
    updates = await events(db, f"taskflow.{workspace.id}.member.updated", bob.id)
    assert [event.member_updated.role for event in updates] == [ROLE_ADMIN, ROLE_MEMBER] * 2


async def test_a_stale_membership_etag_aborts(team: Team, cast: dict[str, Person]) -> None:
    ada, bob = cast["ada"], cast["bob"]
    workspace = await team.workspace(ada)
    added = await team.add(ada, workspace.id, bob.email, ROLE_VIEWER)
    changed = await team.set_role(ada, workspace.id, bob.id, ROLE_MEMBER, added.etag)
    assert changed.etag != added.etag
    refused = await refusal(team.set_role(ada, workspace.id, bob.id, ROLE_ADMIN, added.etag))
    assert (refused.code, refused.reason) == (_Code.ABORTED, "ETAG_MISMATCH")
    assert refused.metadata == {"etag": changed.etag}
    assert await team.set_role(ada, workspace.id, bob.id, ROLE_MEMBER) == changed


async def test_a_nonmember_is_not_found(team: Team, cast: dict[str, Person]) -> None:
    ada, bob = cast["ada"], cast["bob"]
    workspace = await team.workspace(ada)
    for id in (bob.id, str(uuid4())):
        for call in (
            team.set_role(ada, workspace.id, id, ROLE_VIEWER),
            team.remove(ada, workspace.id, id),
        ):
            refused = await refusal(call)
            assert (refused.code, refused.resource) == (_Code.NOT_FOUND, "member")


# --- the last owner


async def test_the_last_owner_cannot_leave_or_be_demoted(
    team: Team, cast: dict[str, Person]
) -> None:
    ada, bob = cast["ada"], cast["bob"]
    workspace = await team.workspace(ada)
    await team.add(ada, workspace.id, bob.email, ROLE_ADMIN)
    for call in (
        team.remove(ada, workspace.id, ada.id),
        team.set_role(ada, workspace.id, ada.id, ROLE_ADMIN),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (_Code.FAILED_PRECONDITION, "LAST_OWNER")
    await team.set_role(ada, workspace.id, bob.id, ROLE_OWNER)
    await team.remove(ada, workspace.id, ada.id)
    assert [m.user_id for m in await team.members(bob, workspace.id)] == [bob.id]


async def test_concurrent_departures_of_owners_leave_at_least_one(
    team: Team, cast: dict[str, Person]
) -> None:
    everybody = list(cast.values())
    for target in (0, 1):
        workspace = await team.workspace(everybody[0])
        for person in everybody[1:]:
            await team.add(everybody[0], workspace.id, person.email, ROLE_OWNER)
        answers = await asyncio.gather(
            *(
                team.remove(person, workspace.id, everybody[(i + target) % 4].id)
                for i, person in enumerate(everybody)
            ),
            return_exceptions=True,
        )
        codes = [a.code() for a in answers if isinstance(a, grpc.aio.AioRpcError)]
        assert set(codes) <= {_Code.FAILED_PRECONDITION, _Code.NOT_FOUND}
        views = await asyncio.gather(
            *(team.members(person, workspace.id) for person in everybody), return_exceptions=True
        )
        seen = [view for view in views if isinstance(view, list)]
        assert len(seen) == len(codes) > 0, "those who weren't removed"
        for view in seen:
            assert [member.role for member in view] == [ROLE_OWNER] * len(seen)


# --- removal


async def test_members_of_any_role_can_leave(
    team: Team, cast: dict[str, Person], db: Database
) -> None:
    ada, bob = cast["ada"], cast["bob"]
    workspace = await team.workspace(ada)
    for role in _ROLES:
        await team.add(ada, workspace.id, bob.email, role)
        await team.remove(bob, workspace.id, bob.id)
        assert (await refusal(team.get(bob, workspace.id))).code is _Code.NOT_FOUND
    removed = await events(db, f"taskflow.{workspace.id}.member.removed", bob.id)
    assert [event.member_removed.user_id for event in removed] == [bob.id] * 4


async def test_membership_revisions_keep_rising_for_readded_members(
    team: Team, cast: dict[str, Person], db: Database
) -> None:
    ada, bob = cast["ada"], cast["bob"]
    workspace = await team.workspace(ada)
    for _ in range(2):
        await team.add(ada, workspace.id, bob.email, ROLE_VIEWER)
        await team.set_role(ada, workspace.id, bob.id, ROLE_MEMBER)
        await team.remove(ada, workspace.id, bob.id)
    revisions = [e.revision for e in await events(db, f"taskflow.{workspace.id}.member.%", bob.id)]
    assert len(revisions) == 6
    assert revisions == sorted(set(revisions))


async def test_a_removal_takes_effect_at_once_for_every_call(
    team: Team, cast: dict[str, Person]
) -> None:
    ada, bob = cast["ada"], cast["bob"]
    workspace = await team.workspace(ada)
    for _ in range(20):
        await team.add(ada, workspace.id, bob.email, ROLE_ADMIN)
        assert (await team.get(bob, workspace.id)).id == workspace.id
        await team.remove(ada, workspace.id, bob.id)
        for call in (
            team.get(bob, workspace.id),
            team.members(bob, workspace.id),
            team.add(bob, workspace.id, cast["cat"].email, ROLE_VIEWER),
            team.remove(bob, workspace.id, ada.id),
        ):
            assert (await refusal(call)).code is _Code.NOT_FOUND
    listed = await team.workspaces.ListWorkspaces(
        workspace_service_pb2.ListWorkspacesRequest(page_size=1000), metadata=bob.credentials
    )
    assert workspace.id not in {each.id for each in listed.workspaces}


# --- ListMembers


async def test_members_are_listed_in_the_order_they_joined(
    team: Team, cast: dict[str, Person]
) -> None:
    ada, *others = cast.values()
    workspace = await team.workspace(ada)
    for person in reversed(others):
        await team.add(ada, workspace.id, person.email, ROLE_VIEWER)
    order = [ada.id, *(person.id for person in reversed(others))]
    whole = await team.members(ada, workspace.id)
    assert [m.user_id for m in whole] == order
    times: list[datetime] = [m.create_time.ToDatetime() for m in whole]
    assert times == sorted(set(times))

    async def page(size: int, token: str) -> workspace_service_pb2.ListMembersResponse:
        return await team.workspaces.ListMembers(
            workspace_service_pb2.ListMembersRequest(
                workspace_id=workspace.id, page_size=size, page_token=token
            ),
            metadata=others[0].credentials,
        )

    first = await page(1, "")
    rest = await page(1000, first.next_page_token)
    assert [m.user_id for m in (*first.members, *rest.members)] == order
    assert rest.next_page_token == ""
    last = await page(2, (await page(2, "")).next_page_token)
    assert [m.user_id for m in last.members] == order[2:]
    assert last.next_page_token == "", "a full last page has no next one"
    other = await team.workspace(others[0])
    refused = await refusal(
        team.workspaces.ListMembers(
            workspace_service_pb2.ListMembersRequest(
                workspace_id=other.id, page_token=first.next_page_token
            ),
            metadata=others[0].credentials,
        )
    )
    assert refused.reason == "INVALID_PAGE_TOKEN"
