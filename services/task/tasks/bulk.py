"""Changes of many tasks at once, in batches."""

from collections.abc import Iterable
from uuid import UUID

from services.platform.data.db import Transaction
from services.platform.events import outbox
from services.platform.rpc import directory
from services.task.tasks import changes, due, events, queries
from services.task.tasks.queries import TaskRow

# The most tasks in a batch. A task can hold 150 KB, and other calls wait while a batch is converted.
BATCH = 50
# Deadlines that are computed again in a batch, a millisecond of work for a hundred.
_VISITED = 1000

_WRITTEN = frozenset({"assignee_id", "due_at", "due_zone", "parent_id", "revision", "updated_at"})


async def unassign(
    tx: Transaction, workspace_id: UUID, user_id: UUID, actor_id: UUID
) -> list[TaskRow]:
    """Unassigns at most BATCH of a user's open tasks in a workspace; returns their former rows."""
    rows = await tx.all(
        queries.LOCK_OPEN_OF_ASSIGNEE, workspace_id=workspace_id, user_id=user_id, limit=BATCH
    )
    creators = await directory.people(tx, {row.creator_id for row in rows})
    pairs = []
    for row in rows:
        creator = creators.get(row.creator_id)
        zone = creator.time_zone if creator else None
        pairs.append((row, due.with_instant(row._replace(assignee_id=None), zone)))
    await _store(tx, pairs, actor_id)
    return rows


async def move_due_times(tx: Transaction, user_id: UUID, limit: int) -> tuple[int, bool]:
    """Moves date-only deadlines of a user's open tasks to the user's new time zone.

    Handles at most `limit` tasks; returns how many, and whether more may be left.
    """
    person = (await directory.people(tx, [user_id])).get(user_id)
    if person is None:
        return 0, False
    rows = await tx.all(
        queries.LOCK_DUE_IN_OTHER_ZONE, user_id=user_id, zone=person.time_zone, limit=limit
    )
    await _store(tx, [(row, due.with_instant(row, person.time_zone)) for row in rows], None)
    return len(rows), len(rows) == limit


async def derive_due_times(tx: Transaction, after: UUID) -> UUID | None:
    """Computes the instants of open tasks' deadlines again: this process's zone rules can be newer.

    Visits a batch of tasks in the order of their ids, and returns the last one; None when no task is left.
    """
    rows = await tx.all(queries.OPEN_DUE_TIMES, after=after, limit=_VISITED)
    moved: list[UUID] = []
    visited = None
    for row in rows:
        said = due.Due(row.due_date, row.due_local, row.due_zone if row.due_local else None)
        visited = row.id
        if said.instant(row.due_zone) != row.due_at:
            moved.append(row.id)
            if len(moved) == BATCH:
                break
    locked = await tx.all(queries.LOCK_OPEN, ids=moved) if moved else []
    await _store(tx, [(row, due.with_instant(row, row.due_zone)) for row in locked], None)
    return visited


async def remove_parents(tx: Transaction, parent_ids: list[UUID], limit: int) -> int:
    """Removes the parent from at most `limit` children of these tasks; returns the number of changed children."""
    rows = await tx.all(queries.LOCK_CHILDREN, parent_ids=parent_ids, limit=limit)
    await _store(tx, [(row, row._replace(parent_id=None)) for row in rows], None)
    return len(rows)


async def _store(
    tx: Transaction, pairs: Iterable[tuple[TaskRow, TaskRow]], actor_id: UUID | None
) -> None:
    """Writes locked tasks and their events. Each pair is a task's old and new row; see _WRITTEN for what may differ."""
    values, changed = [], []
    for old, new in pairs:
        columns = changes.changed_columns(old, new)
        stored = new
        # A new zone in which the deadline is the same instant has no event, because clients see no change.
        if events.changed_fields(old, new, columns):
            stored = changes.next_revision(new, columns, changes.next_update_time(old))
            changed.append(changes.event(old, stored, columns, actor_id))
        values.append(
            {f"new_{name}": getattr(stored, name) for name in _WRITTEN} | {"task_id": stored.id}
        )
    if values:
        await tx.run_many(queries.change(_WRITTEN), values)
    if changed:
        await outbox.add_events(tx, changed)
