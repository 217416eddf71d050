"""Pages of tasks."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from services.platform.db import Transaction
from services.task import filters, messages
from services.task.filters import Order, Shape
from taskflow.task.v1.task_pb2 import Task, TaskFilter

# Rows read at once: tasks can hold 150 KB each.
_CHUNK = 200
# A page ends early rather than being larger than what gRPC clients take by default (4 MiB).
_MAX_BYTES = 3 * 1024 * 1024


async def page(
    tx: Transaction,
    workspace_id: UUID,
    wanted: TaskFilter,
    order: Order,
    position: list[Any] | None,
    size: int,
) -> tuple[list[Task], list[Any] | None]:
    """At most `size` tasks after the position, and the position of the next page; None after the last.

    `wanted` is a normal filter (filters.py); who may see the workspace was asked before.
    """
    found: list[Task] = []
    bytes_found = 0
    last: list[Any] | None = None
    given = {"workspace_id": workspace_id} | filters.values(wanted)
    for part in _parts(filters.shape(wanted, order), position):
        start, position = position, None
        complete = False
        while not complete:
            limit = min(size + 1 - len(found), _CHUNK)
            rows = await tx.all(
                filters.statement(replace(part, after=start is not None)),
                **given,
                **(filters.after(part, start) if start else {}),
                limit=limit,
            )
            for row in rows:
                if len(found) == size or bytes_found > _MAX_BYTES:
                    return found, last
                task = messages.task(row)
                found.append(task)
                bytes_found += task.ByteSize()
                last = start = filters.position(part, row)
            complete = len(rows) < limit
    return found, None


def _parts(shape: Shape, position: list[Any] | None) -> list[Shape]:
    """What is listed one after the other, from the part on that the position lies in."""
    if shape.order.column != "due_at":
        return [shape]
    parts = [replace(shape, dated=True), replace(shape, dated=False)]
    return parts[1:] if position and position[0] is None else parts
