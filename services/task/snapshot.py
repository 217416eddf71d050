"""What streams read from the database: the tasks that are there when a stream begins, and single ones."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

from sqlalchemy import Uuid, bindparam, select

from services.platform import directory
from services.platform.db import Database, Statement
from services.platform.identity import Caller
from services.task import lists, messages
from services.task.filters import Order
from services.task.models import tasks
from taskflow.task.v1.task_pb2 import Task, TaskFilter

# Tasks read at a time, each page for itself: a slow reader holds no connection, and little memory (bytes).
_PAGE = 200
_PAGE_BYTES = 128 * 1024
_BY_CREATION = Order("created_at", descending=False)

_TASK = Statement(select(tasks).where(tasks.c.id == bindparam("task_id", type_=Uuid)))


async def pages(
    db: Database,
    caller: Caller,
    workspace_id: UUID,
    wanted: TaskFilter,
    reading: asyncio.Semaphore,
) -> AsyncGenerator[list[Task], None]:
    """The workspace's tasks that match the normal filter, in the order of their creation.

    Each page is read while `reading` is held. Raises NOT_FOUND or SESSION_REVOKED as soon as the
    caller may no longer see them.
    """
    position: list[Any] | None = None
    while True:
        async with reading, db.read() as tx:
            await directory.authorize(tx, caller, workspace_id)
            found, position = await lists.page(
                tx, workspace_id, wanted, _BY_CREATION, position, _PAGE, _PAGE_BYTES
            )
        yield found
        if position is None:
            return


async def task(db: Database, task_id: UUID) -> Task:
    """As it is now; an empty one if it isn't there."""
    async with db.read() as tx:
        row = await tx.one(_TASK, task_id=task_id)
    return messages.task(row) if row else Task()
