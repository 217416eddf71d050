"""Jobs of kind ENRICHMENT: each records that a worker failed to make suggestions for a task's text.

Such a job is created as FAILED. RetryJob makes it PENDING and requests suggestions again. When suggestions are stored,
the job becomes DONE.
"""

from uuid import UUID

from uuid_utils.compat import uuid7

from services.platform.data.db import Transaction
from services.platform.events.outbox import add_event
from services.task.jobs import events, queries


async def record_failure(tx: Transaction, task_id: UUID, base: int, error: str) -> None:
    """Records that a worker failed to make suggestions for the text revision `base`.

    Does nothing if the text has changed or the task is deleted, because nobody needs these suggestions any more.
    """
    task = await tx.one(queries.LOCK_TASK, task_id=task_id)
    if task is None or task.deleted_at or task.text_revision != base:
        return
    await _fail_pending(tx, task_id, error)
    job = await tx.one(
        queries.INSERT_FAILED_ENRICHMENT,
        id=uuid7(),
        workspace_id=task.workspace_id,
        task_id=task_id,
        base=base,
        failure=error,
    )
    if job:
        await add_event(tx, events.created(job, None))


async def give_up(tx: Transaction, task_id: UUID) -> None:
    """Fails the task's pending enrichment jobs because suggestions aren't wanted, for example after archiving."""
    if await tx.one(queries.LOCK_TASK, task_id=task_id):
        await _fail_pending(tx, task_id, "suggestions aren't wanted any more")


async def complete(tx: Transaction, task_id: UUID) -> None:
    """Makes the enrichment jobs of a locked task DONE, because its suggestions have been stored."""
    for job in await tx.all(queries.COMPLETE_ENRICHMENTS, task_id=task_id):
        await add_event(tx, events.updated(job))


async def _fail_pending(tx: Transaction, task_id: UUID, error: str) -> None:
    for job in await tx.all(queries.FAIL_PENDING_ENRICHMENTS, task_id=task_id, failure=error):
        await add_event(tx, events.updated(job))
