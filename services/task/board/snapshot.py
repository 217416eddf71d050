"""Database reads of WatchTasks streams: the tasks of a snapshot, and single tasks."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

from services.platform.data.db import Database
from services.platform.rpc import directory
from services.platform.rpc.identity import Caller
from services.task.tasks import messages, pages, queries
from services.task.tasks.list_queries import Order
from taskflow.task.v1.task_pb2 import Task, TaskFilter

# The most tasks and bytes in a page of a snapshot. Between pages a stream holds no database connection and little
# memory, so slow clients do no harm.
_PAGE = 200
_PAGE_BYTES = 128 * 1024
_BY_CREATION = Order("created_at", descending=False)


async def read(
    db: Database,
    caller: Caller,
    workspace_id: UUID,
    wanted: TaskFilter,
    reading: asyncio.Semaphore,
) -> AsyncGenerator[list[Task], None]:
    """Yields the workspace's tasks that match the normalized filter, oldest first, in pages.

    Holds the semaphore `reading` while it reads a page. Raises NOT_FOUND or SESSION_REVOKED once the caller may no
    longer see the tasks.
    """
    position: list[Any] | None = None
    while True:
        async with reading, db.search() if wanted.text else db.read() as tx:
            await directory.authorize(tx, caller, workspace_id)
            page, position = await pages.page(
                tx, workspace_id, wanted, _BY_CREATION, position, _PAGE, _PAGE_BYTES
            )
        yield page
        if position is None:
            return


async def task(db: Database, task_id: UUID) -> Task:
    """The task's current state; an empty message if the task doesn't exist."""
    async with db.read() as tx:
        row = await tx.one(queries.GET_UNCHECKED, task_id=task_id)
    return messages.task(row) if row else Task()
