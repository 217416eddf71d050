"""Statements about workspaces and members."""

from typing import Any

from sqlalchemy import (
    Boolean,
    DateTime,
    Select,
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

from services.auth.models import any_role, members, users, workspaces
from services.platform.db import Statement
from services.platform.directory import live_session
from taskflow.auth.v1 import workspace_pb2

_WORKSPACE = (
    workspaces.c.id,
    workspaces.c.display_name,
    workspaces.c.ai_enabled,
    workspaces.c.revision,
    workspaces.c.members_revision,
    workspaces.c.created_at,
    workspaces.c.updated_at,
)

ADD_WORKSPACE = Statement(
    insert(workspaces).returning(*_WORKSPACE), ["id", "display_name", "ai_enabled"]
)


def visible() -> Select[Any]:
    """Workspaces of the caller, with the caller's role. Binds :caller_id and :session_id."""
    return (
        select(*_WORKSPACE, members.c.role)
        .join_from(members, workspaces, workspaces.c.id == members.c.workspace_id)
        .where(members.c.user_id == bindparam("caller_id", type_=Uuid), live_session())
    )


_one = visible().where(members.c.workspace_id == bindparam("workspace_id", type_=Uuid))
WORKSPACE = Statement(_one)
LOCK_WORKSPACE = Statement(_one.with_for_update(key_share=True, of=workspaces))
# Ids are made in the order of time: by id is oldest first.
_page = (
    visible().where(any_role(members)).order_by(members.c.workspace_id).limit(bindparam("count"))
)
FIRST_WORKSPACES = Statement(_page)
NEXT_WORKSPACES = Statement(_page.where(members.c.workspace_id > bindparam("after", type_=Uuid)))
UPDATE_WORKSPACE = Statement(
    update(workspaces)
    .where(workspaces.c.id == bindparam("workspace_id", type_=Uuid))
    .values(
        display_name=bindparam("new_display_name", type_=Text),
        ai_enabled=bindparam("new_ai_enabled", type_=Boolean),
        revision=workspaces.c.revision + 1,
        updated_at=func.now(),
    )
    .returning(*_WORKSPACE)
)

# Changes of memberships of one workspace come one after the other: each holds the workspace's row.
NEXT_MEMBERS_REVISION = Statement(
    update(workspaces)
    .where(
        workspaces.c.id == bindparam("workspace_id", type_=Uuid),
        workspaces.c.id == members.c.workspace_id,
        members.c.user_id == bindparam("caller_id", type_=Uuid),
        live_session(),
    )
    .values(members_revision=workspaces.c.members_revision + 1)
    .returning(workspaces.c.members_revision)
)

_MEMBER = (
    members.c.workspace_id,
    members.c.user_id,
    members.c.role,
    members.c.revision,
    members.c.created_at,
    users.c.email,
    users.c.display_name,
)
_members = (
    select(*_MEMBER)
    .join_from(members, users, users.c.id == members.c.user_id)
    .where(members.c.workspace_id == bindparam("workspace_id", type_=Uuid))
)
MEMBER = Statement(_members.where(members.c.user_id == bindparam("user_id", type_=Uuid)))
_members_page = _members.order_by(members.c.created_at, members.c.user_id).limit(bindparam("count"))
FIRST_MEMBERS = Statement(_members_page)
NEXT_MEMBERS = Statement(
    _members_page.where(
        tuple_(members.c.created_at, members.c.user_id)
        > tuple_(
            bindparam("after_time", type_=DateTime(timezone=True)),
            bindparam("after_user", type_=Uuid),
        )
    )
)
OWNERS = Statement(
    select(func.count().label("count"))
    .select_from(members)
    .where(
        members.c.workspace_id == bindparam("workspace_id", type_=Uuid),
        # Not as a parameter, without which the index of owners isn't one for this statement.
        members.c.role == literal_column(str(int(workspace_pb2.ROLE_OWNER))),
    )
)
ADD_MEMBER = Statement(
    insert(members).values(
        workspace_id=bindparam("workspace_id", type_=Uuid),
        user_id=bindparam("user_id", type_=Uuid),
        role=bindparam("role", type_=SmallInteger),
        revision=bindparam("revision"),
        # Not the transaction's start: it may have waited for the workspace's row.
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
