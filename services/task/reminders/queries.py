"""Statements on reminders and on their tasks."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    DateTime,
    Integer,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    exists,
    func,
    not_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import insert

from services.platform.data.db import Statement
from services.task.projects.models import projects
from services.task.reminders.models import reminders
from services.task.tasks.models import tasks
from taskflow.task.v1.internal_service_pb2 import ReminderOutcome


class RemindedTask(NamedTuple):
    """A locked task with the columns that reminders depend on, and the time of the database's clock."""

    id: UUID
    due_at: datetime | None
    due_zone: str | None
    finished_at: datetime | None
    deleted_at: datetime | None
    archived_at: datetime | None
    now: datetime


class Outcome(NamedTuple):
    offset_seconds: int
    outcome: ReminderOutcome.ValueType


class TaskDeadline(NamedTuple):
    id: UUID
    workspace_id: UUID
    revision: int
    due_at: datetime


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
        tasks.c.due_at,
        tasks.c.due_zone,
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
OUTCOMES = Statement(
    select(reminders.c.offset_seconds, reminders.c.outcome).where(
        reminders.c.task_id == _task_id, reminders.c.due_at == _due_at
    ),
    row=Outcome,
)
RECORD = Statement(
    insert(reminders)
    .values(
        {
            reminders.c.task_id: _task_id,
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
# Open tasks of all workspaces whose last reminder, at the offset :last_offset, has no recorded outcome.
TASKS_TO_REMIND = Statement(
    select(tasks.c.id, tasks.c.workspace_id, tasks.c.revision, tasks.c.due_at)
    .where(
        tasks.c.id > bindparam("after", type_=Uuid),
        tasks.c.due_at.is_not(None),
        tasks.c.finished_at.is_(None),
        tasks.c.deleted_at.is_(None),
        not_(
            exists().where(
                reminders.c.task_id == tasks.c.id,
                reminders.c.due_at == tasks.c.due_at,
                reminders.c.offset_seconds == bindparam("last_offset", type_=Integer),
            )
        ),
    )
    .order_by(tasks.c.id)
    .limit(bindparam("limit", type_=Integer)),
    row=TaskDeadline,
)
