"""After a restored backup or the loss of Temporal's state: starts unfinished jobs again."""

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from services.platform.data.db import Statement, Transaction
from services.platform.events.outbox import add_events_for
from services.platform.events.subjects import DISPATCHER
from services.task.jobs import events, queries
from services.task.jobs.queries import JobRow, UnfinishedEnrichment
from services.task.suggestions import events as suggestion_events
from taskflow.event.v1.event_pb2 import Event

_BATCH = 1000

R = TypeVar("R", JobRow, UnfinishedEnrichment)


async def start_again(tx: Transaction) -> int:
    """Sends the dispatcher an event for each unfinished job; returns the number of jobs."""
    payload_jobs = await _send(tx, queries.UNFINISHED_PAYLOAD_JOBS, _start)
    return payload_jobs + await _send(tx, queries.UNFINISHED_ENRICHMENTS, _request)


async def _send(tx: Transaction, statement: Statement[R], event_of: Callable[[R], Event]) -> int:
    count = 0
    after = UUID(int=0)
    while rows := await tx.all(statement, after=after, limit=_BATCH):
        # No other consumer gets the repeated events.
        await add_events_for(tx, DISPATCHER, map(event_of, rows))
        count, after = count + len(rows), rows[-1].id
    return count


def _start(job: JobRow) -> Event:
    # The event shows the job as pending, because the dispatcher starts only pending jobs. If the job was processing,
    # the worker claims the same attempt again.
    return events.updated(job._replace(state=queries.PENDING))


def _request(row: UnfinishedEnrichment) -> Event:
    return suggestion_events.requested(
        row.task_id, row.workspace_id, row.revision, row.text_revision
    )
