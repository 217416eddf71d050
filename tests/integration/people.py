"""Users registered and logged in through the real auth service, and calls to it."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy import text

from services.platform.config import Settings
from services.platform.data.db import Database, Statement
from taskflow.auth.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    user_pb2,
    user_service_pb2,
    user_service_pb2_grpc,
    workspace_pb2,
    workspace_service_pb2,
    workspace_service_pb2_grpc,
)
from taskflow.event.v1.event_pb2 import Event

PASSWORD = "correct horse battery"

_EVENTS_ABOUT = Statement(
    # Leave out replayed dead letters, because their payload may be invalid.
    text(
        "SELECT payload FROM platform.outbox"
        " WHERE subject LIKE :subject AND subject NOT LIKE '%.replay.%' ORDER BY id"
    )
)


@dataclass(frozen=True)
class Person:
    user: user_pb2.User
    tokens: auth_service_pb2.Tokens

    @property
    def id(self) -> str:
        return self.user.id

    @property
    def email(self) -> str:
        return self.user.email

    @property
    def credentials(self) -> tuple[tuple[str, str], ...]:
        return bearer(self.tokens.access_token)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@dataclass(frozen=True)
class Refusal:
    """The error of a failed call as a client sees it."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    fields: list[str]
    resource: str
    retry_after: float | None


async def refusal(call: Awaitable[object]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return read_refusal(caught.value)


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    trailing: Any = error.trailing_metadata()
    status = status_pb2.Status.FromString(dict(trailing).get("grpc-status-details-bin", b""))
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    resource = error_details_pb2.ResourceInfo()
    retry = error_details_pb2.RetryInfo()
    waits = False
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        detail.Unpack(resource)
        waits = detail.Unpack(retry) or waits
    return Refusal(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        metadata=dict(info.metadata),
        fields=[violation.field for violation in bad.field_violations],
        resource=resource.resource_type,
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if waits else None,
    )


class Team:
    """The auth service's stubs, and the calls that most tests start with."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self.users = user_service_pb2_grpc.UserServiceStub(channel)
        self.workspaces = workspace_service_pb2_grpc.WorkspaceServiceStub(channel)

    async def register(self, name: str = "ada", **fields: Any) -> user_pb2.User:
        """A new user with a unique e-mail address."""
        request = auth_service_pb2.RegisterRequest(
            **{
                "email": f"{name}.{uuid4().hex}@example.com",
                "password": PASSWORD,
                "display_name": name.title(),
                **fields,
            }
        )
        return (await self.auth.Register(request)).user

    async def login(self, email: str, password: str = PASSWORD, address: str = "") -> Person:
        """A login from this network address; from the test's own without one."""
        answer = await self.auth.Login(
            auth_service_pb2.LoginRequest(email=email, password=password, device="laptop"),
            metadata=(("x-forwarded-for", address),) if address else None,
        )
        return Person(answer.user, answer.tokens)

    async def person(self, name: str = "ada") -> Person:
        return await self.login((await self.register(name)).email)

    async def me(self, token: str) -> user_pb2.User:
        answer = await self.users.GetCurrentUser(
            user_service_pb2.GetCurrentUserRequest(), metadata=bearer(token)
        )
        return answer.user

    async def refresh(self, token: str) -> auth_service_pb2.Tokens:
        answer = await self.auth.RefreshToken(
            auth_service_pb2.RefreshTokenRequest(refresh_token=token)
        )
        return answer.tokens

    async def workspace(self, owner: Person, **fields: Any) -> workspace_pb2.Workspace:
        answer = await self.workspaces.CreateWorkspace(
            workspace_service_pb2.CreateWorkspaceRequest(**{"display_name": "Ops", **fields}),
            metadata=owner.credentials,
        )
        return answer.workspace

    async def get(self, caller: Person, workspace_id: str) -> workspace_pb2.Workspace:
        answer = await self.workspaces.GetWorkspace(
            workspace_service_pb2.GetWorkspaceRequest(id=workspace_id),
            metadata=caller.credentials,
        )
        return answer.workspace

    async def add(
        self, caller: Person, workspace_id: str, email: str, role: Any, request_id: str = ""
    ) -> workspace_pb2.Member:
        answer = await self.workspaces.AddMember(
            workspace_service_pb2.AddMemberRequest(
                workspace_id=workspace_id, email=email, role=role, request_id=request_id
            ),
            metadata=caller.credentials,
        )
        return answer.member

    async def set_role(
        self, caller: Person, workspace_id: str, user_id: str, role: Any, etag: str = ""
    ) -> workspace_pb2.Member:
        answer = await self.workspaces.UpdateMember(
            workspace_service_pb2.UpdateMemberRequest(
                workspace_id=workspace_id, user_id=user_id, role=role, etag=etag
            ),
            metadata=caller.credentials,
        )
        return answer.member

    async def remove(self, caller: Person, workspace_id: str, user_id: str) -> None:
        await self.workspaces.RemoveMember(
            workspace_service_pb2.RemoveMemberRequest(workspace_id=workspace_id, user_id=user_id),
            metadata=caller.credentials,
        )

    async def members(self, caller: Person, workspace_id: str) -> list[workspace_pb2.Member]:
        answer = await self.workspaces.ListMembers(
            workspace_service_pb2.ListMembersRequest(workspace_id=workspace_id),
            metadata=caller.credentials,
        )
        return list(answer.members)


# The network address from which `guess` tries passwords.
GUESSER = "198.51.100.7"


async def guess(team: Team, email: str, address: str = GUESSER) -> grpc.StatusCode | None:
    """The status code of a login with a wrong password from this network address."""
    request = auth_service_pb2.LoginRequest(email=email, password="wrong password")
    try:
        await team.auth.Login(request, metadata=(("x-forwarded-for", address),))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


@asynccontextmanager
async def team_at(settings: Settings) -> AsyncIterator[Team]:
    async with grpc.aio.insecure_channel(settings.auth) as channel:
        yield Team(channel)


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Database]:
    db = Database(settings, application="test")
    await db.open()
    try:
        yield db
    finally:
        await db.close()


async def events(db: Database, subject: str, aggregate_id: str = "") -> list[Event]:
    """Events in the outbox whose subject is LIKE `subject`, in order; of one aggregate if its id is given."""
    async with db.read() as tx:
        rows = await tx.all(_EVENTS_ABOUT, subject=subject)
    found = [Event.FromString(row.payload) for row in rows]
    return [event for event in found if aggregate_id in ("", event.aggregate_id)]
