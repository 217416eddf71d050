"""Pages of tasks."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

from services.platform.db import Transaction
from services.task import filters, messages
from services.task.filters import Order, Shape
from taskflow.task.v1.task_pb2 import Task, TaskFilter

# Rows read at first, and at most: tasks can hold 150 KB each.
_FIRST_ROWS = 64
_MOST_ROWS = 200
# A page ends early rather than being larger than what gRPC clients take by default (4 MiB).
_MOST_BYTES = 3 * 1024 * 1024


async def page(
    tx: Transaction,
    workspace_id: UUID,
    wanted: TaskFilter,
    order: Order,
    position: list[Any] | None,
    size: int,
    most_bytes: int = _MOST_BYTES,
) -> tuple[list[Task], list[Any] | None]:
    """At most `size` tasks after the position, and the position of the next page; None after the last.

    A page that has `most_bytes` ends, too.
    `wanted` is a normal filter (filters.py); who may see the workspace was asked before.
    """
    found: list[Task] = []
    bytes_found = 0
    rows_at_once = _FIRST_ROWS
    last: list[Any] | None = None
    given = {"workspace_id": workspace_id} | filters.values(wanted)
    for part in _parts(filters.shape(wanted, order), position):
        start, position = position, None
        complete = False
        while not complete:
            limit = min(size + 1 - len(found), rows_at_once)
            rows = await tx.all(
                filters.statement(replace(part, after=start is not None)),
                **given,
                **(filters.after(part, start) if start else {}),
                limit=limit,
            )
            for row in rows:
                if len(found) == size or bytes_found > most_bytes:
                    return found, last
                if row.payload is not None:
                    # Converting a payload takes up to 20 ms, and a page can have hundreds: other calls go in between.
                    await asyncio.sleep(0)
                task = messages.task(row)
                found.append(task)
                bytes_found += task.ByteSize()
                last = start = filters.position(part, row)
            complete = len(rows) < limit
            if found:
                # As many as there is room for if they're like those before them.
                fitting = (most_bytes - bytes_found) * len(found) // bytes_found
                rows_at_once = min(_MOST_ROWS, max(1, fitting))
    return found, None


def _parts(shape: Shape, position: list[Any] | None) -> list[Shape]:
    """What is listed one after the other, from the part on that the position lies in."""
    if shape.order.column != "due_at":
        return [shape]
    parts = [replace(shape, dated=True), replace(shape, dated=False)]
    return parts[1:] if position and position[0] is None else parts
