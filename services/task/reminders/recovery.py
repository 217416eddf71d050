"""After a restored backup or the loss of Temporal's state: plans reminders again."""

from collections.abc import Sequence
from uuid import UUID

from services.platform.data.db import Transaction
from services.task.reminders import walks

_BATCH = 1000


async def plan_again(tx: Transaction, offsets: Sequence[int]) -> int:
    """Sends the dispatcher an event for each open task with reminders left to send; returns the number of tasks.

    `offsets` are seconds before the deadline.
    """
    count, after = 0, UUID(int=0)
    while planned := await walks.plan_again(tx, offsets, after, _BATCH):
        count, after = count + len(planned), planned[-1]
    return count
