"""Changes of many tasks at once, in batches."""

from collections.abc import Iterable
from uuid import UUID

from services.platform.data.db import Transaction
from services.platform.events import outbox
from services.platform.rpc import directory
from services.task.tasks import changes, due, events, queries
from services.task.tasks.queries import TaskRow

# Tasks in a batch. A task can hold 150 KB, and converting a batch keeps other calls waiting.
BATCH = 50

_WRITTEN = frozenset({"assignee_id", "due_at", "due_zone", "parent_id", "revision", "updated_at"})


async def unassign_member(
    tx: Transaction, workspace_id: UUID, user_id: UUID, actor_id: UUID
) -> int:
    """Unassigns a user's open tasks in a workspace; returns how many.

    The same transaction has deleted the membership: from then on nobody can assign a task to the user.
    """
    count = 0
    while rows := await tx.all(
        queries.LOCK_OPEN_OF_ASSIGNEE, workspace_id=workspace_id, user_id=user_id, limit=BATCH
    ):
        creators = await directory.people(tx, {row.creator_id for row in rows})
        pairs = []
        for row in rows:
            creator = creators.get(row.creator_id)
            zone = creator.time_zone if creator else None
            pairs.append((row, due.with_instant(row._replace(assignee_id=None), zone)))
        await _store(tx, pairs, actor_id)
        count += len(rows)
    return count


async def move_due_times(tx: Transaction, user_id: UUID, limit: int) -> tuple[int, bool]:
    """Computes when days end for open tasks of a user whose time zone changed.

    Handles at most `limit` tasks; returns how many, and whether more are left.
    """
    person = (await directory.people(tx, [user_id])).get(user_id)
    if person is None:
        return 0, False
    rows = await tx.all(
        queries.LOCK_DUE_IN_OTHER_ZONE, user_id=user_id, zone=person.time_zone, limit=limit
    )
    await _store(tx, [(row, due.with_instant(row, person.time_zone)) for row in rows], None)
    return len(rows), len(rows) == limit


async def remove_parents(tx: Transaction, parent_ids: list[UUID], limit: int) -> int:
    """Removes the parent from at most `limit` children of these tasks; returns from how many."""
    rows = await tx.all(queries.LOCK_CHILDREN, parent_ids=parent_ids, limit=limit)
    await _store(tx, [(row, row._replace(parent_id=None)) for row in rows], None)
    return len(rows)


async def _store(
    tx: Transaction, pairs: Iterable[tuple[TaskRow, TaskRow]], actor_id: UUID | None
) -> None:
    """Writes the new rows of locked tasks, with their events. Only assignee, deadline and parent may differ."""
    values, changed = [], []
    for old, new in pairs:
        columns = changes.changed_columns(old, new)
        stored = new
        # Another zone with the same instant changes nothing that a client sees.
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
