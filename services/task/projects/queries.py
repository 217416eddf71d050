"""Statements on projects. See tasks/queries.py for the order of locks."""

from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import DateTime, Integer, Text, Uuid, bindparam, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from services.platform.data.db import Statement
from services.platform.rpc import directory
from services.platform.rpc.directory import members
from services.task.projects.models import projects

_id = bindparam("project_id", type_=Uuid)


class ProjectRow(NamedTuple):
    id: UUID
    workspace_id: UUID
    key: str
    display_name: str
    description: str
    creator_id: UUID
    next_number: int
    archived_at: datetime | None
    revision: int
    created_at: datetime
    updated_at: datetime


class ProjectWithRole(ProjectRow):
    """A row of a project with the caller's `role` in its workspace."""

    role: int


ADD = Statement(
    insert(projects).on_conflict_do_nothing(constraint="projects_key").returning(projects),
    [
        *("id", "workspace_id", "key", "display_name", "description", "creator_id"),
        *("created_at", "updated_at"),
    ],
    row=ProjectRow,
)
_with_role = (
    select(projects, members.c.role)
    .select_from(projects)
    .join(members, directory.membership(projects.c.workspace_id))
    .where(projects.c.id == _id)
)
GET = Statement(_with_role, row=ProjectWithRole)
# Locks a project. Waits for running writes to its tasks, because these lock the project's row FOR KEY SHARE.
LOCK = Statement(_with_role.with_for_update(of=projects), row=ProjectWithRole)
UPDATE = Statement(
    update(projects)
    .where(projects.c.id == _id)
    .values(
        display_name=bindparam("new_display_name", type_=Text),
        description=bindparam("new_description", type_=Text),
        archived_at=bindparam("new_archived_at", type_=DateTime(timezone=True)),
        updated_at=bindparam("now", type_=DateTime(timezone=True)),
        revision=projects.c.revision + 1,
    )
    .returning(projects),
    row=ProjectRow,
)


@lru_cache
def page(include_archived: bool, after: bool) -> Statement[ProjectRow]:
    """The statement of a list of projects, oldest first.

    Binds :workspace_id, :limit, and with `after` :after_time and :after_id.
    """
    query = select(projects).where(projects.c.workspace_id == bindparam("workspace_id", type_=Uuid))
    if not include_archived:
        query = query.where(projects.c.archived_at.is_(None))
    if after:
        last = tuple_(
            bindparam("after_time", type_=DateTime(timezone=True)),
            bindparam("after_id", type_=Uuid),
        )
        query = query.where(tuple_(projects.c.created_at, projects.c.id) > last)
    query = query.order_by(projects.c.created_at, projects.c.id)
    return Statement(query.limit(bindparam("limit", type_=Integer)), row=ProjectRow)
