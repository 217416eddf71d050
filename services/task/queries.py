"""Statements on projects and tasks. The lists of tasks are in filters.py.

Locks are taken in this order, here and everywhere: the tree of parents, the assignee's membership, the project, the
task, its suggestions.
"""

from collections import namedtuple
from functools import lru_cache

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Integer,
    Select,
    Text,
    Uuid,
    all_,
    and_,
    any_,
    bindparam,
    cast,
    func,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_or

from services.platform import directory
from services.platform.db import Statement
from services.platform.directory import members
from services.task.models import projects, tasks

COLUMNS: tuple[str, ...] = tuple(tasks.c.keys())
# A task's row as it will be stored.
TaskRow = namedtuple("TaskRow", COLUMNS)  # type: ignore[misc]

_task_id = bindparam("task_id", type_=Uuid)
_project_id = bindparam("project_id", type_=Uuid)
_workspace_id = bindparam("workspace_id", type_=Uuid)
_user_id = bindparam("user_id", type_=Uuid)
_assignee_id = bindparam("assignee_id", type_=Uuid)
_parent_id = bindparam("parent_id", type_=Uuid)
_limit = bindparam("limit", type_=Integer)


# Projects.

ADD_PROJECT = Statement(
    insert_or(projects).on_conflict_do_nothing(constraint="projects_key").returning(projects),
    [
        *("id", "workspace_id", "key", "display_name", "description", "creator_id"),
        *("created_at", "updated_at"),
    ],
)
_project = (
    select(projects, members.c.role)
    .select_from(projects)
    .join(members, directory.membership(projects.c.workspace_id))
    .where(projects.c.id == _project_id)
)
GET_PROJECT = Statement(_project)
# Waits for the writes to its tasks that are under way: they hold it FOR KEY SHARE.
LOCK_PROJECT = Statement(_project.with_for_update(of=projects))
CHANGE_PROJECT = Statement(
    update(projects)
    .where(projects.c.id == _project_id)
    .values(
        display_name=bindparam("new_display_name", type_=Text),
        description=bindparam("new_description", type_=Text),
        archived_at=bindparam("new_archived_at", type_=DateTime(timezone=True)),
        updated_at=bindparam("now", type_=DateTime(timezone=True)),
        revision=projects.c.revision + 1,
    )
    .returning(projects)
)


@lru_cache
def list_projects(archived: bool, after: bool) -> Statement:
    """Binds :workspace_id, :limit, and with `after` :after_time and :after_id."""
    query = select(projects).where(projects.c.workspace_id == _workspace_id)
    if not archived:
        query = query.where(projects.c.archived_at.is_(None))
    if after:
        there = tuple_(
            bindparam("after_time", type_=DateTime(timezone=True)),
            bindparam("after_id", type_=Uuid),
        )
        query = query.where(tuple_(projects.c.created_at, projects.c.id) > there)
    return Statement(query.order_by(projects.c.created_at, projects.c.id).limit(_limit))


# Reading one task.

_visible = (
    select(tasks, members.c.role)
    .select_from(tasks)
    .join(members, directory.membership(tasks.c.workspace_id))
)
GET_TASK = Statement(_visible.where(tasks.c.id == _task_id))
GET_TASK_BY_KEY = Statement(
    _visible.join(projects, projects.c.id == tasks.c.project_id).where(
        projects.c.workspace_id == _workspace_id,
        projects.c.key == bindparam("key", type_=Text),
        tasks.c.number == bindparam("number", type_=BigInteger),
    )
)


# Changing a task.


def _member() -> Select[tuple[object]]:
    """The assignee's membership, which then can't end before the transaction does."""
    return (
        select(members.c.user_id)
        .where(members.c.workspace_id == _workspace_id, members.c.user_id == _assignee_id)
        .with_for_update(read=True, key_share=True)
    )


LOCK_MEMBER = Statement(_member())
# The same, where only the task is known.
LOCK_MEMBER_FOR_TASK = Statement(
    select(members.c.user_id)
    .where(
        members.c.workspace_id
        == select(tasks.c.workspace_id).where(tasks.c.id == _task_id).scalar_subquery(),
        members.c.user_id == _assignee_id,
    )
    .with_for_update(read=True, key_share=True)
)
# Of a task that is finished or deleted: the assignee's, where the task comes back.
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
_archive = (
    select(projects.c.archived_at)
    .where(projects.c.id == tasks.c.project_id)
    .with_for_update(read=True, key_share=True)
    .lateral("project")
)
LOCK_TASK = Statement(
    select(tasks, members.c.role, _archive.c.archived_at.label("project_archived_at"))
    .select_from(tasks)
    .join(_archive, true())
    .join(members, directory.membership(tasks.c.workspace_id))
    .where(tasks.c.id == _task_id)
    .with_for_update(of=tasks, key_share=True)
)


@lru_cache(maxsize=256)
def change_task(columns: frozenset[str]) -> Statement:
    """Binds :task_id and :new_<column> for each column."""
    return Statement(
        update(tasks)
        .where(tasks.c.id == _task_id)
        .values({name: bindparam(f"new_{name}", type_=tasks.c[name].type) for name in columns})
    )


# One tree of parents is changed at a time in each project, or two changes could close a circle that neither sees.
LOCK_TREE = Statement(
    select(
        func.pg_advisory_xact_lock(func.hashtextextended(cast(tasks.c.project_id, Text), 0))
    ).where(tasks.c.id == _task_id)
)
_above = (
    select(tasks.c.id, tasks.c.parent_id)
    .where(
        tasks.c.id == _parent_id, tasks.c.project_id == _project_id, tasks.c.deleted_at.is_(None)
    )
    .cte("above", recursive=True)
)
_above = _above.union(select(tasks.c.id, tasks.c.parent_id).where(tasks.c.id == _above.c.parent_id))
# The parent, if it's a live task of the project, and all above it.
ANCESTORS = Statement(select(_above.c.id))

# Changing many tasks.

_open = and_(tasks.c.finished_at.is_(None), tasks.c.deleted_at.is_(None))
LOCK_OPEN_OF_ASSIGNEE = Statement(
    select(tasks)
    .where(tasks.c.workspace_id == _workspace_id, tasks.c.assignee_id == _user_id, _open)
    .order_by(tasks.c.id)
    .limit(_limit)
    .with_for_update(key_share=True)
)
_parent_ids = bindparam("parent_ids", type_=ARRAY(Uuid))
LOCK_BELOW = Statement(
    select(tasks)
    .where(tasks.c.parent_id == any_(_parent_ids), tasks.c.id != all_(_parent_ids))
    .order_by(tasks.c.id)
    .limit(_limit)
    .with_for_update(key_share=True)
)
LOCK_DATED_ELSEWHERE = Statement(
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
    .with_for_update(key_share=True)
)
