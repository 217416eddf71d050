"""Reads users, sessions and memberships for every service. The auth service owns these tables."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    DateTime,
    SmallInteger,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    column,
    exists,
    func,
    literal_column,
    select,
    table,
)

from services.platform.data.db import Statement, Transaction
from services.platform.rpc.errors import DomainError, not_found
from services.platform.rpc.identity import Caller
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.error.v1 import error_reason_pb2 as reasons

R = TypeVar("R")

# Owners that are looked up at most; a workspace rarely has more than a few.
_MOST_OWNERS = 100


class _HasRole(Protocol):
    """A row with the caller's role in the workspace that the row belongs to."""

    @property
    def role(self) -> int: ...


WithRole = TypeVar("WithRole", bound=_HasRole)

users = table(
    "users",
    column("id", Uuid),
    column("email", Text),
    column("display_name", Text),
    column("time_zone", Text),
    column("email_notifications", Boolean),
    column("email_on_since", DateTime(timezone=True)),
    column("email_bounced_at", DateTime(timezone=True)),
    column("operator", Boolean),
    schema="auth",
)
sessions = table(
    "sessions",
    column("id", Uuid),
    column("user_id", Uuid),
    column("revoked_at", DateTime(timezone=True)),
    column("expires_at", DateTime(timezone=True)),
    schema="auth",
)
members = table(
    "members",
    column("workspace_id", Uuid),
    column("user_id", Uuid),
    column("role", SmallInteger),
    schema="auth",
)
workspaces = table(
    "workspaces",
    column("id", Uuid),
    column("display_name", Text),
    column("ai_enabled", Boolean),
    schema="auth",
)


class Person(NamedTuple):
    id: UUID
    email: str
    display_name: str
    time_zone: str
    email_notifications: bool


class WorkspaceFacts(NamedTuple):
    id: UUID
    display_name: str
    ai_enabled: bool


class _Role(NamedTuple):
    role: int


class _Found(NamedTuple):
    found: int


class _Operator(NamedTuple):
    operator: bool


class _UserId(NamedTuple):
    user_id: UUID


class _Membership(NamedTuple):
    workspace_id: UUID
    user_id: UUID


class _SessionId(NamedTuple):
    id: UUID


_caller_id = bindparam("caller_id", type_=Uuid)
_session_id = bindparam("session_id", type_=Uuid)


def live_session(
    caller_id: ColumnElement[UUID] = _caller_id, session_id: ColumnElement[UUID] = _session_id
) -> ColumnElement[bool]:
    """The condition that the caller's session hasn't ended.

    Binds :session_id and :caller_id unless columns are passed.
    """
    return exists().where(
        sessions.c.id == session_id,
        sessions.c.user_id == caller_id,
        sessions.c.revoked_at.is_(None),
        sessions.c.expires_at > func.now(),
    )


def membership(
    workspace_id: ColumnElement[UUID],
    caller_id: ColumnElement[UUID] = _caller_id,
    session_id: ColumnElement[UUID] = _session_id,
) -> ColumnElement[bool]:
    """The join condition on `members`: the caller is a member of the workspace, and the session hasn't ended.

    Binds :caller_id and :session_id unless columns are passed. A statement that also selects `members.c.role` needs no
    second round trip to check the caller's role.
    """
    return and_(
        members.c.workspace_id == workspace_id,
        members.c.user_id == caller_id,
        live_session(caller_id, session_id),
    )


def _uuids(name: str) -> Any:
    return bindparam(name, type_=ARRAY(Uuid))


_workspace_id = bindparam("workspace_id", type_=Uuid)
_pairs = (
    func.unnest(_uuids("workspace_ids"), _uuids("user_ids"))
    .table_valued(column("workspace_id", Uuid), column("user_id", Uuid), name="pairs")
    .render_derived()
)

_ROLE = Statement(select(members.c.role).where(membership(_workspace_id)), row=_Role)
_SESSION = Statement(select(literal_column("1").label("found")).where(live_session()), row=_Found)
_OPERATOR = Statement(
    select(users.c.operator).where(users.c.id == _caller_id, live_session()), row=_Operator
)
_MEMBERS_AMONG = Statement(
    select(members.c.user_id).where(
        members.c.workspace_id == _workspace_id, members.c.user_id == any_(_uuids("user_ids"))
    ),
    row=_UserId,
)
# Uses the index members_owners, which needs the number in the statement.
_OWNERS = Statement(
    select(members.c.user_id)
    .where(members.c.workspace_id == _workspace_id, members.c.role == literal_column("4"))
    .order_by(members.c.user_id)
    .limit(_MOST_OWNERS),
    row=_UserId,
)
_MEMBERSHIPS = Statement(
    select(members.c.workspace_id, members.c.user_id).where(
        members.c.workspace_id == _pairs.c.workspace_id, members.c.user_id == _pairs.c.user_id
    ),
    row=_Membership,
)
_PEOPLE = Statement(
    select(
        users.c.id,
        users.c.email,
        users.c.display_name,
        users.c.time_zone,
        users.c.email_notifications,
    ).where(users.c.id == any_(_uuids("user_ids"))),
    row=Person,
)
_LIVE_SESSIONS = Statement(
    select(sessions.c.id).where(
        sessions.c.id == any_(_uuids("session_ids")),
        sessions.c.revoked_at.is_(None),
        sessions.c.expires_at > func.now(),
    ),
    row=_SessionId,
)
_WORKSPACE = Statement(
    select(workspaces.c.id, workspaces.c.display_name, workspaces.c.ai_enabled).where(
        workspaces.c.id == _workspace_id
    ),
    row=WorkspaceFacts,
)


def check_role(caller: Caller, role: int) -> None:
    """Raises ROLE_TOO_LOW unless `role` is at least the role that the called RPC needs."""
    if role < caller.needs:
        raise DomainError(
            reasons.ERROR_REASON_ROLE_TOO_LOW,
            {
                "role": Role.Name(Role.ValueType(role)).removeprefix("ROLE_"),
                "required_role": Role.Name(caller.needs).removeprefix("ROLE_"),
            },
        )


async def require_session(tx: Transaction, caller: Caller) -> None:
    """Raises SESSION_REVOKED once the caller's session has ended."""
    if await tx.one(_SESSION, session_id=caller.session_id, caller_id=caller.user_id) is None:
        raise DomainError(reasons.ERROR_REASON_SESSION_REVOKED)


async def require_operator(tx: Transaction, caller: Caller) -> None:
    """Raises NOT_FOR_CALLER unless the caller is an operator, and SESSION_REVOKED after the session's end."""
    row = await tx.one(_OPERATOR, session_id=caller.session_id, caller_id=caller.user_id)
    if row is None:
        raise DomainError(reasons.ERROR_REASON_SESSION_REVOKED)
    if not row.operator:
        raise DomainError(reasons.ERROR_REASON_NOT_FOR_CALLER)


async def absence(tx: Transaction, caller: Caller, kind: str, name: object) -> DomainError:
    """The error for a resource that a query didn't return to the caller.

    Raises SESSION_REVOKED if the session has ended; otherwise returns the NOT_FOUND error for the caller to raise.
    """
    await require_session(tx, caller)
    return not_found(kind, name)


async def find(
    tx: Transaction, caller: Caller, statement: Statement[R], kind: str, name: object, **values: Any
) -> R:
    """Runs a query that returns a resource only to a caller who may see it; returns its first row.

    The query has the parameters :caller_id and :session_id, which this function sets. Without a row it raises
    SESSION_REVOKED if the session has ended, else NOT_FOUND for the resource (`kind`, `name`).
    """
    row = await tx.one(statement, caller_id=caller.user_id, session_id=caller.session_id, **values)
    if row is None:
        raise await absence(tx, caller, kind, name)
    return row


async def find_allowed(
    tx: Transaction,
    caller: Caller,
    statement: Statement[WithRole],
    kind: str,
    name: object,
    **values: Any,
) -> WithRole:
    """Does what `find` does, and raises ROLE_TOO_LOW if the row's `role` is lower than the called RPC needs.

    `role` is the caller's role in the resource's workspace.
    """
    row = await find(tx, caller, statement, kind, name, **values)
    check_role(caller, row.role)
    return row


async def authorize(tx: Transaction, caller: Caller, workspace_id: UUID) -> Role.ValueType:
    """The caller's role in a workspace.

    Raises SESSION_REVOKED, NOT_FOUND for users who aren't members, ROLE_TOO_LOW for members who may not call this RPC.
    """
    row = await find_allowed(
        tx, caller, _ROLE, "workspace", workspace_id, workspace_id=workspace_id
    )
    return Role.ValueType(row.role)


async def members_among(tx: Transaction, workspace_id: UUID, user_ids: Iterable[UUID]) -> set[UUID]:
    """The users in `user_ids` who are members of the workspace."""
    rows = await tx.all(_MEMBERS_AMONG, workspace_id=workspace_id, user_ids=list(user_ids))
    return {row.user_id for row in rows}


async def owners(tx: Transaction, workspace_id: UUID) -> list[UUID]:
    """The owners of the workspace, at most 100."""
    return [row.user_id for row in await tx.all(_OWNERS, workspace_id=workspace_id)]


async def memberships(
    tx: Transaction, pairs: Collection[tuple[UUID, UUID]]
) -> set[tuple[UUID, UUID]]:
    """The pairs (workspace, user) in which the user is a member of the workspace."""
    rows = await tx.all(
        _MEMBERSHIPS,
        workspace_ids=[workspace_id for workspace_id, _ in pairs],
        user_ids=[user_id for _, user_id in pairs],
    )
    return {(row.workspace_id, row.user_id) for row in rows}


async def people(tx: Transaction, user_ids: Iterable[UUID]) -> dict[UUID, Person]:
    """User id → name, e-mail address, time zone and mail setting. Unknown ids are left out."""
    rows = await tx.all(_PEOPLE, user_ids=list(user_ids))
    return {row.id: row for row in rows}


async def live_sessions(tx: Transaction, session_ids: Iterable[UUID]) -> set[UUID]:
    """The sessions in `session_ids` that haven't ended."""
    rows = await tx.all(_LIVE_SESSIONS, session_ids=list(session_ids))
    return {row.id for row in rows}


async def workspace(tx: Transaction, workspace_id: UUID) -> WorkspaceFacts | None:
    return await tx.one(_WORKSPACE, workspace_id=workspace_id)
