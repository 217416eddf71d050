"""The rules of workspaces and their members: creating, changing, and which roles may do so."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from services.auth.accounts import emails
from services.auth.accounts import logic as accounts
from services.auth.workspaces import events, messages, queries
from services.auth.workspaces.queries import Member, Workspace, WorkspaceWithRole
from services.platform.data.db import Transaction
from services.platform.events.outbox import add_event
from services.platform.rpc import directory, etags, mail_address, masks, text
from services.platform.rpc.errors import DomainError, not_found
from services.platform.rpc.identity import Caller
from taskflow.auth.v1 import workspace_pb2, workspace_service_pb2
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.error.v1 import error_reason_pb2 as reasons

# Takes the transaction, the workspace and the user.
_OfMember = Callable[[Transaction, UUID, UUID], Awaitable[bool]]


@dataclass(frozen=True)
class Removal:
    """What other services do when a member is removed. The removal itself never waits for it."""

    # In the transaction of the removal: (tx, workspace, user, actor). Each notes in one row what is to be done.
    begin: Sequence[Callable[[Transaction, UUID, UUID, UUID], Awaitable[None]]]
    # Whether tasks may still be assigned to the former member.
    is_former: _OfMember
    # Unassigns a batch of the former member's tasks. False when none was left.
    go_on: _OfMember


class TasksLeft(Exception):
    """Raised when a user becomes a member again, but still has tasks from before the removal."""

    def __init__(self, user_id: UUID) -> None:
        super().__init__()
        self.user_id = user_id


_WRITABLE = frozenset({"display_name", "ai_enabled"})
_FIRST_REVISION = 1


# --- workspaces


async def create_workspace(
    tx: Transaction, caller: Caller, display_name: str, ai_enabled: bool
) -> Workspace:
    """Creates a workspace with the caller as its owner."""
    row = await tx.one(
        queries.ADD_WORKSPACE, id=uuid7(), display_name=display_name, ai_enabled=ai_enabled
    )
    assert row is not None
    await add_event(tx, events.created(caller, row))
    await _add(tx, caller, row.id, caller.user_id, workspace_pb2.ROLE_OWNER, _FIRST_REVISION)
    return row


async def get_workspace(tx: Transaction, caller: Caller, id: UUID) -> WorkspaceWithRole:
    return await directory.find_allowed(
        tx, caller, queries.WORKSPACE, "workspace", id, workspace_id=id
    )


async def list_workspaces(
    tx: Transaction, caller: Caller, after: list[Any] | None, count: int
) -> Sequence[WorkspaceWithRole]:
    """At most `count` of the caller's workspaces after a position, oldest first. Raises SESSION_REVOKED."""
    scope = {"caller_id": caller.user_id, "session_id": caller.session_id, "count": count}
    if after is None:
        rows = await tx.all(queries.FIRST_WORKSPACES, **scope)
    else:
        rows = await tx.all(queries.NEXT_WORKSPACES, after=UUID(after[0]), **scope)
    if not rows:
        await directory.require_session(tx, caller)
    return rows


def workspace_position(row: WorkspaceWithRole) -> list[Any]:
    return [str(row.id)]


async def update_workspace(
    tx: Transaction, caller: Caller, request: workspace_service_pb2.UpdateWorkspaceRequest
) -> tuple[Workspace | WorkspaceWithRole, Role.ValueType]:
    """Changes a workspace; returns it and the caller's role in it.

    Raises INVALID_REQUEST, NOT_FOUND, ROLE_TOO_LOW, ETAG_MISMATCH.
    """
    wanted = request.workspace
    fields = masks.fields(wanted, request.update_mask, _WRITABLE)
    changes: dict[str, Any] = {}
    if "display_name" in fields:
        changes["display_name"] = text.line("workspace.display_name", wanted.display_name)
    if "ai_enabled" in fields:
        changes["ai_enabled"] = wanted.ai_enabled

    old = await directory.find_allowed(
        tx, caller, queries.LOCK_WORKSPACE, "workspace", wanted.id, workspace_id=UUID(wanted.id)
    )
    etags.check(wanted.etag, messages.workspace_etag(old))
    if all(getattr(old, name) == value for name, value in changes.items()):
        return old, old.role
    values = {name: changes.get(name, getattr(old, name)) for name in _WRITABLE}
    new = await tx.one(
        queries.UPDATE_WORKSPACE,
        workspace_id=old.id,
        **{f"new_{name}": value for name, value in values.items()},
    )
    assert new is not None
    await add_event(tx, events.updated(caller, new))
    return new, old.role


# --- members


async def begin_adding(
    tx: Transaction, caller: Caller, workspace_id: UUID, role: Role.ValueType
) -> int:
    """Checks that the caller may add a member with this role. Returns the revision for the new membership.

    Raises NOT_FOUND, ROLE_TOO_LOW.
    """
    revision, own_role = await _begin_change(tx, caller, workspace_id)
    _check_may_touch_owners(caller, own_role, role)
    return revision


async def add_member(
    tx: Transaction,
    caller: Caller,
    workspace_id: UUID,
    email: str,
    role: Role.ValueType,
    revision: int,
    removal: Removal,
) -> Member:
    """Raises INVALID_REQUEST, NOT_FOUND, ALREADY_MEMBER, TasksLeft.

    `revision` is what `begin_adding` returned.
    """
    mail_address.check("email", email)
    user = await accounts.find_by_email(tx, emails.lookup_key(email))
    if user is None:
        raise not_found("user", email)
    if await directory.members_among(tx, workspace_id, [user.id]):
        raise DomainError(reasons.ERROR_REASON_ALREADY_MEMBER)
    if await removal.is_former(tx, workspace_id, user.id):
        raise TasksLeft(user.id)
    await _add(tx, caller, workspace_id, user.id, role, revision)
    return await _member(tx, workspace_id, user.id)


async def _add(
    tx: Transaction,
    caller: Caller,
    workspace_id: UUID,
    user_id: UUID,
    role: Role.ValueType,
    revision: int,
) -> None:
    await tx.run(
        queries.ADD_MEMBER, workspace_id=workspace_id, user_id=user_id, role=role, revision=revision
    )
    await add_event(tx, events.member_added(caller, workspace_id, user_id, role, revision))


async def list_members(
    tx: Transaction, workspace_id: UUID, after: list[Any] | None, count: int
) -> Sequence[Member]:
    """At most `count` members after a position, in the order in which they joined."""
    scope = {"workspace_id": workspace_id, "count": count}
    if after is None:
        return await tx.all(queries.FIRST_MEMBERS, **scope)
    joined, user_id = after
    return await tx.all(
        queries.NEXT_MEMBERS,
        after_time=datetime.fromisoformat(joined),
        after_user=UUID(user_id),
        **scope,
    )


def member_position(row: Member) -> list[Any]:
    return [row.created_at.isoformat(), str(row.user_id)]


async def update_member(
    tx: Transaction, caller: Caller, request: workspace_service_pb2.UpdateMemberRequest
) -> Member:
    """Changes a member's role. Raises NOT_FOUND, ROLE_TOO_LOW, ETAG_MISMATCH, LAST_OWNER."""
    workspace_id, user_id = UUID(request.workspace_id), UUID(request.user_id)
    revision, own_role = await _begin_change(tx, caller, workspace_id)
    member = await _member(tx, workspace_id, user_id)
    _check_may_touch_owners(caller, own_role, member.role, request.role)
    etags.check(request.etag, messages.member_etag(member))
    if member.role == request.role:
        return member
    await _check_owner_remains(tx, member)
    await tx.run(
        queries.SET_ROLE,
        in_workspace=workspace_id,
        of_user=user_id,
        new_role=request.role,
        new_revision=revision,
    )
    await add_event(
        tx, events.member_updated(caller, workspace_id, user_id, request.role, revision)
    )
    return member._replace(role=request.role, revision=revision)


async def remove_member(
    tx: Transaction,
    caller: Caller,
    workspace_id: UUID,
    user_id: UUID,
    removal: Removal,
) -> None:
    """Removes a member and unassigns their tasks. Members of every role may remove themselves.

    Raises NOT_FOUND, ROLE_TOO_LOW, LAST_OWNER.
    """
    revision, own_role = await _begin_change(tx, caller, workspace_id)
    if user_id != caller.user_id:
        directory.check_role(replace(caller, needs=workspace_pb2.ROLE_ADMIN), own_role)
    member = await _member(tx, workspace_id, user_id)
    _check_may_touch_owners(caller, own_role, member.role)
    await _check_owner_remains(tx, member)
    # Waits for transactions that assign tasks to this member. Later ones are refused.
    await tx.run(queries.DELETE_MEMBER, workspace_id=workspace_id, user_id=user_id)
    for begin in removal.begin:
        await begin(tx, workspace_id, user_id, caller.user_id)
    await add_event(tx, events.member_removed(caller, workspace_id, user_id, revision))


async def _begin_change(
    tx: Transaction, caller: Caller, workspace_id: UUID
) -> tuple[int, Role.ValueType]:
    """Waits for concurrent changes of the workspace's members. Returns the next revision, and the caller's role.

    Raises NOT_FOUND, ROLE_TOO_LOW.
    """
    row = await directory.find(
        tx,
        caller,
        queries.NEXT_MEMBERS_REVISION,
        "workspace",
        workspace_id,
        workspace_id=workspace_id,
    )
    return row.members_revision, await directory.authorize(tx, caller, workspace_id)


async def _member(tx: Transaction, workspace_id: UUID, user_id: UUID) -> Member:
    row = await tx.one(queries.MEMBER, workspace_id=workspace_id, user_id=user_id)
    if row is None:
        raise not_found("member", user_id)
    return row


def _check_may_touch_owners(
    caller: Caller, own_role: Role.ValueType, *touched: Role.ValueType
) -> None:
    """Raises ROLE_TOO_LOW when a caller who is no owner adds, changes or removes an owner."""
    if workspace_pb2.ROLE_OWNER in touched:
        directory.check_role(replace(caller, needs=workspace_pb2.ROLE_OWNER), own_role)


async def _check_owner_remains(tx: Transaction, leaving: Member) -> None:
    """Raises LAST_OWNER when `leaving` is the workspace's only owner."""
    if leaving.role == workspace_pb2.ROLE_OWNER:
        owners = await tx.one(queries.OWNERS, workspace_id=leaving.workspace_id)
        if owners is None or owners.number < 2:
            raise DomainError(reasons.ERROR_REASON_LAST_OWNER)
