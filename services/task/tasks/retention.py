"""Deletes tasks whose retention time is over, and old AI calls."""

from datetime import timedelta

from sqlalchemy import ARRAY, Column, Integer, Table, Uuid, any_, bindparam, delete, select

from services.platform.config import Settings
from services.platform.data import retention
from services.platform.data.db import Statement, Transaction
from services.platform.data.retention import PLACE, Kind, aged, delete_at, expired
from services.platform.runtime import Loop, Platform
from services.task.models import metadata
from services.task.suggestions.ai_rate_limit_queries import WINDOW
from services.task.suggestions.models import ai_calls
from services.task.tasks import bulk
from services.task.tasks.models import tasks
from services.task.tasks.queries import TaskId

# The most tasks in a batch; each may have many rows in other tables.
_BATCH = 50

_ids = bindparam("ids", type_=ARRAY(Uuid))
_rows = bindparam("rows", type_=Integer)
_LOCK = Statement(
    select(tasks.c.id)
    .where(expired(tasks.c.deleted_at))
    .order_by(tasks.c.deleted_at)
    .limit(_rows)
    .with_for_update(skip_locked=True),
    row=TaskId,
)


def _delete_rows_of_tasks(table: Table, task_id: Column[object]) -> Statement:
    places = select(PLACE).select_from(table).where(task_id == any_(_ids)).limit(_rows)
    return Statement(delete_at(table, places))


# One statement for each foreign key to tasks: deletes at most :rows rows of the tasks :ids.
_DELETE_DEPENDENTS = [
    _delete_rows_of_tasks(table, key.parent)
    for table in reversed(metadata.sorted_tables)
    for key in table.foreign_keys
    if key.column is tasks.c.id
]
_DELETE = Statement(delete(tasks).where(tasks.c.id == any_(_ids)))


def loop(platform: Platform) -> Loop:
    return retention.run(platform.settings, platform.db, kinds(platform.settings))


def kinds(settings: Settings) -> list[Kind]:
    return [
        _deleted_tasks(timedelta(seconds=settings.task_retention)),
        aged("ai_calls", ai_calls, ai_calls.c.allowed_at, WINDOW),
    ]


def _deleted_tasks(after: timedelta) -> Kind:
    """Deletes tasks whose retention time is over: first removes them as parents, then deletes their jobs, reminders and
    suggestions, and then the tasks.

    Several transactions can be needed. Nobody sees a half-deleted task, because it can't be undeleted any more.
    """

    async def delete(tx: Transaction, rows: int) -> tuple[int, bool]:
        ids = [row.id for row in await tx.all(_LOCK, age=after, rows=_BATCH)]
        if not ids:
            return 0, False
        if await bulk.remove_parents(tx, ids, bulk.BATCH) == bulk.BATCH:
            return 0, True
        for statement in _DELETE_DEPENDENTS:
            if await tx.run(statement, ids=ids, rows=rows) == rows:
                return 0, True
        return await tx.run(_DELETE, ids=ids), len(ids) == _BATCH

    return Kind("tasks", delete)
