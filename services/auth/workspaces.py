"""Workspaces and members: the rules."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from services.auth import messages, queries
from services.auth import workspace_queries as statements
from services.auth.logic import email_key
from services.platform import directory, idempotency, masks, pages, text
from services.platform.db import Transaction
from services.platform.errors import DomainError, not_found
from services.platform.identity import Caller
from services.platform.outbox import add_event
from services.platform.seal import Seal
from taskflow.auth.v1 import workspace_pb2, workspace_service_pb2
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.error.v1 import error_reason_pb2 as reasons
from taskflow.event.v1.event_pb2 import (
    Event,
    MemberAdded,
    MemberRemoved,
    MemberUpdated,
    WorkspaceChanged,
)

# Takes a user off the open tasks of a workspace, in the transaction that it's handed: (tx, workspace, user, actor).
Unassign = Callable[[Transaction, UUID, UUID, UUID], Awaitable[int]]

_WRITABLE = frozenset({"display_name", "ai_enabled"})
_FIRST_REVISION = 1


# --- workspaces


async def create_workspace(
    tx: Transaction,
    seal: Seal,
    caller: Caller,
    request: workspace_service_pb2.CreateWorkspaceRequest,
) -> workspace_service_pb2.CreateWorkspaceResponse:
    name = text.line("display_name", request.display_name)
    await directory.require_session(tx, caller)
    user = str(caller.user_id)
    answer = await idempotency.first_answer(
        tx,
        seal,
        user,
        request,
        request.request_id,
        workspace_service_pb2.CreateWorkspaceResponse,
    )
    if answer is not None:
        return answer
    row = await tx.one(
        statements.ADD_WORKSPACE,
        id=uuid7(),
        display_name=name,
        ai_enabled=request.ai_enabled if request.HasField("ai_enabled") else True,
    )
    assert row is not None
    await tx.run(
        statements.ADD_MEMBER,
        workspace_id=row.id,
        user_id=caller.user_id,
        role=workspace_pb2.ROLE_OWNER,
        revision=_FIRST_REVISION,
    )
    await add_event(tx, _workspace_event("workspace.created", caller, row))
    added = MemberAdded(user_id=user, role=workspace_pb2.ROLE_OWNER)
    event = _member_event("member.added", caller, row.id, caller.user_id, _FIRST_REVISION)
    event.member_added.CopyFrom(added)
    await add_event(tx, event)
    answer = workspace_service_pb2.CreateWorkspaceResponse(
        workspace=messages.workspace(row, workspace_pb2.ROLE_OWNER)
    )
    await idempotency.remember(tx, user, request, request.request_id, answer)
    return answer


async def get_workspace(tx: Transaction, caller: Caller, id: UUID) -> workspace_pb2.Workspace:
    row = await tx.one(
        statements.WORKSPACE,
        workspace_id=id,
        caller_id=caller.user_id,
        session_id=caller.session_id,
    )
    if row is None:
        raise await directory.absence(tx, caller, "workspace", id)
    directory.check_role(caller, row.role)
    return messages.workspace(row, row.role)


async def list_workspaces(
    tx: Transaction,
    seal: Seal,
    caller: Caller,
    request: workspace_service_pb2.ListWorkspacesRequest,
) -> workspace_service_pb2.ListWorkspacesResponse:
    size = pages.size(request.page_size)
    position = pages.position(seal, caller.user_id, request)
    scope = {"caller_id": caller.user_id, "session_id": caller.session_id, "count": size + 1}
    if position is None:
        rows = await tx.all(statements.FIRST_WORKSPACES, **scope)
    else:
        rows = await tx.all(statements.NEXT_WORKSPACES, after=UUID(position[0]), **scope)
    if not rows:
        await directory.require_session(tx, caller)
    answer = workspace_service_pb2.ListWorkspacesResponse(
        workspaces=[messages.workspace(row, row.role) for row in rows[:size]]
    )
    if len(rows) > size:
        answer.next_page_token = pages.token(
            seal, caller.user_id, request, [str(rows[size - 1].id)]
        )
    return answer


async def update_workspace(
    tx: Transaction,
    caller: Caller,
    request: workspace_service_pb2.UpdateWorkspaceRequest,
) -> workspace_pb2.Workspace:
    """Raises INVALID_REQUEST, ETAG_MISMATCH."""
    wanted = request.workspace
    fields = masks.fields(wanted, request.update_mask, _WRITABLE)
    new: dict[str, Any] = {}
    if "display_name" in fields:
        new["display_name"] = text.line("workspace.display_name", wanted.display_name)
    if "ai_enabled" in fields:
        new["ai_enabled"] = wanted.ai_enabled

    old = await tx.one(
        statements.LOCK_WORKSPACE,
        workspace_id=UUID(wanted.id),
        caller_id=caller.user_id,
        session_id=caller.session_id,
    )
    if old is None:
        raise await directory.absence(tx, caller, "workspace", wanted.id)
    directory.check_role(caller, old.role)
    messages.check_etag(wanted.etag, messages.etag(old.id, revision=old.revision))
    if all(getattr(old, name) == value for name, value in new.items()):
        return messages.workspace(old, old.role)
    values = {name: new.get(name, getattr(old, name)) for name in _WRITABLE}
    row = await tx.one(
        statements.UPDATE_WORKSPACE,
        workspace_id=old.id,
        **{f"new_{name}": value for name, value in values.items()},
    )
    await add_event(tx, _workspace_event("workspace.updated", caller, row))
    return messages.workspace(row, old.role)


# --- members


async def add_member(
    tx: Transaction,
    seal: Seal,
    caller: Caller,
    request: workspace_service_pb2.AddMemberRequest,
) -> workspace_service_pb2.AddMemberResponse:
    """Raises NOT_FOUND, ALREADY_MEMBER."""
    workspace_id = UUID(request.workspace_id)
    revision, role = await _begin_change(tx, caller, workspace_id)
    _check_owners(caller, role, request.role)
    user = str(caller.user_id)
    answer = await idempotency.first_answer(
        tx, seal, user, request, request.request_id, workspace_service_pb2.AddMemberResponse
    )
    if answer is not None:
        return answer
    person = await tx.one(queries.USER_BY_EMAIL, email_key=email_key(request.email))
    if person is None:
        raise not_found("user", request.email)
    if await directory.members_among(tx, workspace_id, [person.id]):
        raise DomainError(reasons.ERROR_REASON_ALREADY_MEMBER)
    await tx.run(
        statements.ADD_MEMBER,
        workspace_id=workspace_id,
        user_id=person.id,
        role=request.role,
        revision=revision,
    )
    event = _member_event("member.added", caller, workspace_id, person.id, revision)
    event.member_added.CopyFrom(MemberAdded(user_id=str(person.id), role=request.role))
    await add_event(tx, event)
    answer = workspace_service_pb2.AddMemberResponse(
        member=messages.member(await _member(tx, workspace_id, person.id))
    )
    await idempotency.remember(tx, user, request, request.request_id, answer)
    return answer


async def list_members(
    tx: Transaction,
    seal: Seal,
    caller: Caller,
    request: workspace_service_pb2.ListMembersRequest,
) -> workspace_service_pb2.ListMembersResponse:
    workspace_id = UUID(request.workspace_id)
    await directory.authorize(tx, caller, workspace_id)
    size = pages.size(request.page_size)
    position = pages.position(seal, caller.user_id, request)
    scope = {"workspace_id": workspace_id, "count": size + 1}
    if position is None:
        rows = await tx.all(statements.FIRST_MEMBERS, **scope)
    else:
        joined, after = position
        rows = await tx.all(
            statements.NEXT_MEMBERS,
            after_time=datetime.fromisoformat(joined),
            after_user=UUID(after),
            **scope,
        )
    answer = workspace_service_pb2.ListMembersResponse(
        members=[messages.member(row) for row in rows[:size]]
    )
    if len(rows) > size:
        last = rows[size - 1]
        answer.next_page_token = pages.token(
            seal, caller.user_id, request, [last.created_at.isoformat(), str(last.user_id)]
        )
    return answer


async def update_member(
    tx: Transaction, caller: Caller, request: workspace_service_pb2.UpdateMemberRequest
) -> workspace_pb2.Member:
    """Raises NOT_FOUND, ETAG_MISMATCH, LAST_OWNER."""
    workspace_id, user_id = UUID(request.workspace_id), UUID(request.user_id)
    revision, role = await _begin_change(tx, caller, workspace_id)
    row = await _member(tx, workspace_id, user_id)
    _check_owners(caller, role, row.role, request.role)
    messages.check_etag(request.etag, messages.etag(workspace_id, user_id, revision=row.revision))
    if row.role == request.role:
        return messages.member(row)
    await _check_owner_stays(tx, row)
    await tx.run(
        statements.SET_ROLE,
        in_workspace=workspace_id,
        of_user=user_id,
        new_role=request.role,
        new_revision=revision,
    )
    event = _member_event("member.updated", caller, workspace_id, user_id, revision)
    event.member_updated.CopyFrom(MemberUpdated(user_id=str(user_id), role=request.role))
    await add_event(tx, event)
    return messages.member(await _member(tx, workspace_id, user_id))


async def remove_member(
    tx: Transaction,
    caller: Caller,
    request: workspace_service_pb2.RemoveMemberRequest,
    unassign: Unassign,
) -> None:
    """Raises NOT_FOUND, LAST_OWNER."""
    workspace_id, user_id = UUID(request.workspace_id), UUID(request.user_id)
    revision, role = await _begin_change(tx, caller, workspace_id)
    if user_id != caller.user_id:
        directory.check_role(replace(caller, needs=workspace_pb2.ROLE_ADMIN), role)
    row = await _member(tx, workspace_id, user_id)
    _check_owners(caller, role, row.role)
    await _check_owner_stays(tx, row)
    # First of all, as it waits for whoever is assigning a task to this member; what they assign is seen below.
    await tx.run(statements.DELETE_MEMBER, workspace_id=workspace_id, user_id=user_id)
    await unassign(tx, workspace_id, user_id, caller.user_id)
    event = _member_event("member.removed", caller, workspace_id, user_id, revision)
    event.member_removed.CopyFrom(MemberRemoved(user_id=str(user_id)))
    await add_event(tx, event)


async def _begin_change(
    tx: Transaction, caller: Caller, workspace_id: UUID
) -> tuple[int, Role.ValueType]:
    """The revision that the change of a membership gets, and the caller's role, once all changes before are done."""
    row = await tx.one(
        statements.NEXT_MEMBERS_REVISION,
        workspace_id=workspace_id,
        caller_id=caller.user_id,
        session_id=caller.session_id,
    )
    if row is None:
        raise await directory.absence(tx, caller, "workspace", workspace_id)
    return row.members_revision, await directory.authorize(tx, caller, workspace_id)


async def _member(tx: Transaction, workspace_id: UUID, user_id: UUID) -> Any:
    row = await tx.one(statements.MEMBER, workspace_id=workspace_id, user_id=user_id)
    if row is None:
        raise not_found("member", user_id)
    return row


def _check_owners(caller: Caller, role: Role.ValueType, *touched: int) -> None:
    """Raises ROLE_TOO_LOW for others than owners where an owner is made or changed."""
    if workspace_pb2.ROLE_OWNER in touched:
        directory.check_role(replace(caller, needs=workspace_pb2.ROLE_OWNER), role)


async def _check_owner_stays(tx: Transaction, leaving: Any) -> None:
    if leaving.role == workspace_pb2.ROLE_OWNER:
        owners = await tx.one(statements.OWNERS, workspace_id=leaving.workspace_id)
        if owners is None or owners.count < 2:
            raise DomainError(reasons.ERROR_REASON_LAST_OWNER)


# --- events


def _workspace_event(type: str, caller: Caller, row: Any) -> Event:
    return Event(
        type=type,
        workspace_id=str(row.id),
        aggregate_id=str(row.id),
        revision=row.revision,
        actor_id=str(caller.user_id),
        workspace_changed=WorkspaceChanged(ai_enabled=row.ai_enabled),
    )


def _member_event(
    type: str, caller: Caller, workspace_id: UUID, user_id: UUID, revision: int
) -> Event:
    """To be completed with its facts. The aggregate is the user as a member of this workspace."""
    return Event(
        type=type,
        workspace_id=str(workspace_id),
        aggregate_id=str(user_id),
        revision=revision,
        actor_id=str(caller.user_id),
    )
