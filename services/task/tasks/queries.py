"""Statements on tasks. Lists are in list_queries.py, creation in creation_queries.py.

Every transaction takes its locks in this order: the tree of parents, the assignee's membership, the project, the task,
its suggestions.
"""

from datetime import date, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Integer,
    Text,
    Uuid,
    all_,
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.platform.data.db import Statement
from services.platform.rpc import directory
from services.platform.rpc.directory import members
from services.task.projects.models import projects
from services.task.tasks.models import former_members, tasks
from taskflow.task.v1.task_pb2 import TaskPriority, TaskStatus


class TaskRow(NamedTuple):
    id: UUID
    workspace_id: UUID
    project_id: UUID
    project_key: str
    number: int
    title: str
    description: str
    status: TaskStatus.ValueType
    priority: TaskPriority.ValueType
    assignee_id: UUID | None
    creator_id: UUID
    labels: list[str]
    due_date: date | None
    due_local: datetime | None
    due_zone: str | None
    due_at: datetime | None
    due_set_at: datetime | None
    payload: dict[str, Any] | None
    parent_id: UUID | None
    revision: int
    text_revision: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    deleted_at: datetime | None


class TaskWithRole(TaskRow):
    """A row of a task with the caller's `role` in its workspace."""

    role: int


class LockedTask(TaskWithRole):
    """`assignee_id` as it is stored; `assignee_left` says that it counts as none."""

    project_archived_at: datetime | None
    assignee_left: bool


class TaskId(NamedTuple):
    id: UUID


class FormerMember(NamedTuple):
    workspace_id: UUID
    user_id: UUID
    actor_id: UUID


class DueTime(NamedTuple):
    id: UUID
    due_date: date | None
    due_local: datetime | None
    due_zone: str
    due_at: datetime


COLUMNS = TaskRow._fields

_task_id = bindparam("task_id", type_=Uuid)
_project_id = bindparam("project_id", type_=Uuid)
_workspace_id = bindparam("workspace_id", type_=Uuid)
_user_id = bindparam("user_id", type_=Uuid)
_assignee_id = bindparam("assignee_id", type_=Uuid)
_parent_id = bindparam("parent_id", type_=Uuid)
_limit = bindparam("limit", type_=Integer)


# Whether an open task is still assigned to a former member. Without the OFFSET Postgres might join the tables whole.
assignee_left = and_(
    tasks.c.assignee_id.is_not(None),
    tasks.c.finished_at.is_(None),
    tasks.c.deleted_at.is_(None),
    exists(
        select(1)
        .select_from(former_members)
        .where(
            former_members.c.workspace_id == tasks.c.workspace_id,
            former_members.c.user_id == tasks.c.assignee_id,
        )
        .correlate(tasks)
        .offset(0)
    ),
)
# A task as it is shown: a former member is no assignee.
SHOWN = [
    case((assignee_left, null()), else_=column).label(column.name)
    if column is tasks.c.assignee_id
    else column
    for column in tasks.c
]


# One task.

_with_role = (
    select(*SHOWN, members.c.role)
    .select_from(tasks)
    .join(members, directory.membership(tasks.c.workspace_id))
)
GET = Statement(_with_role.where(tasks.c.id == _task_id), row=TaskWithRole)
GET_BY_KEY = Statement(
    _with_role.join(projects, projects.c.id == tasks.c.project_id).where(
        projects.c.workspace_id == _workspace_id,
        projects.c.key == bindparam("key", type_=Text),
        tasks.c.number == bindparam("number", type_=BigInteger),
    ),
    row=TaskWithRole,
)
# For callers who were authorized before.
GET_UNCHECKED = Statement(select(*SHOWN).where(tasks.c.id == _task_id), row=TaskRow)

# Locks a membership, so that it can't end before the transaction does.
LOCK_MEMBER = Statement(
    select(members.c.user_id)
    .where(members.c.workspace_id == _workspace_id, members.c.user_id == _assignee_id)
    .with_for_update(read=True, key_share=True)
)
# Locks the assignee's membership of the task's workspace.
LOCK_MEMBER_FOR_TASK = Statement(
    select(members.c.user_id)
    .where(
        members.c.workspace_id
        == select(tasks.c.workspace_id).where(tasks.c.id == _task_id).scalar_subquery(),
        members.c.user_id == _assignee_id,
    )
    .with_for_update(read=True, key_share=True)
)
# Locks the membership of a finished or deleted task's assignee, before the task may be reopened.
LOCK_ASSIGNEE = Statement(
    select(members.c.user_id)
    .join(
        tasks,
        and_(
            tasks.c.workspace_id == members.c.workspace_id,
            tasks.c.assignee_id == members.c.user_id,
        ),
    )
    .where(
        tasks.c.id == _task_id,
        or_(tasks.c.finished_at.is_not(None), tasks.c.deleted_at.is_not(None)),
    )
    .with_for_update(of=members, read=True, key_share=True)
)
# The task's project, locked, so that it can't be archived before the transaction ends.
_project = (
    select(projects.c.archived_at)
    .where(projects.c.id == tasks.c.project_id)
    .with_for_update(read=True, key_share=True)
    .lateral("project")
)
LOCK = Statement(
    select(
        tasks,
        members.c.role,
        _project.c.archived_at.label("project_archived_at"),
        assignee_left.label("assignee_left"),
    )
    .select_from(tasks)
    .join(_project, true())
    .join(members, directory.membership(tasks.c.workspace_id))
    .where(tasks.c.id == _task_id)
    .with_for_update(of=tasks, key_share=True),
    row=LockedTask,
)


@lru_cache(maxsize=256)
def change(columns: frozenset[str]) -> Statement:
    """The update of these columns of a task. Binds :task_id, and :new_<column> for each column."""
    return Statement(
        update(tasks)
        .where(tasks.c.id == _task_id)
        .values({name: bindparam(f"new_{name}", type_=tasks.c[name].type) for name in columns})
    )


# Allows one change of parents at a time in each project: two concurrent changes could form a cycle that neither sees.
LOCK_TREE = Statement(
    select(
        func.pg_advisory_xact_lock(func.hashtextextended(cast(tasks.c.project_id, Text), 0))
    ).where(tasks.c.id == _task_id)
)
_ancestors = (
    select(tasks.c.id, tasks.c.parent_id)
    .where(
        tasks.c.id == _parent_id, tasks.c.project_id == _project_id, tasks.c.deleted_at.is_(None)
    )
    .cte("above", recursive=True)
)
_ancestors = _ancestors.union(
    select(tasks.c.id, tasks.c.parent_id).where(tasks.c.id == _ancestors.c.parent_id)
)
# The ids of the parent and all its ancestors. No rows if the parent is deleted or isn't in the project.
ANCESTORS = Statement(select(_ancestors.c.id), row=TaskId)


# Statements on many tasks, in batches.

_open = and_(tasks.c.finished_at.is_(None), tasks.c.deleted_at.is_(None))
LOCK_OPEN_OF_ASSIGNEE = Statement(
    select(tasks)
    .where(tasks.c.workspace_id == _workspace_id, tasks.c.assignee_id == _user_id, _open)
    .order_by(tasks.c.id)
    .limit(_limit)
    .with_for_update(key_share=True),
    row=TaskRow,
)
# Deadlines of open tasks of all workspaces, in the order of the tasks' ids.
OPEN_DUE_TIMES = Statement(
    select(tasks.c.id, tasks.c.due_date, tasks.c.due_local, tasks.c.due_zone, tasks.c.due_at)
    .where(tasks.c.id > bindparam("after", type_=Uuid), tasks.c.due_at.is_not(None), _open)
    .order_by(tasks.c.id)
    .limit(_limit),
    row=DueTime,
)
LOCK_OPEN = Statement(
    select(tasks)
    .where(tasks.c.id == any_(bindparam("ids", type_=ARRAY(Uuid))), _open)
    .order_by(tasks.c.id)
    .with_for_update(key_share=True),
    row=TaskRow,
)
_parent_ids = bindparam("parent_ids", type_=ARRAY(Uuid))
LOCK_CHILDREN = Statement(
    select(tasks)
    .where(tasks.c.parent_id == any_(_parent_ids), tasks.c.id != all_(_parent_ids))
    .order_by(tasks.c.id)
    .limit(_limit)
    .with_for_update(key_share=True),
    row=TaskRow,
)
# Open tasks of a user with a date-only deadline that was computed in another zone than :zone.
LOCK_DUE_IN_OTHER_ZONE = Statement(
    select(tasks)
    .where(
        or_(
            tasks.c.assignee_id == _user_id,
            and_(tasks.c.assignee_id.is_(None), tasks.c.creator_id == _user_id),
        ),
        tasks.c.due_date.is_not(None),
        tasks.c.due_zone != bindparam("zone", type_=Text),
        _open,
    )
    .order_by(tasks.c.id)
    .limit(_limit)
    .with_for_update(key_share=True),
    row=TaskRow,
)


# Former members.

ADD_FORMER_MEMBER = Statement(
    insert(former_members)
    .values(
        workspace_id=_workspace_id, user_id=_user_id, actor_id=bindparam("actor_id", type_=Uuid)
    )
    .on_conflict_do_nothing()
)
_FORMER_MEMBER = [former_members.c[name] for name in FormerMember._fields]
FORMER_MEMBERS = Statement(
    select(*_FORMER_MEMBER).order_by(former_members.c.removed_at).limit(_limit), row=FormerMember
)
_this_former_member = and_(
    former_members.c.workspace_id == _workspace_id, former_members.c.user_id == _user_id
)
_lock_former_member = select(*_FORMER_MEMBER).where(_this_former_member)
LOCK_FORMER_MEMBER = Statement(_lock_former_member.with_for_update(), row=FormerMember)
# As LOCK_FORMER_MEMBER; no row while another process works on this member.
TRY_LOCK_FORMER_MEMBER = Statement(
    _lock_former_member.with_for_update(skip_locked=True), row=FormerMember
)
DELETE_FORMER_MEMBER = Statement(delete(former_members).where(_this_former_member))
