"""Rows as they are shown."""

import hashlib
from typing import Any
from uuid import UUID

from services.platform.errors import DomainError
from taskflow.auth.v1 import user_pb2, workspace_pb2
from taskflow.auth.v1.workspace_pb2 import Role
from taskflow.error.v1 import error_reason_pb2 as reasons


def etag(*identity: UUID, revision: int) -> str:
    name = ":".join([*map(str, identity), str(revision)])
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def check_etag(sent: str, current: str) -> None:
    """Raises ETAG_MISMATCH with the current etag for one that was sent and is stale."""
    if sent and sent != current:
        raise DomainError(reasons.ERROR_REASON_ETAG_MISMATCH, {"etag": current})


def user(row: Any) -> user_pb2.User:
    return user_pb2.User(
        id=str(row.id),
        email=row.email,
        display_name=row.display_name,
        time_zone=row.time_zone,
        email_notifications=row.email_notifications,
        create_time=row.created_at,
        update_time=row.updated_at,
        etag=etag(row.id, revision=row.revision),
    )


def workspace(row: Any, role: Role.ValueType) -> workspace_pb2.Workspace:
    """`role` is the caller's."""
    return workspace_pb2.Workspace(
        id=str(row.id),
        display_name=row.display_name,
        ai_enabled=row.ai_enabled,
        role=role,
        create_time=row.created_at,
        update_time=row.updated_at,
        etag=etag(row.id, revision=row.revision),
    )


def member(row: Any) -> workspace_pb2.Member:
    """`row` has the member's e-mail and display name as well."""
    return workspace_pb2.Member(
        workspace_id=str(row.workspace_id),
        user_id=str(row.user_id),
        email=row.email,
        display_name=row.display_name,
        role=row.role,
        create_time=row.created_at,
        etag=etag(row.workspace_id, row.user_id, revision=row.revision),
    )
