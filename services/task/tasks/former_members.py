"""Unassigns the open tasks of members who were removed: in small batches, after the removal.

The removal itself writes a row of `former_members`, and the rest follows from that row, whichever process is killed.
Until it's done, such tasks count as unassigned everywhere (queries.SHOWN).
"""

from functools import partial
from uuid import UUID

from services.platform.background import work_off
from services.platform.data.db import Transaction
from services.platform.runtime import Platform
from services.task.tasks import bulk, queries

# Seconds between looks for former members.
_LOOK_INTERVAL = 0.5
# Former members who take turns.
_MOST = 100
# Pause after each batch (seconds), which leaves the disk to others; and after each task with a deadline, whose
# reminders are planned again. Temporal's development server accepts about 200 of these a second.
_PAUSE = 0.02
_PAUSE_PER_DEADLINE = 0.01


async def begin(tx: Transaction, workspace_id: UUID, user_id: UUID, actor_id: UUID) -> None:
    """The same transaction has deleted the membership: from then on nobody can assign a task to the user."""
    await tx.run(
        queries.ADD_FORMER_MEMBER, workspace_id=workspace_id, user_id=user_id, actor_id=actor_id
    )


async def go_on(tx: Transaction, workspace_id: UUID, user_id: UUID) -> bool:
    """Unassigns a batch of a former member's tasks, waiting for another process that does. False when none is left."""
    member = await tx.one(queries.LOCK_FORMER_MEMBER, workspace_id=workspace_id, user_id=user_id)
    return member is not None and bool(await _unassign(tx, member))


async def is_former(tx: Transaction, workspace_id: UUID, user_id: UUID) -> bool:
    """Whether the user is a former member, who may still have tasks."""
    key = {"workspace_id": workspace_id, "user_id": user_id}
    return await tx.one(queries.LOCK_FORMER_MEMBER, **key) is not None


async def run(platform: Platform) -> None:
    """Runs for ever; any number of processes share the work."""
    await work_off("tasks of former members", partial(run_once, platform), _LOOK_INTERVAL)


async def run_once(platform: Platform) -> float:
    """Unassigns a batch of each former member; returns the pause before the next batches (seconds), 0 if none is left.

    A transaction of its own for each.
    """
    async with platform.db.read() as tx:
        members = await tx.all(queries.FORMER_MEMBERS, limit=_MOST)
    pause = 0.0
    for member in members:
        key = {"workspace_id": member.workspace_id, "user_id": member.user_id}
        async with platform.db.transaction() as tx:
            if await tx.one(queries.TRY_LOCK_FORMER_MEMBER, **key) is None:
                continue
            tasks = await _unassign(tx, member)
        if tasks:
            pause += _PAUSE + _PAUSE_PER_DEADLINE * sum(task.due_at is not None for task in tasks)
    return pause


async def _unassign(tx: Transaction, member: queries.FormerMember) -> list[queries.TaskRow]:
    """A batch of the locked former member's tasks. After the last one the user is no former member any more."""
    tasks = await bulk.unassign(tx, member.workspace_id, member.user_id, member.actor_id)
    if not tasks:
        await tx.run(
            queries.DELETE_FORMER_MEMBER, workspace_id=member.workspace_id, user_id=member.user_id
        )
    return tasks
