"""After the database was put back, or Temporal lost its state: what workers have to do is told to them once more.

What they were asked for within `event_retention` the outbox tells them again. Here is what may be older: reminders that
are still to come, and jobs that aren't finished. It goes to the dispatcher alone, and says no more than it needs.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Integer, Uuid, bindparam, exists, not_, or_, select

from services.platform.db import Row, Statement, Transaction
from services.platform.outbox import add_events_for
from services.task.models import jobs, reminders, tasks
from taskflow.event.v1.event_pb2 import Event
from taskflow.task.v1 import job_pb2

# The consumer that starts workflows.
_DISPATCHER = "dispatcher"
# Rows read at a time.
_ROWS = 1000
_FIRST = UUID(int=0)

_after = bindparam("after", type_=Uuid)
_limit = bindparam("limit", type_=Integer)
# Those of which the ledger doesn't say what became of the last reminder, the one nearest to the deadline.
_TO_REMIND = Statement(
    select(tasks.c.id, tasks.c.workspace_id, tasks.c.revision, tasks.c.due_at)
    .where(
        tasks.c.id > _after,
        tasks.c.due_at.is_not(None),
        tasks.c.finished_at.is_(None),
        tasks.c.deleted_at.is_(None),
        not_(
            exists().where(
                reminders.c.task_id == tasks.c.id,
                reminders.c.due_at == tasks.c.due_at,
                reminders.c.offset_seconds == bindparam("last_offset", type_=Integer),
            )
        ),
    )
    .order_by(tasks.c.id)
    .limit(_limit)
)
_UNFINISHED = Statement(
    select(
        jobs.c.id,
        jobs.c.workspace_id,
        jobs.c.task_id,
        jobs.c.kind,
        jobs.c.attempt,
        jobs.c.revision,
        tasks.c.text_revision,
    )
    .join(tasks, tasks.c.id == jobs.c.task_id)
    .where(
        jobs.c.id > _after,
        or_(
            jobs.c.state == job_pb2.JOB_STATE_PENDING,
            jobs.c.state == job_pb2.JOB_STATE_PROCESSING,
        ),
    )
    .order_by(jobs.c.id)
    .limit(_limit)
)


async def remind_again(tx: Transaction, offsets: Sequence[int]) -> int:
    """Has the reminders of open tasks planned anew, `offsets` seconds before deadlines; returns of how many tasks."""
    if not offsets:
        return 0
    count = 0
    after = _FIRST
    while rows := await tx.all(_TO_REMIND, after=after, limit=_ROWS, last_offset=min(offsets)):
        await add_events_for(tx, _DISPATCHER, map(_due, rows))
        count, after = count + len(rows), rows[-1].id
    return count


async def process_again(tx: Transaction) -> int:
    """Has all jobs processed that aren't finished; returns how many."""
    count = 0
    after = _FIRST
    while rows := await tx.all(_UNFINISHED, after=after, limit=_ROWS):
        await add_events_for(tx, _DISPATCHER, map(_asked, rows))
        count, after = count + len(rows), rows[-1].id
    return count


def _due(row: Row) -> Event:
    event = _event("task.updated", row)
    event.task_updated.task.id = str(row.id)
    event.task_updated.task.revision = row.revision
    event.task_updated.task.due_time.FromDatetime(row.due_at)
    event.task_updated.changed_fields.paths.append("due_time")
    return event


def _asked(row: Row) -> Event:
    if row.kind == job_pb2.JOB_KIND_ENRICHMENT:
        event = _event("task.suggestions_requested", row)
        event.aggregate_id = str(row.task_id)
        event.task_suggestions_requested.task_id = str(row.task_id)
        event.task_suggestions_requested.text_revision = row.text_revision
        return event
    event = _event("job.updated", row)
    job = event.job_changed.job
    job.id, job.kind, job.attempt = str(row.id), row.kind, row.attempt
    # Also one that was being processed: a worker that finds it so goes on with it.
    job.state = job_pb2.JOB_STATE_PENDING
    return event


def _event(what: str, row: Row) -> Event:
    return Event(
        type=what,
        workspace_id=str(row.workspace_id),
        aggregate_id=str(row.id),
        revision=row.revision,
    )
