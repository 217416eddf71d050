"""Statements on reminders and on their tasks."""

from datetime import date, datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    DateTime,
    Integer,
    Interval,
    SmallInteger,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from services.platform.data.db import Statement
from services.task.projects.models import projects
from services.task.reminders.models import reminders, walks
from services.task.tasks.models import tasks
from taskflow.task.v1.internal_service_pb2 import ReminderOutcome


class RemindedTask(NamedTuple):
    """A locked task with the columns that reminders depend on, and the time of the database's clock."""

    id: UUID
    due_date: date | None
    due_local: datetime | None
    due_zone: str | None
    due_at: datetime | None
    due_set_at: datetime | None
    finished_at: datetime | None
    deleted_at: datetime | None
    archived_at: datetime | None
    now: datetime


class Outcome(NamedTuple):
    """`due_said` is None in rows of an earlier version."""

    due_said: str | None
    offset_seconds: int
    outcome: ReminderOutcome.ValueType


class TaskDeadline(NamedTuple):
    id: UUID
    workspace_id: UUID
    revision: int
    due_at: datetime


class ProjectCreator(NamedTuple):
    creator_id: UUID


class Walk(NamedTuple):
    scope: str
    after: UUID


_task_id = bindparam("task_id", type_=Uuid)
_due_at = bindparam("due_at", type_=DateTime(timezone=True))

# The task's project, locked, so that it can't be archived before the transaction ends.
_archive = (
    select(projects.c.archived_at)
    .where(projects.c.id == tasks.c.project_id)
    .with_for_update(read=True, key_share=True)
    .lateral("project")
)
LOCK_TASK = Statement(
    select(
        tasks.c.id,
        tasks.c.due_date,
        tasks.c.due_local,
        tasks.c.due_zone,
        tasks.c.due_at,
        tasks.c.due_set_at,
        tasks.c.finished_at,
        tasks.c.deleted_at,
        _archive.c.archived_at,
        func.clock_timestamp().label("now"),
    )
    .select_from(tasks.join(_archive, true()))
    .where(tasks.c.id == _task_id)
    .with_for_update(of=tasks, key_share=True),
    row=RemindedTask,
)
# The outcomes of a deadline. An earlier version identified it by its instant.
OUTCOMES = Statement(
    select(reminders.c.due_said, reminders.c.offset_seconds, reminders.c.outcome).where(
        reminders.c.task_id == _task_id,
        or_(
            reminders.c.due_said == bindparam("due_said", type_=Text),
            and_(reminders.c.due_said.is_(None), reminders.c.due_at == _due_at),
        ),
    ),
    row=Outcome,
)
PROJECT_CREATOR = Statement(
    select(projects.c.creator_id).where(projects.c.id == bindparam("project_id", type_=Uuid)),
    row=ProjectCreator,
)
RECORD = Statement(
    insert(reminders)
    .values(
        {
            reminders.c.task_id: _task_id,
            reminders.c.due_said: bindparam("due_said", type_=Text),
            reminders.c.due_at: _due_at,
            reminders.c.offset_seconds: bindparam("offset", type_=Integer),
            reminders.c.outcome: bindparam("result", type_=SmallInteger),
            reminders.c.remind_at: bindparam("remind_at", type_=DateTime(timezone=True)),
            reminders.c.zone: bindparam("zone", type_=Text),
            reminders.c.rule: bindparam("rule", type_=Text),
            reminders.c.recorded_at: func.now(),
        }
    )
    .on_conflict_do_nothing()
)
# The deadline as the user set it, in the same form as `Due.said`.
_said = case(
    (tasks.c.due_date.is_not(None), func.to_char(tasks.c.due_date, "YYYY-MM-DD")),
    else_=func.to_char(tasks.c.due_local, 'YYYY-MM-DD"T"HH24:MI:SS.US') + " " + tasks.c.due_zone,
)
# The offset of the last reminder: a day's is always 0.
_last_offset = case(
    (tasks.c.due_date.is_not(None), 0), else_=bindparam("last_offset", type_=Integer)
)


@lru_cache
def tasks_to_remind(of_project: bool) -> Statement[TaskDeadline]:
    """Open tasks whose last reminder has no recorded outcome, in the order of their ids.

    Binds :after, :last_offset (of deadlines with a time) and :limit. With `of_project` also :project_id and :ahead, and
    finds only the project's tasks that are due within that time.
    """
    query = select(tasks.c.id, tasks.c.workspace_id, tasks.c.revision, tasks.c.due_at).where(
        tasks.c.id > bindparam("after", type_=Uuid),
        tasks.c.due_at.is_not(None),
        tasks.c.finished_at.is_(None),
        tasks.c.deleted_at.is_(None),
        not_(
            exists().where(
                reminders.c.task_id == tasks.c.id,
                or_(
                    reminders.c.due_said == _said,
                    and_(reminders.c.due_said.is_(None), reminders.c.due_at == tasks.c.due_at),
                ),
                reminders.c.offset_seconds == _last_offset,
            )
        ),
    )
    if of_project:
        query = query.where(
            tasks.c.project_id == bindparam("project_id", type_=Uuid),
            tasks.c.due_at <= func.now() + bindparam("ahead", type_=Interval),
        )
    query = query.order_by(tasks.c.id).limit(bindparam("limit", type_=Integer))
    return Statement(query, row=TaskDeadline, prepare=False)


# Walks.

_scope = bindparam("scope", type_=Text)
_begin = insert(walks).values(
    {
        walks.c.scope: _scope,
        walks.c.rules: bindparam("rules", type_=Text),
        walks.c.after: UUID(int=0),
        walks.c.begun_at: func.now(),
    }
)
_others = walks.c.rules != _begin.excluded.rules
# Begins a walk, unless one with these rules was begun longer ago than :settling.
BEGIN_WALK = Statement(
    _begin.on_conflict_do_update(
        index_elements=["scope"],
        set_={
            "rules": _begin.excluded.rules,
            "after": _begin.excluded.after,
            "begun_at": case((_others, _begin.excluded.begun_at), else_=walks.c.begun_at),
        },
        where=or_(_others, walks.c.begun_at > func.now() - bindparam("settling", type_=Interval)),
    )
)
# The newest walk that isn't over, unless another process is taking its next step: a project's is short.
LOCK_WALK = Statement(
    select(walks.c.scope, walks.c.after)
    .where(walks.c.after.is_not(None))
    .order_by(walks.c.begun_at.desc(), walks.c.scope)
    .limit(1)
    .with_for_update(skip_locked=True),
    row=Walk,
)
ADVANCE_WALK = Statement(
    update(walks)
    .where(walks.c.scope == _scope)
    .values({walks.c.after: bindparam("visited", type_=Uuid)})
)
# A walk over all tasks keeps its row, which says by which rules it was.
END_WALK = Statement(delete(walks).where(walks.c.scope == _scope))
