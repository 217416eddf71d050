"""Reads one page of a task list."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from services.platform.data.db import Transaction
from services.platform.rpc import pages
from services.task.tasks import list_queries, messages
from services.task.tasks.list_queries import Order, Shape
from services.task.tasks.queries import TaskRow
from taskflow.task.v1.task_pb2 import Task, TaskFilter


async def page(
    tx: Transaction,
    workspace_id: UUID,
    wanted: TaskFilter,
    order: Order,
    after: list[Any] | None,
    size: int,
    max_bytes: int | None = None,
) -> tuple[list[Task], list[Any] | None]:
    """A page of tasks after a position, and the last task's position; None instead if no task follows.

    The page ends at `size` tasks, or once they exceed `max_bytes`, by default 3 MiB. `wanted` is a normalized filter.
    The caller was authorized before.
    """
    shape = list_queries.shape(wanted, order)
    values = {"workspace_id": workspace_id} | list_queries.values(wanted)

    async def fetch(after: list[Any] | None, limit: int) -> list[TaskRow]:
        rows: list[TaskRow] = []
        for part in _parts(shape, after):
            statement = list_queries.statement(replace(part, after=after is not None))
            start = list_queries.after(part, after) if after else {}
            rows += await tx.all(statement, **values, **start, limit=limit - len(rows))
            if len(rows) == limit:
                break
            # The position lies in the first part, so the next part is read from its start.
            after = None
        return rows

    def position_of(row: TaskRow) -> list[Any]:
        return list_queries.position(shape, row)

    return await pages.collect(fetch, messages.task, position_of, after, size, max_bytes)


def _parts(shape: Shape, after: list[Any] | None) -> list[Shape]:
    """Splits a list ordered by deadline into tasks with and without one; skips the part before the position."""
    if shape.order.column != "due_at":
        return [shape]
    with_deadline, without = replace(shape, dated=True), replace(shape, dated=False)
    return [without] if after and after[0] is None else [with_deadline, without]
