"""Statements about workspaces and members."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    Boolean,
    DateTime,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)

from services.auth.accounts.models import users
from services.auth.workspaces.models import members, workspaces
from services.platform.data.db import Statement
from services.platform.rpc.directory import live_session
from taskflow.auth.v1 import workspace_pb2


class Workspace(NamedTuple):
    id: UUID
    display_name: str
    ai_enabled: bool
    revision: int
    created_at: datetime
    updated_at: datetime


class WorkspaceWithRole(NamedTuple):
    """A row of a workspace with the caller's `role` in it."""

    id: UUID
    display_name: str
    ai_enabled: bool
    revision: int
    created_at: datetime
    updated_at: datetime
    role: workspace_pb2.Role.ValueType


class MembersRevision(NamedTuple):
    members_revision: int


class Member(NamedTuple):
    workspace_id: UUID
    user_id: UUID
    role: workspace_pb2.Role.ValueType
    revision: int
    created_at: datetime
    email: str
    display_name: str


class Owners(NamedTuple):
    number: int


_WORKSPACE = [workspaces.c[name] for name in Workspace._fields]

ADD_WORKSPACE = Statement(
    insert(workspaces).returning(*_WORKSPACE), ["id", "display_name", "ai_enabled"], row=Workspace
)
# The caller's workspaces.
_own = (
    select(*_WORKSPACE, members.c.role)
    .join_from(members, workspaces, workspaces.c.id == members.c.workspace_id)
    .where(members.c.user_id == bindparam("caller_id", type_=Uuid), live_session())
)
_one = _own.where(members.c.workspace_id == bindparam("workspace_id", type_=Uuid))
WORKSPACE = Statement(_one, row=WorkspaceWithRole)
LOCK_WORKSPACE = Statement(
    _one.with_for_update(key_share=True, of=workspaces), row=WorkspaceWithRole
)
# UUIDv7 ids rise with time: ordered by id, the oldest comes first.
_page = (
    # True for every member. Without this condition Postgres can't use the partial index members_user.
    _own.where(members.c.role > literal_column("0"))
    .order_by(members.c.workspace_id)
    .limit(bindparam("count"))
)
FIRST_WORKSPACES = Statement(_page, row=WorkspaceWithRole)
NEXT_WORKSPACES = Statement(
    _page.where(members.c.workspace_id > bindparam("after", type_=Uuid)), row=WorkspaceWithRole
)
UPDATE_WORKSPACE = Statement(
    update(workspaces)
    .where(workspaces.c.id == bindparam("workspace_id", type_=Uuid))
    .values(
        display_name=bindparam("new_display_name", type_=Text),
        ai_enabled=bindparam("new_ai_enabled", type_=Boolean),
        revision=workspaces.c.revision + 1,
        updated_at=func.now(),
    )
    .returning(*_WORKSPACE),
    row=Workspace,
)

# Locks the workspace's row, so that changes of one workspace's memberships run one after the other.
NEXT_MEMBERS_REVISION = Statement(
    update(workspaces)
    .where(
        workspaces.c.id == bindparam("workspace_id", type_=Uuid),
        workspaces.c.id == members.c.workspace_id,
        members.c.user_id == bindparam("caller_id", type_=Uuid),
        live_session(),
    )
    .values(members_revision=workspaces.c.members_revision + 1)
    .returning(workspaces.c.members_revision),
    row=MembersRevision,
)

_members = (
    select(
        members.c.workspace_id,
        members.c.user_id,
        members.c.role,
        members.c.revision,
        members.c.created_at,
        users.c.email,
        users.c.display_name,
    )
    .join_from(members, users, users.c.id == members.c.user_id)
    .where(members.c.workspace_id == bindparam("workspace_id", type_=Uuid))
)
MEMBER = Statement(
    _members.where(members.c.user_id == bindparam("user_id", type_=Uuid)), row=Member
)
_members_page = _members.order_by(members.c.created_at, members.c.user_id).limit(bindparam("count"))
FIRST_MEMBERS = Statement(_members_page, row=Member)
NEXT_MEMBERS = Statement(
    _members_page.where(
        tuple_(members.c.created_at, members.c.user_id)
        > tuple_(
            bindparam("after_time", type_=DateTime(timezone=True)),
            bindparam("after_user", type_=Uuid),
        )
    ),
    row=Member,
)
OWNERS = Statement(
    select(func.count().label("number"))
    .select_from(members)
    .where(
        members.c.workspace_id == bindparam("workspace_id", type_=Uuid),
        # A literal: with a parameter Postgres couldn't use the partial index members_owners.
        members.c.role == literal_column(str(int(workspace_pb2.ROLE_OWNER))),
    ),
    row=Owners,
)
ADD_MEMBER = Statement(
    insert(members).values(
        workspace_id=bindparam("workspace_id", type_=Uuid),
        user_id=bindparam("user_id", type_=Uuid),
        role=bindparam("role", type_=SmallInteger),
        revision=bindparam("revision"),
        # The current time. `now()`, the transaction's start, may be long ago if it waited for the workspace's row.
        created_at=func.clock_timestamp(),
    )
)
SET_ROLE = Statement(
    update(members)
    .where(
        members.c.workspace_id == bindparam("in_workspace", type_=Uuid),
        members.c.user_id == bindparam("of_user", type_=Uuid),
    )
    .values(role=bindparam("new_role", type_=SmallInteger), revision=bindparam("new_revision"))
)
DELETE_MEMBER = Statement(
    delete(members).where(
        members.c.workspace_id == bindparam("workspace_id", type_=Uuid),
        members.c.user_id == bindparam("user_id", type_=Uuid),
    )
)
