"""Makes pending suggestions STALE when their task's text changes."""

from uuid import UUID

from services.platform.data.db import Transaction
from services.platform.events.outbox import add_event
from services.task.suggestions import events, queries


async def make_stale(tx: Transaction, task_id: UUID, actor_id: UUID | None) -> None:
    """Makes the pending suggestions of a locked task STALE; `actor_id` is the user who changed the text."""
    for suggestion in await tx.all(queries.MAKE_STALE, task_id=task_id):
        await add_event(tx, events.updated(suggestion, actor_id))
