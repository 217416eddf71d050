"""Converts rows of workspaces and members into messages."""

from services.auth.workspaces.queries import Member, Workspace, WorkspaceWithRole
from services.platform.rpc import etags
from taskflow.auth.v1 import workspace_pb2
from taskflow.auth.v1.workspace_pb2 import Role


def workspace(row: Workspace | WorkspaceWithRole, role: Role.ValueType) -> workspace_pb2.Workspace:
    """The message of a workspace; `role` is the caller's role in it."""
    message = workspace_pb2.Workspace(
        id=str(row.id),
        display_name=row.display_name,
        ai_enabled=row.ai_enabled,
        role=role,
        etag=workspace_etag(row),
    )
    message.create_time.FromDatetime(row.created_at)
    message.update_time.FromDatetime(row.updated_at)
    return message


def workspace_etag(row: Workspace | WorkspaceWithRole) -> str:
    return etags.of(f"{row.id}:{row.revision}".encode())


def member(row: Member) -> workspace_pb2.Member:
    message = workspace_pb2.Member(
        workspace_id=str(row.workspace_id),
        user_id=str(row.user_id),
        email=row.email,
        display_name=row.display_name,
        role=row.role,
        etag=member_etag(row),
    )
    message.create_time.FromDatetime(row.created_at)
    return message


def member_etag(row: Member) -> str:
    return etags.of(f"{row.workspace_id}:{row.user_id}:{row.revision}".encode())
