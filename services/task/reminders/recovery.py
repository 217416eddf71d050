"""After a restored backup or the loss of Temporal's state: plans reminders again."""

from collections.abc import Sequence
from uuid import UUID

from services.platform.data.db import Transaction
from services.platform.events.outbox import add_events_for
from services.task.reminders import queries
from services.task.tasks import events

# The consumer that starts workflows. Only this consumer gets the repeated events.
_CONSUMER = "dispatcher"
_BATCH = 1000


async def plan_again(tx: Transaction, offsets: Sequence[int]) -> int:
    """Sends the dispatcher an event for each open task with reminders left to send; returns the number of tasks.

    `offsets` are seconds before the deadline.
    """
    if not offsets:
        return 0
    count = 0
    after = UUID(int=0)
    while rows := await tx.all(
        queries.TASKS_TO_REMIND, after=after, limit=_BATCH, last_offset=min(offsets)
    ):
        repeated = [events.deadline_repeated(*row) for row in rows]
        await add_events_for(tx, _CONSUMER, repeated)
        count, after = count + len(rows), rows[-1].id
    return count
