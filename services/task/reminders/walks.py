"""Walks over all open tasks, or those of a project: their deadlines are computed, or their reminders planned again.

A task's reminders are otherwise planned again only when the task changes. Other zone rules, other settings and an
unarchived project change no task. A walk goes on where it was when a process ends.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from services.platform.background import work_off
from services.platform.data.db import Database, Transaction
from services.platform.events.outbox import add_events_for
from services.platform.events.subjects import DISPATCHER
from services.platform.rpc import zones
from services.platform.runtime import Loop, Platform
from services.task.reminders import queries
from services.task.reminders.schedule import Rules, rules
from services.task.tasks import bulk, events

_DUE_TIMES: Final = "due times"
_REMINDERS: Final = "reminders"
# Changed when the code plans reminders by other rules than before: then all of them are planned again.
_VERSION: Final = 1
# Seconds between steps, and between looks for a walk that an unarchived project began.
_PAUSE: Final = 1.0
# Tasks whose reminders are planned again in a step. Temporal's development server restarts some 30 runs a second.
_BATCH: Final = 30
# Processes that start within this time of an upgrade compute due times again: until the upgrade is over, processes with
# the rules from before it store due times, too.
_SETTLING: Final = timedelta(hours=1)
# A day's reminders begin on the day before it, whose deadline is at its end.
_DAYS_AHEAD: Final = timedelta(days=3)


async def begin(tx: Transaction, of_reminders: Rules) -> None:
    """Begins the walks that other zone rules or other settings need. Call it when a process starts."""
    await tx.run(
        queries.BEGIN_WALK, scope=_DUE_TIMES, rules=f"tzdata {zones.RULES}", settling=_SETTLING
    )
    await tx.run(
        queries.BEGIN_WALK,
        scope=_REMINDERS,
        rules=f"{_VERSION} {of_reminders}",
        settling=timedelta(0),
    )


async def begin_project(tx: Transaction, project_id: UUID, revision: int) -> None:
    """Has the reminders planned again that were held back while the project, now at this revision, was archived."""
    await tx.run(
        queries.BEGIN_WALK,
        scope=str(project_id),
        rules=f"revision {revision}",
        settling=timedelta(0),
    )


async def step(tx: Transaction, of_reminders: Rules) -> bool:
    """Takes the next step of a walk. False when there was none to take."""
    walk = await tx.one(queries.LOCK_WALK)
    if walk is None:
        return False
    if walk.scope == _DUE_TIMES:
        visited = await bulk.derive_due_times(tx, walk.after)
    else:
        project_id = None if walk.scope == _REMINDERS else UUID(walk.scope)
        planned = await plan_again(tx, of_reminders.offsets, walk.after, _BATCH, project_id)
        visited = planned[-1] if planned else None
        if project_id is not None and visited is None:
            await tx.run(queries.END_WALK, scope=walk.scope)
            return True
    await tx.run(queries.ADVANCE_WALK, scope=walk.scope, visited=visited)
    return True


async def plan_again(
    tx: Transaction,
    offsets: Sequence[int],
    after: UUID,
    limit: int,
    project_id: UUID | None = None,
) -> list[UUID]:
    """Sends the dispatcher an event for each open task with reminders left to send; at most `limit`, by their ids.

    `offsets` are seconds before the deadline. With a project only for those of its tasks whose reminders can have been
    held back. Returns these tasks; none when no task is left.
    """
    values = {"after": after, "limit": limit, "last_offset": min(offsets, default=0)}
    if project_id is not None:
        ahead = max(timedelta(seconds=max(offsets, default=0)), _DAYS_AHEAD)
        values |= {"project_id": project_id, "ahead": ahead}
    rows = await tx.all(queries.tasks_to_remind(project_id is not None), **values)
    if rows:
        # No other consumer gets the events of a walk.
        await add_events_for(tx, DISPATCHER, [events.reminders_outdated(*row) for row in rows])
    return [row.id for row in rows]


def loop(platform: Platform) -> Loop:
    return _run(platform.db, rules(platform.settings))


async def _run(db: Database, of_reminders: Rules) -> None:
    begun = False

    async def next_step() -> float:
        nonlocal begun
        async with db.transaction() as tx:
            if not begun:
                await begin(tx, of_reminders)
            await step(tx, of_reminders)
        begun = True
        return _PAUSE

    await work_off("walks over tasks", next_step, _PAUSE)
