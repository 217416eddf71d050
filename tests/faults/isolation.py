"""Sends each RPC with a foreign id in each id field, and finds what the response reveals and what the call changed.

A foreign id belongs to the victim's workspace. The caller, the stranger, isn't a member of it.
"""

import random
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import uuid4

import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy import text

from services.platform.data.db import Statement
from taskflow.options.v1.options_pb2 import ACCESS_OPEN, ACCESS_OPERATOR, ACCESS_SERVICE
from tests.faults.rpcs import FieldPlace, Rpc, every_rpc, is_id, kind_of, places
from tests.faults.samples import Samples
from tests.faults.valid_requests import valid

# Fields in which the server doesn't answer a foreign id with NOT_FOUND.
_NO_MEMBER = "FAILED_PRECONDITION ASSIGNEE_NOT_MEMBER"
_NO_PARENT = "FAILED_PRECONDITION PARENT_INVALID"
_PASSED_OVER = "OK"
_ELSEWHERE = {
    "task.assignee_id": _NO_MEMBER,
    "assignee_id": _NO_MEMBER,
    "task.parent_id": _NO_PARENT,
    # Foreign ids in these filters match nothing, and the server drops foreign ids from these lists.
    "filter.project_ids": _PASSED_OVER,
    "filter.assignee_ids": _PASSED_OVER,
    "filter.creator_ids": _PASSED_OVER,
    "BatchGetUsers.ids": _PASSED_OVER,
    "MarkRead.ids": _PASSED_OVER,
    "ListJobs.task_id": _PASSED_OVER,
    "ListSuggestions.task_id": _PASSED_OVER,
    # Output-only fields, which the server ignores.
    "CreateProject.project.id": _PASSED_OVER,
    "CreateTask.task.id": _PASSED_OVER,
    "UpdateCurrentUser.user.id": _PASSED_OVER,
    "project.workspace_id": _PASSED_OVER,
    "project.creator_id": _PASSED_OVER,
    "task.workspace_id": _PASSED_OVER,
    "task.project_id": _PASSED_OVER,
    "task.creator_id": _PASSED_OVER,
    # Only operators, who see all workspaces, may make these calls.
    "ReplayDeadLetter.id": "PERMISSION_DENIED NOT_FOR_CALLER",
}
# The seed for all other fields, so that a request with a foreign id and one with an unknown id differ in the id only.
_SEED = 7


@dataclass(frozen=True)
class Told:
    """Everything that a caller learns: code, reason, details, and the answer if any."""

    code: str
    text: str
    answer: str


def id_places() -> list[tuple[Rpc, FieldPlace]]:
    """All fields of user-facing calls that take an id."""
    callers = {ACCESS_OPEN, ACCESS_SERVICE}
    return [
        (rpc, place)
        for rpc in every_rpc()
        if rpc.ours and rpc.access not in callers
        for place in places(rpc)
        if is_id(place.field)
    ]


def seal_places() -> list[tuple[Rpc, FieldPlace]]:
    """All fields that take a page token or a cursor."""
    callers = {ACCESS_OPEN, ACCESS_SERVICE, ACCESS_OPERATOR}
    return [
        (rpc, place)
        for rpc in every_rpc()
        if rpc.ours and rpc.access not in callers
        for place in places(rpc)
        if place.field.name in ("page_token", "cursor")
    ]


async def try_foreign_ids(
    victim: Samples, stranger: Samples, rpc: Rpc, place: FieldPlace
) -> list[str]:
    """Returns sentences about what the stranger learned or changed with the victim's ids.

    The list is empty if foreign ids act like unknown ids.
    """
    kind = kind_of(rpc, place.field, frozenset(victim.ids))
    before = await state(victim)
    wanted = _ELSEWHERE.get(f"{rpc.name}.{place.path}") or _ELSEWHERE.get(
        place.path, "NOT_FOUND RESOURCE_NOT_FOUND"
    )
    found = []
    for foreign in victim.ids[kind][:2]:
        told = await _asked(stranger, rpc, place, foreign)
        if told.code != wanted:
            found.append(f"a foreign id is answered {told.code}, not {wanted}")
        unknown = await _asked(stranger, rpc, place, str(uuid4()))
        if told != unknown:
            found.append(f"a foreign id is answered {told}, an unknown one {unknown}")
        secrets = (victim.mark, *(name for names in victim.ids.values() for name in names))
        if any(secret in told.text + told.answer for secret in secrets):
            found.append(f"something foreign was told: {told}")
    if await state(victim) != before:
        found.append("something foreign was changed")
    return [f"{rpc.name}.{place.path}: {sentence}" for sentence in found]


async def try_foreign_key(victim: Samples, stranger: Samples) -> list[str]:
    """Like `try_foreign_ids`, but with a task's key."""
    (rpc,) = (rpc for rpc in every_rpc() if rpc.name == "GetTask")
    before = await state(victim)
    told = []
    for workspace_id in (victim.workspace_id, str(uuid4())):
        request = rpc.request(id="P0-1", workspace_id=workspace_id)
        told.append(await _call(stranger, rpc, request, workspace_id))
    right = told[0] == told[1] and told[0].code == "NOT_FOUND RESOURCE_NOT_FOUND"
    found = [] if right else [f"a foreign key is answered {told[0]}, an unknown one {told[1]}"]
    if await state(victim) != before:
        found.append("something foreign was changed by a key")
    return found


async def try_foreign_seals(
    victim: Samples, stranger: Samples, rpc: Rpc, place: FieldPlace
) -> list[str]:
    """Like `try_foreign_ids`, but with page tokens and cursors, which must act like forged ones."""
    codes = ("INVALID_ARGUMENT INVALID_PAGE_TOKEN", "INVALID_ARGUMENT INVALID_CURSOR")
    found = []
    for seal in filter(None, victim.seals):
        told = await _asked(stranger, rpc, place, seal)
        forged = await _asked(stranger, rpc, place, seal[::-1])
        if told != forged or told.code not in codes:
            found.append(f"{rpc.name}.{place.path}: a foreign seal is answered {told}")
    return found


async def _asked(samples: Samples, rpc: Rpc, place: FieldPlace, value: str) -> Told:
    """Send a request that is valid except for one value."""
    request = _request(samples, rpc)
    parent = place.parent(request)
    if place.field.is_repeated:
        getattr(parent, place.field.name)[:] = [value]
    else:
        setattr(parent, place.field.name, value)
    return await _call(samples, rpc, request, value)


def _request(samples: Samples, rpc: Rpc) -> Any:
    """A minimal request without mask and request_id, and without a parent or assignee that would be wrong too."""
    rng = random.Random(_SEED)
    while True:
        request = valid(rpc, samples, rng)
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


async def _call(samples: Samples, rpc: Rpc, request: Any, value: str) -> Told:
    """Calls the RPC. In the answer's text, '?' replaces the id that was sent, so that two answers can be compared."""
    channel = samples.channels[rpc.process]
    more: Any = {"metadata": samples.owner.credentials, "timeout": 15}
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
    """The answer without the parts that differ from call to call."""
    if rpc.method.server_streaming:
        # The first heartbeat contains the time.
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


async def state(samples: Samples) -> dict[str, str]:
    """A digest of all rows of the workspace and its users, by table."""
    found = {}
    async with samples.db.read() as tx:
        for table in await tx.all(_COLUMNS):
            owned = [name for name in ("workspace_id", "user_id", "id") if name in table.columns]
            if not owned:
                continue
            row = await tx.one(
                _digest(table.schema, table.name, tuple(owned)),
                ids=[samples.workspace_id, samples.owner.id, samples.member.id],
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
