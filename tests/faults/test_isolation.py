"""Promise: workspaces are isolated. Every RPC × every id field with a foreign id: nothing learned, nothing changed."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import uuid4

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy import text

from services.platform.access import Access
from services.platform.config import Settings
from services.platform.db import Statement
from tests.faults.rpcs import Place, Rpc, every_rpc, is_id, kind_of, places
from tests.faults.seeds import valid
from tests.faults.world import World, a_world

# What an id that the caller may not know of leads to, where it isn't NOT_FOUND.
_NO_MEMBER = "FAILED_PRECONDITION ASSIGNEE_NOT_MEMBER"
_NO_PARENT = "FAILED_PRECONDITION PARENT_INVALID"
_PASSED_OVER = "OK"
_ELSEWHERE = {
    "task.assignee_id": _NO_MEMBER,
    "assignee_id": _NO_MEMBER,
    "task.parent_id": _NO_PARENT,
    # Filters that nothing matches, and lists of which only one's own counts.
    "filter.project_ids": _PASSED_OVER,
    "filter.assignee_ids": _PASSED_OVER,
    "filter.creator_ids": _PASSED_OVER,
    "BatchGetUsers.ids": _PASSED_OVER,
    "MarkRead.ids": _PASSED_OVER,
    "ListJobs.task_id": _PASSED_OVER,
    "ListSuggestions.task_id": _PASSED_OVER,
    # Output only.
    "CreateProject.project.id": _PASSED_OVER,
    "CreateTask.task.id": _PASSED_OVER,
    "UpdateCurrentUser.user.id": _PASSED_OVER,
    "project.workspace_id": _PASSED_OVER,
    "project.creator_id": _PASSED_OVER,
    "task.workspace_id": _PASSED_OVER,
    "task.project_id": _PASSED_OVER,
    "task.creator_id": _PASSED_OVER,
    # For operators, who aren't told apart by workspaces.
    "ReplayDeadLetter.id": "PERMISSION_DENIED NOT_FOR_CALLER",
}
# Of requests that ids alone don't make: what is said besides stays the same for both ids.
_SEED = 7


@dataclass(frozen=True)
class Told:
    """All that a caller learns: the code with its reason, the details, and the answer if there is one."""

    code: str
    text: str
    answer: str


def _everything() -> list[tuple[Rpc, Place]]:
    callers = {Access.OPEN, Access.SERVICE}
    return [
        (rpc, place)
        for rpc in every_rpc()
        if rpc.ours and rpc.access not in callers
        for place in places(rpc)
        if is_id(place.field)
    ]


@pytest.fixture(scope="module")
async def victim(services: Settings) -> AsyncIterator[World]:
    async with a_world(services) as world:
        yield world


@pytest.fixture(scope="module")
async def stranger(services: Settings) -> AsyncIterator[World]:
    """Somebody who owns a workspace with all the same things in it, and is no operator."""
    async with a_world(services) as world:
        yield world


@pytest.mark.parametrize(
    ("rpc", "place"), [pytest.param(r, p, id=f"{r.name}.{p.path}") for r, p in _everything()]
)
async def test_a_foreign_id_is_as_good_as_one_that_does_not_exist(
    victim: World, stranger: World, rpc: Rpc, place: Place
) -> None:
    kind = kind_of(rpc, place.field, frozenset(victim.ids))
    before = await _state(victim)
    wanted = _ELSEWHERE.get(f"{rpc.name}.{place.path}") or _ELSEWHERE.get(
        place.path, "NOT_FOUND RESOURCE_NOT_FOUND"
    )
    for foreign in victim.ids[kind][:2]:
        unknown = str(uuid4())
        told = await _asked(stranger, rpc, place, foreign)
        assert told.code == wanted
        assert told == await _asked(stranger, rpc, place, unknown)
        for secret in (victim.mark, *(name for names in victim.ids.values() for name in names)):
            assert secret not in told.text + told.answer
    assert await _state(victim) == before


async def test_a_key_names_nothing_in_a_workspace_of_others(victim: World, stranger: World) -> None:
    (rpc,) = (rpc for rpc in every_rpc() if rpc.name == "GetTask")
    before = await _state(victim)
    told = []
    for workspace_id in (victim.workspace_id, str(uuid4())):
        request = rpc.request(id="P0-1", workspace_id=workspace_id)
        told.append(await _call(stranger, rpc, request, workspace_id))
    assert told[0] == told[1]
    assert told[0].code == "NOT_FOUND RESOURCE_NOT_FOUND"
    assert await _state(victim) == before


@pytest.mark.parametrize(
    ("rpc", "place"),
    [
        pytest.param(rpc, place, id=f"{rpc.name}.{place.path}")
        for rpc in every_rpc()
        if rpc.ours and rpc.access not in (Access.OPEN, Access.SERVICE, Access.OPERATOR)
        for place in places(rpc)
        if place.field.name in ("page_token", "cursor")
    ],
)
async def test_tokens_and_cursors_of_others_open_nothing(
    victim: World, stranger: World, rpc: Rpc, place: Place
) -> None:
    for seal in filter(None, victim.seals):
        told = await _asked(stranger, rpc, place, seal)
        assert told == await _asked(stranger, rpc, place, seal[::-1])
        assert told.code in (
            "INVALID_ARGUMENT INVALID_PAGE_TOKEN",
            "INVALID_ARGUMENT INVALID_CURSOR",
        )


async def _asked(world: World, rpc: Rpc, place: Place, value: str) -> Told:
    """A request of the world's own that is right but for the one value."""
    request = _request(world, rpc)
    parent = place.parent(request)
    if place.field.is_repeated:
        getattr(parent, place.field.name)[:] = [value]
    else:
        setattr(parent, place.field.name, value)
    return await _call(world, rpc, request, value)


def _request(world: World, rpc: Rpc) -> Any:
    """The fewest fields: no mask, no parent or assignee that would be wrong as well, nothing that can be repeated."""
    rng = random.Random(_SEED)
    while True:
        request = valid(rpc, world, rng)
        for name in ("update_mask", "request_id", "filter", "edit", "cursor", "snapshot"):
            if name in request.DESCRIPTOR.fields_by_name:
                request.ClearField(name)
        for name in ("task", "project", "workspace", "user"):
            if name in request.DESCRIPTOR.fields_by_name:
                _reduce(getattr(request, name))
        return request


def _reduce(resource: Any) -> None:
    for field, _ in resource.ListFields():
        if field.name not in ("id", "title", "display_name", "key"):
            resource.ClearField(field.name)
    if "key" in resource.DESCRIPTOR.fields_by_name:
        resource.key = f"K{uuid4().hex[:8].upper()}"


async def _call(world: World, rpc: Rpc, request: Any, value: str) -> Told:
    """What came back, with the value that was asked for taken out."""
    channel = world.channels[rpc.process]
    more: Any = {"metadata": world.owner.credentials, "timeout": 15}
    coders: Any = (rpc.request.SerializeToString, rpc.response.FromString)
    try:
        if rpc.method.server_streaming:
            stream: Any = channel.unary_stream(rpc.path, *coders)(request, **more)
            try:
                answer: Any = await stream.read()
            finally:
                stream.cancel()
        else:
            unary: Any = channel.unary_unary(rpc.path, *coders)
            answer = await unary(request, **more)
    except grpc.aio.AioRpcError as error:
        return _told(error, value)
    return Told("OK", "", _constant(answer, rpc).replace(value, "?"))


def _told(error: grpc.aio.AioRpcError, value: str) -> Told:
    trailing: Any = error.trailing_metadata()
    status = status_pb2.Status.FromString(dict(trailing).get("grpc-status-details-bin", b""))
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    said = f"{error.details()} {status}".replace(value, "?")
    return Told(f"{error.code().name} {info.reason}", said, "")


def _constant(answer: Any, rpc: Rpc) -> str:
    """The answer without what is new each time."""
    if rpc.method.server_streaming:
        # The first heartbeat tells the time.
        return str(answer.WhichOneof("kind"))
    for message in (answer, *(inner for _, inner in answer.ListFields() if _is_message(inner))):
        for name in ("id", "key", "etag", "revision", "create_time", "update_time", "cursor"):
            if name in message.DESCRIPTOR.fields_by_name:
                message.ClearField(name)
    return str(answer)


def _is_message(value: Any) -> bool:
    return hasattr(value, "DESCRIPTOR")


_COLUMNS = Statement(
    text(
        "SELECT table_schema AS schema, table_name AS name, array_agg(column_name::text) AS columns"
        " FROM information_schema.columns WHERE table_schema IN ('auth', 'task', 'notification')"
        " GROUP BY 1, 2"
    )
)


async def _state(world: World) -> dict[str, str]:
    """A digest of all rows that belong to the workspace or its people, by table; of workspaces and users their own."""
    found = {}
    async with world.db.read() as tx:
        for table in await tx.all(_COLUMNS):
            owned = [name for name in ("workspace_id", "user_id", "id") if name in table.columns]
            if not owned:
                continue
            row = await tx.one(
                _digest(table.schema, table.name, tuple(owned)),
                ids=[world.workspace_id, world.owner.id, world.member.id],
            )
            assert row is not None
            found[f"{table.schema}.{table.name}"] = row.digest
    assert found["task.tasks"] != "0 "
    return found


@cache
def _digest(schema: str, name: str, owned: tuple[str, ...]) -> Statement:
    condition = " OR ".join(f"{column}::text = ANY(:ids)" for column in owned)
    return Statement(
        text(
            "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, ' ' ORDER BY t::text)), '')"
            f" AS digest FROM {schema}.{name} t WHERE {condition}"
        )
    )
