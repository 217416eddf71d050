"""Events about workspaces and members."""

from uuid import UUID

from services.auth.workspaces.queries import Workspace
from services.platform.rpc.identity import Caller
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.event.v1.event_pb2 import (
    Event,
    MemberAdded,
    MemberRemoved,
    MemberUpdated,
    WorkspaceChanged,
)


def created(caller: Caller, workspace: Workspace) -> Event:
    return _workspace_event("workspace.created", caller, workspace)


def updated(caller: Caller, workspace: Workspace) -> Event:
    return _workspace_event("workspace.updated", caller, workspace)


def _workspace_event(type: str, caller: Caller, workspace: Workspace) -> Event:
    return Event(
        type=type,
        workspace_id=str(workspace.id),
        aggregate_id=str(workspace.id),
        revision=workspace.revision,
        actor_id=str(caller.user_id),
        workspace_changed=WorkspaceChanged(ai_enabled=workspace.ai_enabled),
    )


def member_added(
    caller: Caller, workspace_id: UUID, user_id: UUID, role: Role.ValueType, revision: int
) -> Event:
    event = _member_event("member.added", caller, workspace_id, user_id, revision)
    event.member_added.CopyFrom(MemberAdded(user_id=str(user_id), role=role))
    return event


def member_updated(
    caller: Caller, workspace_id: UUID, user_id: UUID, role: Role.ValueType, revision: int
) -> Event:
    event = _member_event("member.updated", caller, workspace_id, user_id, revision)
    event.member_updated.CopyFrom(MemberUpdated(user_id=str(user_id), role=role))
    return event


def member_removed(caller: Caller, workspace_id: UUID, user_id: UUID, revision: int) -> Event:
    event = _member_event("member.removed", caller, workspace_id, user_id, revision)
    event.member_removed.CopyFrom(MemberRemoved(user_id=str(user_id)))
    return event


def _member_event(
    type: str, caller: Caller, workspace_id: UUID, user_id: UUID, revision: int
) -> Event:
    """An event about a member, still without its facts. Its aggregate is the user's membership of the workspace."""
    return Event(
        type=type,
        workspace_id=str(workspace_id),
        aggregate_id=str(user_id),
        revision=revision,
        actor_id=str(caller.user_id),
    )
