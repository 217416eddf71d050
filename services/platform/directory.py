"""Shared reads of people, sessions and memberships. The auth service owns and writes these tables (auth/models.py)."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
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
    select,
    table,
)

from services.platform.db import Statement, Transaction
from services.platform.errors import DomainError, not_found
from services.platform.identity import Caller
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.error.v1 import error_reason_pb2 as reasons

users = table(
    "users",
    column("id", Uuid),
    column("email", Text),
    column("display_name", Text),
    column("time_zone", Text),
    column("email_notifications", Boolean),
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


@dataclass(frozen=True, slots=True)
class Person:
    id: UUID
    email: str
    display_name: str
    time_zone: str
    email_notifications: bool


@dataclass(frozen=True, slots=True)
class WorkspaceFacts:
    id: UUID
    display_name: str
    ai_enabled: bool


_caller_id = bindparam("caller_id", type_=Uuid)
_session_id = bindparam("session_id", type_=Uuid)


def live_session(
    caller_id: ColumnElement[UUID] = _caller_id, session_id: ColumnElement[UUID] = _session_id
) -> ColumnElement[bool]:
    """Holds while the caller's session lives. Binds :session_id and :caller_id unless it's given columns."""
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
    """To join `members` on: the caller's own membership of that workspace, while the session lives.

    Binds :caller_id and :session_id unless it's given columns. A statement that selects `members.c.role` with it needs
    no second round trip to know what the caller may do.
    """
    return and_(
        members.c.workspace_id == workspace_id,
        members.c.user_id == caller_id,
        live_session(caller_id, session_id),
    )


_ROLE = Statement(select(members.c.role).where(membership(bindparam("workspace_id", type_=Uuid))))
_SESSION = Statement(select(1).where(live_session()))
_OPERATOR = Statement(
    select(users.c.operator).where(users.c.id == bindparam("caller_id", type_=Uuid), live_session())
)
_MEMBERS_AMONG = Statement(
    select(members.c.user_id).where(
        members.c.workspace_id == bindparam("workspace_id", type_=Uuid),
        members.c.user_id == any_(bindparam("user_ids", type_=ARRAY(Uuid))),
    )
)
_pairs = (
    func.unnest(
        bindparam("workspace_ids", type_=ARRAY(Uuid)), bindparam("user_ids", type_=ARRAY(Uuid))
    )
    .table_valued(column("workspace_id", Uuid), column("user_id", Uuid), name="pairs")
    .render_derived()
)
_MEMBERSHIPS = Statement(
    select(members.c.workspace_id, members.c.user_id).where(
        members.c.workspace_id == _pairs.c.workspace_id, members.c.user_id == _pairs.c.user_id
    )
)
_PEOPLE = Statement(
    select(
        users.c.id,
        users.c.email,
        users.c.display_name,
        users.c.time_zone,
        users.c.email_notifications,
    ).where(users.c.id == any_(bindparam("user_ids", type_=ARRAY(Uuid))))
)
_LIVE_SESSIONS = Statement(
    select(sessions.c.id).where(
        sessions.c.id == any_(bindparam("session_ids", type_=ARRAY(Uuid))),
        sessions.c.revoked_at.is_(None),
        sessions.c.expires_at > func.now(),
    )
)
_WORKSPACE = Statement(
    select(workspaces.c.id, workspaces.c.display_name, workspaces.c.ai_enabled).where(
        workspaces.c.id == bindparam("workspace_id", type_=Uuid)
    )
)


def check_role(caller: Caller, role: int) -> None:
    """Raises ROLE_TOO_LOW unless `role` reaches what the called RPC needs (access.py)."""
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
    row = await tx.one(_OPERATOR, session_id=caller.session_id, caller_id=caller.user_id)
    if row is None:
        raise DomainError(reasons.ERROR_REASON_SESSION_REVOKED)
    if not row.operator:
        raise DomainError(reasons.ERROR_REASON_NOT_FOR_CALLER)


async def absence(tx: Transaction, caller: Caller, kind: str, name: object) -> DomainError:
    """Why a statement that was scoped to the caller found nothing: the session has ended, or it isn't there."""
    await require_session(tx, caller)
    return not_found(kind, name)


async def authorize(tx: Transaction, caller: Caller, workspace_id: UUID) -> Role.ValueType:
    """The caller's role in a workspace.

    Raises SESSION_REVOKED, NOT_FOUND for those who aren't members, ROLE_TOO_LOW for members who may not call this RPC.
    """
    row = await tx.one(
        _ROLE,
        workspace_id=workspace_id,
        caller_id=caller.user_id,
        session_id=caller.session_id,
    )
    if row is None:
        raise await absence(tx, caller, "workspace", workspace_id)
    check_role(caller, row.role)
    return Role.ValueType(row.role)


async def members_among(tx: Transaction, workspace_id: UUID, user_ids: Iterable[UUID]) -> set[UUID]:
    """Those of the users who are members of the workspace."""
    rows = await tx.all(_MEMBERS_AMONG, workspace_id=workspace_id, user_ids=list(user_ids))
    return {row.user_id for row in rows}


async def memberships(
    tx: Transaction, pairs: Collection[tuple[UUID, UUID]]
) -> set[tuple[UUID, UUID]]:
    """Those of the pairs (workspace, user) of which the user is a member of the workspace."""
    rows = await tx.all(
        _MEMBERSHIPS,
        workspace_ids=[workspace_id for workspace_id, _ in pairs],
        user_ids=[user_id for _, user_id in pairs],
    )
    return {(row.workspace_id, row.user_id) for row in rows}


async def people(tx: Transaction, user_ids: Iterable[UUID]) -> dict[UUID, Person]:
    """The users by id; unknown ids are left out."""
    rows = await tx.all(_PEOPLE, user_ids=list(user_ids))
    return {row.id: Person(*row) for row in rows}


async def live_sessions(tx: Transaction, session_ids: Iterable[UUID]) -> set[UUID]:
    """Those of the sessions that haven't ended."""
    rows = await tx.all(_LIVE_SESSIONS, session_ids=list(session_ids))
    return {row.id for row in rows}


async def workspace(tx: Transaction, workspace_id: UUID) -> WorkspaceFacts | None:
    row = await tx.one(_WORKSPACE, workspace_id=workspace_id)
    return WorkspaceFacts(*row) if row else None
