"""What is deleted of tasks once its time is over."""

from datetime import timedelta

from sqlalchemy import (
    ARRAY,
    Column,
    Integer,
    Table,
    Uuid,
    any_,
    bindparam,
    delete,
    select,
)

from services.platform import retention
from services.platform.config import Settings
from services.platform.db import Statement, Transaction
from services.platform.retention import PLACE, Kind, aged, deletion, due
from services.platform.runtime import Loop, Platform
from services.task import allowance, logic
from services.task.models import ai_calls, metadata, tasks

# Tasks at once; each may have many rows in other tables.
_TASKS = 50

_ids = bindparam("ids", type_=ARRAY(Uuid))
_rows = bindparam("rows", type_=Integer)
_LOCK = Statement(
    select(tasks.c.id)
    .where(due(tasks.c.deleted_at))
    .order_by(tasks.c.deleted_at)
    .limit(_rows)
    .with_for_update(skip_locked=True)
)


def _hanging(table: Table, task_id: Column[object]) -> Statement:
    places = select(PLACE).select_from(table).where(task_id == any_(_ids)).limit(_rows)
    return deletion(table, places)


# Each deletes at most :rows of what hangs on the tasks, in whatever table.
_HANGING = [
    _hanging(table, key.parent)
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
        aged("ai_calls", ai_calls, ai_calls.c.allowed_at, allowance.WINDOW),
    ]


def _deleted_tasks(after: timedelta) -> Kind:
    """With all that hangs on them; tasks below them lose their parent. A task is deleted after the rest of it is gone.

    Nobody can undelete a task that is due, so nobody finds one without what belonged to it.
    """

    async def delete(tx: Transaction, rows: int) -> tuple[int, bool]:
        found = await tx.all(_LOCK, age=after, rows=_TASKS)
        ids = [row.id for row in found]
        if not ids:
            return 0, False
        if await logic.leave_parents(tx, ids, logic.AT_ONCE) == logic.AT_ONCE:
            return 0, True
        for statement in _HANGING:
            if await tx.run(statement, ids=ids, rows=rows) == rows:
                return 0, True
        return await tx.run(_DELETE, ids=ids), len(ids) == _TASKS

    return Kind("tasks", delete)
